"""A job before one's eyes: its status, the time, interim results as they come, and its result."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from neartime.cli.console import Output, wire
from neartime.errors import JobError, JobTimeout
from neartime.job import RuntimeJob

SHOWN = 500
"""Characters of an interim result that a line shows."""
RESULT_LINES = 40
"""Lines of a result that people are shown: a screen or so."""
RESULT_CHARACTERS = 4096
"""Characters of them."""


def follow(job: RuntimeJob, output: Output, timeout: float | None = None) -> None:
    """Shows the job until it has ended, then its result.

    Raises:
        JobError: it did not complete.
        JobTimeout: it has not ended in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        if output.as_json:
            _as_lines(job, output, timeout)
        else:
            _for_people(job, timeout)
        left = None if deadline is None else max(deadline - time.monotonic(), 0.1)
        show_result(job, output, left, event=True)
    except JobTimeout as error:
        raise _goes_on(job, timeout) from error
    except KeyboardInterrupt:
        name = job.job_id()
        output.error.print(
            f"\nJob {name} goes on. Watch it: neartime job watch {name}   End it: neartime job cancel {name}",
            soft_wrap=True,
        )
        raise


def show_result(job: RuntimeJob, output: Output, timeout: float | None = None, *, event: bool = False) -> None:
    """Waits for the job and shows its result; as an event of a stream of JSON lines, or alone."""
    try:
        value = job.result(timeout)
    except JobTimeout as error:
        raise _goes_on(job, timeout) from error
    except JobError as error:
        if output.as_json and event:
            code = error.reason_code.value if error.reason_code else None
            status = job.status().value
            output.line({"event": "error", "status": status, "reason": job.error_message(), "reason_code": code})
        raise
    if output.as_json:
        output.line({"event": "result", "value": wire(value)} if event else wire(value))
    elif value is not None or not event:
        text, whole = abbreviated(value)
        print(f"result: {text}" if event else text, flush=True)
        if not whole:
            output.note(f"The result is abbreviated; all of it: neartime job result {job.job_id()} --json")


def abbreviated(value: Any) -> tuple[str, bool]:
    """A result as people read it, and whether that is all of it."""
    # What has more elements, or longer text, is too long in any case, and is not written out only to be measured.
    text = _pretty(value, RESULT_LINES + 1, RESULT_CHARACTERS + 1)
    whole = _fits(text)
    for most in (20, 10, 5, 3):
        if not _fits(text):
            text = _pretty(value, most, SHOWN)
    if not _fits(text):
        text = "\n".join([*text[:RESULT_CHARACTERS].splitlines()[: RESULT_LINES - 1], "…"])
    return text, whole


def _fits(text: str) -> bool:
    return len(text) <= RESULT_CHARACTERS and text.count("\n") < RESULT_LINES


def _as_lines(job: RuntimeJob, output: Output, timeout: float | None) -> None:
    number = 0
    for event in job.events(timeout):
        if event.kind == "interim":
            number += 1
            said = {"event": "interim", "index": number, "time": event.time, "value": wire(event.value)}
            output.line(said)
        elif event.status is not None:
            output.line({"event": "status", "status": event.status.value, "time": event.time})


def _for_people(job: RuntimeJob, timeout: float | None) -> None:
    number = 0
    with _progress() as (say, progress):
        say("Queued")
        for event in job.events(timeout):
            if event.kind == "interim":
                number += 1
                _print(f"{number:>5}  {_short(event.value)}", progress)
                say(f"Running, {number} interim results")
            elif event.status is not None:
                say(event.status.value)


@contextmanager
def _progress() -> Iterator[tuple[Any, Console | None]]:
    """(a function that says where the job stands, the console to print on beside it where they share a terminal)."""
    if not sys.stderr.isatty():
        yield (lambda text: None), None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        yield (
            lambda text: progress.update(task, description=text),
            progress.console if sys.stdout.isatty() else None,
        )


def _print(line: str, console: Console | None) -> None:
    if console is None:
        print(line, flush=True)
    else:
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _pretty(value: Any, most_elements: int, most_characters: int) -> str:
    from rich.pretty import pretty_repr

    return value if isinstance(value, str) else pretty_repr(value, max_length=most_elements, max_string=most_characters)


def _goes_on(job: RuntimeJob, timeout: float | None) -> JobTimeout:
    name = job.job_id()
    return JobTimeout(
        f"job {name} gave no result within {timeout or 0:g} s, and is left alone. "
        f"Watch it: neartime job watch {name}   End it: neartime job cancel {name}"
    )
