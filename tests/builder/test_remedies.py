"""What to do about a build that failed, by what went wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from neartime_server.builder import remedies, uv
from neartime_server.errors import BuildFailed


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        "failed to copy files: write /opt/x: no space left on device",
    ],
)
def test_where_there_is_no_room_that_is_the_remedy_whoever_lacks_it(error: OSError | str) -> None:
    assert remedies.solution_of(error, remedies.ENGINE) == remedies.ROOM


def test_other_faults_have_the_remedy_of_the_part_that_has_them() -> None:
    assert remedies.solution_of("EOF", remedies.REGISTRY) == remedies.REGISTRY
    assert remedies.solution_of(PermissionError("no")) == remedies.SERVER


async def test_an_index_that_is_away_is_no_fault_of_the_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(BuildFailed) as caught:
        await uv.resolve(uv.this_python(), ["not-kept-here==1"], tmp_path / "log")
    assert "127.0.0.1:9" in caught.value.log
    assert caught.value.solution == uv.INDEX
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    with pytest.raises(BuildFailed) as caught:
        await uv.resolve(uv.this_python(), ["six==1.16.0", "six==1.15.0"], tmp_path / "log")
    assert caught.value.solution is None
