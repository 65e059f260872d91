"""Ways to forge, hear or break what is not one's own: each is tried, and fails."""

from __future__ import annotations

import asyncio
import json
import secrets
import time

import nats.errors
import pytest
from bus.conftest import World, until
from nats.js.errors import APIError

from neartime.contract import launch, subjects
from neartime.contract.events import Envelope, StatusEvent
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.contract.launch import Beat, Cancel, Fetch
from neartime.stream import Event, EventStream
from neartime_server.bus import Bus, Keys
from neartime_server.bus.accounts import own_access
from neartime_server.errors import NoAnswer

NOW = "2026-01-01T00:00:00Z"


def status(status: JobStatus) -> bytes:
    return StatusEvent.model_validate({"status": status, "time": NOW}).model_dump_json().encode()


async def say(world: World, job: str, kind: str, sequence: int, body: bytes) -> None:
    await world.bus.publish(
        world.instance, world.session, job, kind, Envelope(world.worker_id, 1, sequence, sequence), body
    )


async def read(world: World, job: str) -> tuple[list[Event], int]:
    """What a client sees of a job until it has ended, and how much it dropped."""

    async def access() -> object:
        return world.bus.reader_access(world.instance, 60)

    stream = EventStream(access)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(10):
            return [one async for one in stream.events(session_id=world.session, job_id=job)], stream.dropped
    finally:
        await stream.close()


async def test_an_acknowledgement_that_a_worker_sends_to_another_job_is_dropped_by_every_reader(world: World) -> None:
    worker, _ = await world.worker()
    victim = new_id()
    await say(world, victim, "interim", 1, b"1")
    await worker.publish(
        subjects.event(world.session, world.job, "interim"), b"0",
        reply=subjects.event(world.session, victim, "interim"),
    )  # fmt: skip
    await worker.flush()
    await say(world, victim, "interim", 2, b"2")
    await say(world, victim, "status", 3, status(JobStatus.COMPLETED))
    events, dropped = await read(world, victim)
    assert [event.body for event in events if event.kind == "interim"] == [b"1", b"2"]
    assert dropped == 1
    found = []
    async for item in world.bus.events(world.instance, subjects.JOBS):
        found.append(item if isinstance(item, int) else item.kind)
        if found[-1] == "status":
            break
    assert found == ["interim", 2, 3, "interim", "status"]
    assert world.bus.dropped == 2  # the worker's own event had no envelope either


async def test_a_message_that_a_client_makes_the_broker_send_to_a_worker_is_no_command(world: World) -> None:
    worker, _ = await world.worker()
    client, inbox = await world.reader()
    heard: list[dict[str, str] | None] = []
    arrived = asyncio.Event()

    async def hear(message: object) -> None:
        heard.append(message.headers)  # type: ignore[attr-defined]
        arrived.set()

    control = subjects.control(world.worker_id)
    await worker.subscribe(control, cb=hear)
    await worker.flush()
    command = launch.encode_command(Cancel(job_id=world.job))
    fake = Envelope(world.worker_id, 1, 1).headers(world.job, subjects.JOBS)
    fake |= launch.signed_headers("00" * 32, control, 1, command, b"1")
    await worker.publish(subjects.event(world.session, world.job, "interim"), b"1", headers=fake)
    name = "deputy"
    config = {"name": name, "deliver_subject": control, "ack_policy": "none", "deliver_policy": "all"}
    request = json.dumps({"stream_name": subjects.JOBS, "config": config}).encode()
    await client.publish(f"$JS.API.CONSUMER.CREATE.JOBS.{name}", request, reply=f"{inbox}.answer")
    async with asyncio.timeout(5):
        await arrived.wait()
    key = world.keys.control_key(world.worker_id)
    assert launch.verify(key, control, heard[0], b"1", 0) is None


