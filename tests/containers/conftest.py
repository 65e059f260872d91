"""The engine and the registries, as fixtures of this folder."""

from engine import authority, engine, locked_registry, registry, token_registry

__all__ = ["authority", "engine", "locked_registry", "registry", "token_registry"]
