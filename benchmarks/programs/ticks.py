"""Publishes the time, again and again, with a pause between; then many values in a tight loop."""

import time


def main(backend, user_messenger, count, pause):
    costs = []
    for _ in range(count):
        if pause:
            time.sleep(pause)
        start = time.perf_counter_ns()
        user_messenger.publish([time.monotonic_ns(), 0.5])
        costs.append(time.perf_counter_ns() - start)
    return costs
