"""The embedded runtime: NATS server and API server of one home folder, under a watchdog.

processes  who a process is, which ones belong to a home, how they end
server     the API server as a process
watchdog   starts both servers, restarts what dies, writes down where they are
commands   `neartime up` and `neartime down`

A home has one watchdog at most: it holds the lock `run/watchdog.lock` for as long as it lives. Whoever brings a home up
or down holds `run/change.lock` meanwhile, so that the second one waits for the first.
"""

from neartime_server.embedded.server import ApiServer
from neartime_server.embedded.watchdog import Up, Watchdog

__all__ = ["ApiServer", "Up", "Watchdog"]
