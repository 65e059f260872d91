"""What several suites share: a runtime, real from end to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from neartime_server.testing import Runtime


# A shell that starts the tests in its background has its children ignore Ctrl-C, and theirs. Those of tests must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """NATS server, API server and workers of this test process's own. Whoever kills a part of one makes another."""
    from neartime_server.testing import Runtime  # the peers' environment has no server

    with Runtime() as runtime:
        yield runtime


CAN_NOT_BE_HAD = "this machine has "
"""What the reason begins with of a test that lacks what can't be installed."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, where all else that the tests need is installed, a test that was skipped has failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or session.exitstatus:
        return
    if any(CAN_NOT_BE_HAD not in str(skipped.longrepr) for skipped in reporter.stats.get("skipped", [])):
        reporter.write_line("tests were skipped, which counts as a failure where CI is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
