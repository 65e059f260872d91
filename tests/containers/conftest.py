"""The engine, the registries and the images, as fixtures of this folder."""

from engine import authority, base, engine, locked_registry, registry, runner, token_registry

__all__ = ["authority", "base", "engine", "locked_registry", "registry", "runner", "token_registry"]
