"""The builder makes what a program version runs in: an environment and a folder of this machine, or an image."""

from neartime_server.builder.local import LocalBuilder
from neartime_server.builder.protocol import Builder, Built, Source, Tell, tell_nobody

__all__ = ["Builder", "Built", "LocalBuilder", "Source", "Tell", "tell_nobody"]