async def test_a_consumer_of_the_projectors_name_disturbs_nobody(world: World) -> None:
    client, inbox = await world.reader()
    await say(world, world.job, "interim", 1, b"1")
    events = world.bus.events(world.instance, subjects.JOBS)
    assert (await anext(events)).body == b"1"
    for name in ("projector", "control", "JOBS"):
        config = {"name": name, "durable_name": name, "ack_policy": "none", "filter_subject": "job.none.none.status"}
        request = json.dumps({"stream_name": subjects.JOBS, "config": config}).encode()
        await client.publish(f"$JS.API.CONSUMER.CREATE.JOBS.{name}", request, reply=f"{inbox}.answer")
    await client.flush()
    await say(world, world.job, "interim", 2, b"2")
    assert (await anext(events)).body == b"2"
    await events.aclose()


async def test_a_worker_writes_no_event_of_another_session(world: World) -> None:
    worker, _ = await world.worker()
    with pytest.raises(nats.errors.Error):
        await worker.jetstream(timeout=0.3).publish(subjects.event(new_id(), world.job, "status"), b"forged")
    await world.refused("permissions violation for publish")


async def test_a_client_writes_no_event_and_deletes_none(world: World) -> None:
    client, inbox = await world.reader()
    for subject in (
        subjects.event(world.session, world.job, "status"),
        subjects.beat(world.worker_id),
        subjects.control(world.worker_id),
        "$JS.API.STREAM.PURGE.JOBS",
        "$JS.API.STREAM.DELETE.JOBS",
        "$JS.API.STREAM.MSG.DELETE.JOBS",
        "$JS.API.STREAM.UPDATE.JOBS",
    ):
        world.errors.clear()
        await client.publish(subject, b"{}", reply=f"{inbox}.x")
        await client.flush()
        await world.refused("permissions violation for publish")


@pytest.mark.parametrize("subject", ["_INBOX.>", ">", "*.stored.*", "job.>", "worker.>", "beat.*", "fetch.*"])
async def test_nobody_hears_what_is_said_to_others(world: World, subject: str) -> None:
    for client in ((await world.worker())[0], (await world.reader())[0]):
        world.errors.clear()
        await client.subscribe(subject)
        await client.flush()
        await world.refused("permissions violation for subscription")


async def test_another_instance_sees_nothing_whatever_it_asks_for(world: World) -> None:
    await say(world, world.job, "interim", 1, b"1")
    client, _ = await world.reader(world.other)
    answer = await client.request("$JS.API.STREAM.INFO.JOBS", b"", timeout=3)
    assert json.loads(answer.data)["state"]["messages"] == 0


async def test_a_fetch_can_not_be_answered_into_another_jobs_stream(world: World) -> None:
    asked: list[Fetch] = []

    async def answer(instance: str, worker: str, fetch: Fetch) -> bytes:
        asked.append(fetch)
        return b"chunk"

    world.bus.on_fetch(answer)
    worker, _ = await world.worker()
    subject, key = subjects.fetch(world.worker_id), world.keys.control_key(world.worker_id)
    fetch = launch.encode_command(Fetch(job_id=world.job, digest="d", chunk=0))
    forged = subjects.event(new_id(), new_id(), "interim")
    await worker.publish(subject, reply=forged, headers=launch.signed_headers(key, subject, 1, fetch))
    honest = await worker.request(subject, timeout=3, headers=launch.signed_headers(key, subject, 2, fetch))
    assert honest.data == b"chunk"
    assert len(asked) == 1


async def test_beats_and_fetches_that_are_unsigned_or_played_again_are_not_heard(world: World) -> None:
    beats: list[Beat] = []

    async def hear(instance: str, beat: Beat) -> None:
        beats.append(beat)

    async def answer(instance: str, worker: str, fetch: Fetch) -> bytes:
        return b"chunk"

    world.bus.on_beat(hear)
    world.bus.on_fetch(answer)
    worker, _ = await world.worker()
    subject, key = subjects.beat(world.worker_id), world.keys.control_key(world.worker_id)
    beat = launch.encode_command(Beat(worker_id=world.worker_id))
    stranger = launch.encode_command(Beat(worker_id=new_id()))
    for headers in (
        {},
        launch.signed_headers("11" * 32, subject, 1, beat),
        launch.signed_headers(key, subjects.control(world.worker_id), 2, beat),
        launch.signed_headers(key, subject, 3, stranger),
        launch.signed_headers(key, subject, 4, beat),
        launch.signed_headers(key, subject, 4, beat),
        launch.signed_headers(key, subject, 3, beat),
    ):
        await worker.publish(subject, headers=headers or None)
    fetch = launch.encode_command(Fetch(job_id=world.job, digest="d", chunk=0))
    asking = subjects.fetch(world.worker_id)
    await worker.request(asking, timeout=3, headers=launch.signed_headers(key, asking, 5, fetch))
    assert len(beats) == 1


