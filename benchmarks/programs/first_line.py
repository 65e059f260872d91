"""Says when main() began: nanoseconds of the machine's monotonic clock, which all processes share."""

import time


def main(backend, user_messenger, salt=0):
    return time.monotonic_ns()
