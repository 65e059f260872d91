"""What several suites share: a runtime, real from end to end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neartime_server.testing import Runtime


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """NATS server, API server and workers of this test process's own. Whoever kills a part of one makes another."""
    with Runtime() as runtime:
        yield runtime
