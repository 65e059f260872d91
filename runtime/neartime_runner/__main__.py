"""`python -m neartime_runner`: what is started inside a program's environment.

zygote      forks workers for the embedded runtime
worker      one worker, for a container
gateway     holds a backend with its credential, and runs circuits for workers
backends    describes backends to a server that does not import Qiskit
version     says which contract it speaks, and which Python runs it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from pathlib import Path

from neartime.errors import NeartimeError

PATIENCE = 120
"""Seconds that a worker waits for its launch document on standard input, unless it is told to wait longer."""


def main(arguments: list[str] | None = None) -> int:
    if arguments is None and sys.path[0] in ("", str(Path.cwd())):  # `python -m` puts it there
        del sys.path[0]  # what lies in the folder where this is started is no part of any program
    given = _parser().parse_args(arguments)
    try:
        if given.command == "zygote":
            from neartime_runner import zygote

            zygote.serve(given.socket, given.alone)
        elif given.command == "worker":
            return _worker(given.launch, given.answer, given.patience)
        elif given.command == "gateway":
            from neartime_runner import gateway, processes

            processes.leave(gateway.serve(given.launch, given.lock))  # a provider that hangs has threads that don't end
        elif given.command == "version":
            _version()
        else:
            _backends(here=not given.elsewhere)
    except NeartimeError as error:
        print(f"neartime_runner: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m neartime_runner", description="Runs programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    zygote = commands.add_parser("zygote", help="fork workers on request, until SIGTERM")
    zygote.add_argument("--socket", type=Path, required=True, help="the Unix socket to listen on")
    zygote.add_argument("--home", type=Path, help="the runtime's folder, by which its processes can be found")
    zygote.add_argument("--alone", type=float, default=900, help="seconds without a server after which it ends (900)")
    worker = commands.add_parser("worker", help="run one worker to its end")
    worker.add_argument("launch", metavar="LAUNCH", help="its launch document, a JSON file; - is standard input")
    worker.add_argument("--answer", action="store_true", help="tell on standard output that it has been read")
    patience = f"seconds that it waits for a document on standard input ({PATIENCE})"
    worker.add_argument("--patience", type=int, default=PATIENCE, metavar="SECONDS", help=patience)
    gateway = commands.add_parser("gateway", help="serve one backend to workers, until SIGTERM")
    gateway.add_argument("launch", type=Path, metavar="LAUNCH", help="its launch document, a JSON file")
    gateway.add_argument("--lock", type=Path, help="a file that it holds while it lives")
    backends = commands.add_parser(
        "backends", help="describe backends: a specification in, a configuration out, a line each"
    )
    backends.add_argument("--elsewhere", action="store_true", help="they will run on other machines than this one")
    commands.add_parser("version", help="print contract version and Python version as JSON")
    return parser


def _worker(name: str, answers: bool, patience: int) -> int:
    if os.getpid() == 1:  # the first process of a container hears no signal that it does not ask for
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from neartime.contract.launch import Launch
    from neartime_runner.worker import supervise

    def take() -> Launch:
        if name != "-":
            return Launch.model_validate_json(Path(name).read_text())
        signal.signal(signal.SIGALRM, lambda *_: _give_up(patience))
        signal.alarm(patience)  # a server that dies while it starts a worker leaves one that nobody knows
        launch = Launch.model_validate_json(sys.stdin.readline())
        signal.alarm(0)
        if answers:
            print(launch.worker_id, flush=True)
        return launch

    return supervise(take)


def _give_up(patience: int) -> None:
    print(f"neartime_runner: nobody has given it a launch document within {patience} s", file=sys.stderr, flush=True)
    os._exit(3)


def _version() -> None:
    from neartime.contract.version import CONTRACT_VERSION

    print(json.dumps({"contract": CONTRACT_VERSION, "python": platform.python_version()}))


def _backends(*, here: bool) -> None:
    from neartime_runner import backend

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a factory prints is no answer
    backend.answer(sys.stdin, answers, here=here)


if __name__ == "__main__":
    sys.exit(main())
