"""What to do where a build failed for a reason that is not the program's."""

from __future__ import annotations

import errno
from typing import Final

AGAIN: Final = "upload it again; where it stays so, ask the operator to look at"
REGISTRY: Final = f"{AGAIN} the registry"
ENGINE: Final = f"{AGAIN} the Docker Engine"
SERVER: Final = f"{AGAIN} the server's machine"
ROOM: Final = "ask the operator to make room on that disk, and upload it again"
_FULL: Final = ("no space left on device", "disk quota exceeded")


def solution_of(error: Exception | str, otherwise: str = SERVER) -> str:
    """Room, where there was none for what was made; otherwise the other one."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ROOM if full or any(words in str(error).lower() for words in _FULL) else otherwise
