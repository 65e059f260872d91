from __future__ import annotations

from databases import postgres

__all__ = ["postgres"]
