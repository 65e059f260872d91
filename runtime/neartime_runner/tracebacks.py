"""Tracebacks as the program's author wants to read them: without the frames of the runner around main()."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Final

REASON_LIMIT: Final = 32 << 10
"""Characters of a reason; the middle of a longer one is left out."""
_OWN: Final = (str(Path(__file__).parent), str(Path(traceback.__file__).parent / "importlib"), "<frozen importlib")
_OWN_LINES: Final = re.compile(
    rf"""  File "(?:{re.escape(_OWN[0])}[^"]*|<frozen runpy>)", line \d+ in |Extension modules: """
)
"""As `faulthandler` writes them; Python's own tracebacks have a comma after the number."""
_LIBRARY: Final = str(Path(__file__).parent.parent / "neartime")


def summary(error: BaseException) -> str:
    """`Type: message`."""
    return "".join(traceback.TracebackException(type(error), error, None).format_exception_only()).strip()


def of_program(error: BaseException, folder: str) -> str:
    """The traceback of the program's frames, and of the libraries that it called; its own files as it names them."""
    shown = traceback.TracebackException.from_exception(error)
    _trim(shown, folder.rstrip("/") + "/", set())
    return "".join(shown.format()).rstrip()


def reason(error: BaseException, folder: str) -> str:
    """What a job's error says of an exception: its type and message first, then the traceback."""
    return shortened(f"{summary(error)}\n{of_program(error, folder)}")


def shortened(text: str) -> str:
    """The text of a reason, without the middle of a long one."""
    if len(text) <= REASON_LIMIT:
        return text
    half = REASON_LIMIT // 2
    return f"{text[:half]}\n … ({len(text) - REASON_LIMIT} characters left out)\n{text[-half:]}"


def _trim(shown: traceback.TracebackException, folder: str, seen: set[int]) -> None:
    if id(shown) in seen:
        return
    seen.add(id(shown))
    frames = list(shown.stack)
    while frames and frames[0].filename.startswith(_OWN):
        del frames[0]
    while frames and frames[-1].filename.startswith((*_OWN, _LIBRARY)):
        del frames[-1]
    for frame in frames:
        _ = frame.line  # read now: it is looked up by the file's name
        if frame.filename.startswith(folder):
            frame.filename = frame.filename[len(folder) :]
    shown.stack[:] = frames
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if other is not None:
            _trim(other, folder, seen)


def is_own(line: str) -> bool:
    """Whether a line of a log is one of those by which `faulthandler` shows the runner around main(), and no more."""
    return _OWN_LINES.match(line) is not None


def printable(text: str) -> str:
    """The text without what UTF-8 can't carry."""
    return text.encode("utf-8", "backslashreplace").decode()
