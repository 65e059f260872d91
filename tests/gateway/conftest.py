"""The engine, a registry and an image of Python, for the worker that looks around in a container."""

from engine import authority, base, engine, registry

__all__ = ["authority", "base", "engine", "registry"]
