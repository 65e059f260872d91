"""Ids of jobs, sessions, programs, program versions and workers: one alphabet, one length, ordered by time.

Twenty characters of `[a-z0-9]`: nine of the time in milliseconds (base 36, good until the year 5188) and eleven random
ones (56 bits). Such an id is safe as it stands in a URL, a NATS subject token, a Kubernetes name and an image tag.
"""

import re
import secrets
import time

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
LENGTH = 20
_TIME_DIGITS = 9
_ID = re.compile(rf"[a-z0-9]{{{LENGTH}}}")


def _base36(value: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        value, digit = divmod(value, 36)
        text = ALPHABET[digit] + text
    return text


def new_id(now: float | None = None) -> str:
    """A new id; `now` is the Unix time in seconds, the clock's when it is left out."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    random_digits = LENGTH - _TIME_DIGITS
    return _base36(milliseconds, _TIME_DIGITS) + _base36(secrets.randbelow(36**random_digits), random_digits)


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id. Everything that enters a subject, a path or a name is asked this first."""
    return _ID.fullmatch(text) is not None
