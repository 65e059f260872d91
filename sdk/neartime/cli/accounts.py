"""`neartime account`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from neartime import config
from neartime.cli.console import Caller, Json, Output
from neartime.client import RuntimeService

app = typer.Typer(help="Accounts: which server, and in whose name.", no_args_is_help=True)


@app.command()
def save(
    url: Annotated[str, typer.Argument(help="Of the server.", show_default=False)],
    name: Annotated[
        str, typer.Option(help="Under which name to keep it; the default's is used where none is named.")
    ] = config.DEFAULT_ACCOUNT,
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read the token from standard input.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Ask the server whether the token holds.")] = True,
    as_json: Json = False,
) -> None:
    """Save a server's URL and token, in a file that you alone can read.

    The token is asked for: as an option it would stand in the list of processes and in the shell's history.
    """
    token = sys.stdin.readline() if token_stdin else typer.prompt("Token", hide_input=True, err=True)
    account = config.Account(url, token.strip())
    if check:
        with RuntimeService(account.url, account.token) as service:
            service.usage()
    path = config.save(account, name)
    text = f"account {name!r} is saved in {path}"
    if name != config.DEFAULT_ACCOUNT:
        text += f"\nUse it: neartime --account {name} …, or RuntimeService(instance={name!r})"
    Output(as_json).show({"name": name, "url": account.url, "file": str(path)}, text)


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show which server would be used, and the saved accounts; never a token."""
    caller: Caller = context.find_object(Caller) or Caller()
    used = config.find(caller.url, None, caller.account)
    saved = {name: account.url for name, account in config.saved().items()}
    lines = [f"{used.url}, from {used.source}", *(f"  saved {name!r}: {url}" for name, url in saved.items())]
    Output(as_json).show({"url": used.url, "source": used.source, "saved": saved}, "\n".join(lines))
