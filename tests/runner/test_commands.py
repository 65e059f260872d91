"""Commands are signed and counted; what is neither is not obeyed. Heartbeats say what a worker does."""

from __future__ import annotations

from nats.aio.client import Client, RawCredentials
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NoAnswer
from runner.harness import Worker, World, until

from neartime.contract import launch as protocol
from neartime.contract import subjects
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.contract.launch import Cancel, Drain, Start
from neartime_server.bus import claims
from neartime_server.bus.keys import KeyPair

WAITING = """
import threading

def main(backend, user_messenger):
    user_messenger.publish("begun")
    threading.Event().wait()
"""


class Stranger:
    """Somebody in the same account who may publish anything, and does not have the worker's key."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.client = Client()

    async def __aenter__(self) -> Stranger:
        account = self._world.keys.account(self._world.instance)
        credential = claims.credential(account, KeyPair.new_user(), "stranger", [], [], None)
        await self.client.connect(self._world.server.url, user_credentials=RawCredentials(credential))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()

    async def ask(self, worker: Worker, headers: dict[str, str], body: bytes = b"") -> bool:
        """Whether the worker answers."""
        try:
            await self.client.request(subjects.control(worker.id), body, timeout=0.5, headers=headers)
        except (NoAnswer, NoRespondersError):
            return False
        return True


async def test_commands_that_are_unsigned_forged_or_said_before_are_not_obeyed(world: World) -> None:
    worker = await world.worker(WAITING)
    job = await worker.start()
    await worker.follow(job, lambda event: event.kind == "interim")
    subject, key = subjects.control(worker.id), worker.launch.control_key
    cancel = protocol.encode_command(Cancel(job_id=job.id))
    now = 1 << 63
    async with Stranger(world) as stranger:
        forged = [
            {},
            {protocol.COMMAND_HEADER: cancel},
            {protocol.COMMAND_HEADER: cancel, protocol.COUNTER_HEADER: str(now), protocol.SIGNATURE_HEADER: "0" * 64},
            {protocol.COMMAND_HEADER: cancel, protocol.COUNTER_HEADER: "x", protocol.SIGNATURE_HEADER: ""},
            protocol.signed_headers("00" * 32, subject, now, cancel),
            protocol.signed_headers(key, subjects.control(new_id()), now, cancel),
            protocol.signed_headers(key, subject, now, cancel, b"another body"),
            protocol.signed_headers(key, subject, 1, cancel),  # below what was heard
        ]
        for headers in forged:
            assert not await stranger.ask(worker, headers)
        assert (await worker.command(Start(job_id=job.id, max_execution_time=60))).ok
        assert [status.status for status in job.statuses] == [JobStatus.RUNNING]
        drain = protocol.signed_headers(key, subject, now, protocol.encode_command(Drain()))
        assert await stranger.ask(worker, drain)  # signed: whoever has the key
        assert not await stranger.ask(worker, drain)


async def test_an_answer_is_signed_for_its_request(world: World) -> None:
    worker = await world.worker(WAITING)
    key, subject = worker.launch.control_key, subjects.control(worker.id)
    async with Stranger(world) as stranger:
        command = protocol.encode_command(Cancel(job_id=new_id()))
        headers = protocol.signed_headers(key, subject, 1 << 62, command)
        answer = await stranger.client.request(subject, b"", timeout=2, headers=headers)
    valid = protocol.verify(key, subject, answer.headers, answer.data, (1 << 62) - 1)
    assert valid is not None
    assert valid[1] == 1 << 62
    assert '"ok":false' in valid[0]


async def test_a_command_of_a_newer_server_is_answered_and_not_obeyed(world: World) -> None:
    worker = await world.worker(WAITING)
    key, subject = worker.launch.control_key, subjects.control(worker.id)
    async with Stranger(world) as stranger:
        headers = protocol.signed_headers(key, subject, 1 << 62, '{"type":"dance"}')
        answer = await stranger.client.request(subject, b"", timeout=2, headers=headers)
    assert '"ok":false' in (answer.headers or {})[protocol.COMMAND_HEADER]


async def test_another_job_is_refused_while_one_runs(world: World) -> None:
    worker = await world.worker(WAITING)
    job = await worker.start()
    answer = await worker.command(Start(job_id=new_id(), max_execution_time=60), b"{}")
    assert not answer.ok
    assert job.id in (answer.error or "")
    answer = await worker.command(Start(job_id=job.id, attempt=2, max_execution_time=60), b"{}")
    assert not answer.ok
    await worker.cancel(job)
    await worker.follow(job)
    assert (await worker.start()).id


async def test_heartbeats_say_at_once_which_job_runs(world: World) -> None:
    worker = await world.worker(WAITING, limits={"heartbeat": 30})
    assert [beat.job_id for beat in world.beats] == [None]
    job = await worker.start()
    await worker.beat(lambda beat: beat.job_id == job.id)
    await worker.cancel(job)
    await worker.follow(job)
    await until(lambda: world.beats[-1].job_id is None)


async def test_heartbeats_come_again_when_the_connection_does(world: World) -> None:
    worker = await world.worker(WAITING)
    seen = len(world.beats)
    world.server.kill()
    await world.server.start()
    await until(lambda: len(world.beats) > seen)
    assert (await worker.command(Drain())).ok


async def test_a_program_finds_no_secret_of_its_worker(world: World) -> None:
    source = (
        "import gc, os, sys\n"
        "def main(backend, user_messenger, key):\n"
        "    kinds = [type(one).__name__ for one in gc.get_objects()]\n"
        "    found = [kind for kind in kinds if kind in ('Launch', 'NatsAccess')]\n"
        "    frame, held = sys._getframe(), []\n"
        "    while frame is not None:\n"
        "        held += [name for name, value in frame.f_locals.items() if key[::-1] in repr(value)]\n"
        "        frame = frame.f_back\n"
        "    text = ' '.join(f'{name}={value}' for name, value in os.environ.items())\n"
        "    sockets = [number for number in os.listdir('/proc/self/fd') if 'socket' in link(number)]\n"
        "    return [found, held, key[::-1] in text, sockets]\n"
        "def link(number):\n"
        "    try:\n"
        "        return os.readlink(f'/proc/self/fd/{number}')\n"
        "    except OSError:\n"
        "        return ''\n"
    )
    worker = await world.worker(source)
    job = await worker.run({"key": worker.launch.control_key[::-1]})
    assert await worker.result(job) == [[], [], False, []]


async def test_the_zygote_writes_no_secret(world: World) -> None:
    worker = await world.worker(WAITING)
    await worker.command(Drain())
    await world.zygote.exited(worker.id)
    text = world.zygote.log.read_text()
    assert worker.id in text
    assert worker.launch.control_key not in text
    assert "SEED" not in text
