"""`python -m neartime_server serve` runs the API server; `up` and `down` bring up and end the embedded runtime: that
server and a NATS server under a watchdog; `admin …` makes and ends instances, users and tokens; `door` leads workers
in containers to NATS.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from neartime_server.errors import AdminError, ConfigurationError
from neartime_server.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 for a command that can't be carried out, 2 for wrong usage or settings."""
    parser = argparse.ArgumentParser(prog="python -m neartime_server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the API server")
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", type=int, help="TCP port; 0 takes a free one")
    serve.add_argument("--ready-file", type=Path, help="where to write URL and process id; run/server.json in home")
    up = commands.add_parser("up", help="bring up the embedded runtime; prints JSON")
    up.add_argument("--port", type=int, help="TCP port; 0 takes a free one")
    up.add_argument("--foreground", action="store_true", help="until SIGTERM or Ctrl-C")
    up.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    commands.add_parser("down", help="end the embedded runtime; prints JSON")
    door = commands.add_parser("door", help="relay from a Unix socket to NATS, until nobody needs it")
    door.add_argument("--socket", type=Path, required=True, help="the socket to listen on")
    door.add_argument(
        "--to", metavar="HOST:PORT", action="append", required=True, help="where NATS is; may be repeated"
    )
    door.add_argument("--home", type=Path, help="the runtime's folder, by which its processes can be found")
    door.add_argument("--alone", type=float, default=900, help="seconds without a connection after which it ends (900)")
    commands.add_parser("check", help="look at what the settings name for containers; prints JSON")
    commands.add_parser("admin", help="instances, users and tokens", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "admin":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    said = "Error: " if options.command == "admin" else ""  # `neartime` hands it on as it is, and marks others itself
    try:
        if options.command == "admin":
            from neartime_server.admin import main as administer

            return administer(rest)
        if options.command == "door":
            from neartime_server.executors import door as doors

            return doors.serve(options.socket, options.to, options.alone)
        if options.command == "check":
            from neartime_server.containers import check

            print(json.dumps(check(Settings.read())))
            return 0
        if options.command == "up":
            from neartime_server.embedded.commands import up as bring_up

            if told := bring_up(options.port, foreground=options.foreground, ready_fd=options.ready_fd):
                print(json.dumps(told))
            return 0
        if options.command == "down":
            from neartime_server.embedded.commands import down as bring_down

            print(json.dumps(bring_down()))
            return 0
        logging.basicConfig(
            level=os.environ.get("NEARTIME_LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.getLogger("alembic").setLevel(logging.WARNING)  # that the tables are up to date is no news
        from neartime_server.app import serve as run

        run(Settings.read(host=options.host, port=options.port), options.ready_file)
    except ConfigurationError as error:
        print(f"{said}{error}", file=sys.stderr)
        return 2
    except AdminError as error:
        print(f"{said}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
