"""What several suites share: a runtime, real from end to end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from neartime_server.testing import Runtime


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """NATS server, API server and workers of this test process's own. Whoever kills a part of one makes another."""
    with Runtime() as runtime:
        yield runtime


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where all that the tests need can be had, a test that was skipped has failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        reporter.write_line("tests were skipped, which counts as a failure where CI is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
