"""What commands share: who calls, and how to answer people and scripts."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from neartime.client import RuntimeService

NO_WRAP = ("id", "status", "state", "created")
"""Headings of columns that are no use in two lines, or cut."""
PIPE_WIDTH = 1_000_000
"""Characters of a line where nobody's terminal ends it."""
Json = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, and nothing else.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most; the job goes on after that.", min=0)]


@dataclass
class Caller:
    """The options before the command."""

    url: str | None = None
    account: str | None = None


def service(context: typer.Context) -> RuntimeService:
    """The service of this call; closed when the command ends."""
    caller: Caller = context.find_object(Caller) or Caller()
    made = RuntimeService(url=caller.url, instance=caller.account)
    context.call_on_close(made.close)
    return made


class Output:
    """Standard output, as people or as scripts want it."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        self.error = Console(stderr=True, highlight=False)

    def show(self, data: Any, human: RenderableType) -> None:
        """`data` as JSON, or `human`."""
        if self.as_json:
            self.line(data)
        elif isinstance(human, str):
            self.out.print(human, soft_wrap=True, markup=False, emoji=False)
        elif sys.stdout.isatty():
            self.out.print(human)
        else:  # in a pipe, nothing stands behind the last word of a line
            with self.out.capture() as said:
                self.out.print(human)
            print("\n".join(line.rstrip() for line in said.get().splitlines()))

    def line(self, data: Any) -> None:
        """One line of JSON, at once: a reader may wait for it."""
        print(json.dumps(data, default=_plain), flush=True)

    def note(self, text: str) -> None:
        """Something for people, beside the output."""
        if not self.as_json:
            self.error.print(text, style="dim", soft_wrap=True, markup=False, emoji=False)

    def table(self, data: list[dict[str, Any]], columns: dict[str, str], empty: str) -> None:
        """Rows of which `columns` (key: heading) are shown, those that are empty in all left out; all keys in JSON.

        In a pipe, a row is a line, however long.
        """
        if self.as_json:
            self.line(data)
            return
        if not data:
            self.note(empty)
            return
        shown = {
            heading: cells
            for key, heading in columns.items()
            if any(cells := [" ".join(_cell(row.get(key)).split("\n")) for row in data])
        }
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading, cells in shown.items():
            whole = heading in NO_WRAP
            width = max(map(len, (heading, *cells))) if whole else None
            table.add_column(heading, no_wrap=whole or not sys.stdout.isatty(), min_width=width)
        for row in zip(*shown.values(), strict=True):
            table.add_row(*map(Text, row))  # no markup: it is anybody's text
        self.show(None, table)


def facts(rows: dict[str, Any]) -> str:
    """Names and values below each other, empty ones left out; further lines of a value stand below its first."""
    lines = []
    for name, value in rows.items():
        first, *others = _cell(value).rstrip().split("\n")
        if first:
            lines += [f"{name:>14}  {first}", *(f"{'':16}{other}".rstrip() for other in others)]
    return "\n".join(lines)


def moment(time: datetime) -> str:
    """A time of today as its hour, another one as its day."""
    local = time.astimezone()
    return f"{local:%H:%M:%S}" if local.date() == datetime.now().astimezone().date() else f"{local:%Y-%m-%d}"


def wire(value: Any) -> Any:
    """A value as JSON: the wire form, in which circuits and arrays are tagged."""
    from neartime import codec

    return json.loads(codec.encode(value))


def _plain(value: Any) -> str:
    """What JSON lacks: a time as the API writes it."""
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