async def test_an_answer_that_is_not_the_workers_own_is_none(world: World) -> None:
    worker, _ = await world.worker()
    control = subjects.control(world.worker_id)

    async def answer(message: object) -> None:
        text = launch.encode_command(launch.Answer(ok=True))
        await worker.publish(message.reply, headers=launch.signed_headers("22" * 32, control, 2**63, text))  # type: ignore[attr-defined]

    await worker.subscribe(control, cb=answer)
    await worker.flush()
    with pytest.raises(NoAnswer, match="was not that worker"):
        await world.bus.command(world.instance, world.worker_id, Cancel(job_id=world.job))


async def test_a_worker_may_answer_a_command_once_and_not_more(world: World) -> None:
    worker, _ = await world.worker()
    key, control = world.keys.control_key(world.worker_id), subjects.control(world.worker_id)

    async def answer(message: object) -> None:
        valid = launch.verify(key, control, message.headers, message.data, 0)  # type: ignore[attr-defined]
        assert valid is not None
        headers = launch.signed_headers(key, control, valid[1], launch.encode_command(launch.Answer(ok=True)))
        for _ in range(2):
            await worker.publish(message.reply, headers=headers)  # type: ignore[attr-defined]

    await worker.subscribe(control, cb=answer)
    await worker.flush()
    assert (await world.bus.command(world.instance, world.worker_id, Cancel(job_id=world.job))).ok
    await world.refused("permissions violation for publish")


async def test_a_revoked_worker_is_cut_off_when_revoke_returns(world: World) -> None:
    worker, user = await world.worker()
    await world.bus.revoke(world.instance, {user: int(time.time()) + 1})
    with pytest.raises(nats.errors.Error):
        await worker.jetstream(timeout=1).publish(subjects.event(world.session, world.job, "interim"), b"late")
    await until(lambda: not worker.is_connected)


async def test_what_was_revoked_stays_revoked_for_a_server_that_starts_later(world: World) -> None:
    access, user = world.bus.worker_credential(world.instance, world.worker_id, world.session, 3600)
    assert await world.enters(access.credential, access.inbox)
    await world.bus.revoke(world.instance, {user: int(time.time()) + 1})
    second = Bus(world.settings, world.keys)
    await second.connect(world.server.url)
    await second.add_instance(world.instance)
    await second.close()
    assert not await world.enters(access.credential, access.inbox)


async def test_without_a_credential_or_with_another_operators_nobody_gets_in(world: World) -> None:
    stranger = Keys(secrets.token_bytes(32))
    access = own_access(stranger.account(world.instance), world.server.url)
    assert not await world.enters(access.credential, access.inbox)
    assert not await world.enters(None, "")


async def test_a_credential_ends_by_itself(world: World) -> None:
    access, _ = world.bus.worker_credential(world.instance, world.worker_id, world.session, -5)
    assert not await world.enters(access.credential, access.inbox)


async def test_a_full_quota_refuses_large_values_and_leaves_room_to_say_so(world: World) -> None:
    worker, _ = await world.worker()
    stream = worker.jetstream(timeout=3)
    blob = subjects.blob(world.session, world.job, "1")
    for _ in range(15):
        await stream.publish(blob, bytes(512 << 10))
    with pytest.raises(APIError, match=r"maximum bytes exceeded|resource limits exceeded"):
        await stream.publish(blob, bytes(900 << 10))
    await stream.publish(subjects.event(world.session, world.job, "status"), status(JobStatus.FAILED))
