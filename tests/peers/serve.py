"""A runtime for the peers' tests, run by the main environment's Python: theirs has no server.

    python tests/peers/serve.py

It says where it listens, and two tokens, as one line of JSON; it ends when its standard input does.
"""

from __future__ import annotations

import json
import sys

from neartime_server.testing import Runtime


def main() -> None:
    with Runtime() as runtime:
        other = runtime.new_instance("other")
        print(json.dumps({"url": runtime.url, "token": runtime.token, "other": other}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
