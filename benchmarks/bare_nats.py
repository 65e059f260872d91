"""The floor of interim results: two processes, bare nats-py, a JetStream publish here and a push consumer there."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from neartime.contract import ids, subjects
from neartime_server.bus import Bus, Keys
from neartime_server.settings import Settings
from neartime_server.testing import Runtime

WINDOW = 256


async def publish(url: str, credential: str, inbox: str, subject: str, count: int, pause: float) -> None:
    """With a pause: one publish at a time, each awaited. Without: pipelined, a window of acknowledgements behind."""
    connection = await nats.connect(
        url, user_credentials=nats.aio.client.RawCredentials(credential), inbox_prefix=inbox
    )
    stream = connection.jetstream()
    waiting: list[asyncio.Future[object]] = []
    for _ in range(count):
        body = json.dumps([time.monotonic_ns(), 0.5]).encode()
        if pause:
            await asyncio.sleep(pause)
            await stream.publish(subject, json.dumps([time.monotonic_ns(), 0.5]).encode())
            continue
        waiting.append(await stream.publish_async(subject, body))
        if len(waiting) >= WINDOW:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    await connection.close()


async def _measure(runtime: Runtime, count: int, pause: float) -> list[int]:
    """When each message arrived beside what it says of when it was sent: pairs of nanoseconds, flat."""
    keys = Keys.load(runtime.home / "secret")
    bus = Bus(Settings.read({}, home=runtime.home), keys)
    await bus.connect(runtime.nats_url)
    instance, session, worker, job = (ids.new_id() for _ in range(4))
    await bus.add_instance(instance)
    writer, _ = bus.worker_credential(instance, worker, session, 600)
    reader = bus.reader_access(instance, 600)
    connection = await nats.connect(
        runtime.nats_url, user_credentials=nats.aio.client.RawCredentials(reader.credential), inbox_prefix=reader.inbox
    )
    subject, deliver = subjects.event(session, job, "interim"), f"{reader.inbox}.bare"
    seen: list[int] = []
    done = asyncio.Event()

    async def hear(message: Msg) -> None:
        seen.extend((time.monotonic_ns(), json.loads(message.data)[0]))
        if len(seen) == 2 * count:
            done.set()

    await connection.subscribe(deliver, cb=hear, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await connection.jetstream().add_consumer(
        subjects.JOBS,
        ConsumerConfig(
            name=secrets.token_hex(8),
            deliver_subject=deliver,
            filter_subject=subject,
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            mem_storage=True,
            num_replicas=1,
        ),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_nats", stdin=asyncio.subprocess.PIPE
    )
    arguments = [writer.url, writer.credential, writer.inbox, subject, count, pause]
    await process.communicate(json.dumps(arguments).encode())
    await asyncio.wait_for(done.wait(), 60)
    await connection.close()
    await bus.remove_instance(instance)
    await bus.close()
    return seen


def _run(
    runtime: Runtime, count: int, pause: float, figure: Callable[[list[int], list[int]], list[float]]
) -> list[float]:
    seen = asyncio.run(_measure(runtime, count, pause))
    return figure(seen[0::2], seen[1::2])


def latencies(runtime: Runtime, count: int, pause: float) -> list[float]:
    """Milliseconds from publish to the subscriber's callback."""
    return _run(runtime, count, pause, lambda heard, sent: [(a - b) / 1e6 for a, b in zip(heard, sent, strict=True)])


def throughput(runtime: Runtime, count: int) -> float:
    """Messages a second, from the first publish to the last callback."""
    return _run(runtime, count, 0, lambda heard, sent: [count / ((heard[-1] - sent[0]) / 1e9)])[0]


if __name__ == "__main__":
    asyncio.run(publish(*json.load(sys.stdin)))
