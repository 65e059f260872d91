"""Fixtures of the store's suite."""

from databases import database_url, postgres, store

__all__ = ["database_url", "postgres", "store"]
