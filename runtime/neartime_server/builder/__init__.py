"""The builder makes what a program version runs in: its environment, and the folder of its files."""

from neartime_server.builder.environments import Environment, Environments
from neartime_server.builder.programs import materialize

__all__ = ["Environment", "Environments", "materialize"]
