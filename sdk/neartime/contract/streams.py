"""A client's access to its instance's event streams: the answer to POST /streams/token."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class StreamAccess(BaseModel):
    """A short-lived NATS credential that reads the instance's events and can write none."""

    model_config = ConfigDict(frozen=True)

    url: str
    """Of the NATS server, as the client reaches it."""
    credential: str = Field(repr=False)
    """A NATS credentials file's text: user JWT and seed."""
    inbox: str
    """The inbox prefix that the credential allows."""
    expires: datetime
    """The client opens a fresh connection with a fresh credential before this."""
