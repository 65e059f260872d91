"""Counts down, then greets."""

import time

from pydantic import BaseModel, Field


class Inputs(BaseModel):
    """What the program takes. Checked where it is submitted and again where it runs."""

    name: str = Field("world", min_length=1, description="Whom to greet")
    count: int = Field(3, ge=0, le=100, description="From where to count down")
    pause: float = Field(0.1, ge=0, le=10, description="Seconds between two numbers")


def main(backend, user_messenger, inputs: Inputs) -> str:
    """Every publish reaches the caller's callback while this runs; what is returned is the result."""
    for number in range(inputs.count, 0, -1):
        user_messenger.publish(number)
        time.sleep(inputs.pause)
    return f"Hello, {inputs.name}, from {backend.name}!"
