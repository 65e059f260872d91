"""A door relays what comes to its socket to NATS, as it is, and ends when nobody needs it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from executors.harness import Lab, until

from neartime.stream import Link
from neartime_server.embedded import processes
from neartime_server.errors import ExecutorError
from neartime_server.executors import addresses, door


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path / "home"
    processes.end_runners(tmp_path / "home", 2.0)


def pids(home: Path) -> set[int]:
    return {one.pid for one in processes.runners_of(home)}


async def test_a_connection_through_a_door_works_and_comes_back_when_the_door_or_nats_does(
    lab: Lab, home: Path
) -> None:
    to = lab.server.url.removeprefix("nats://")
    process = await door.opened(home, to)
    assert process is not None
    assert await door.opened(home, to) is None
    access, _ = lab.bus.worker_credential(lab.instance, "w", "s", 3600)
    inside = access.model_copy(update={"url": f"nats+unix://{to}{addresses.door(home, to)}"})
    link = await Link.open(inside, name="test")
    back = asyncio.Event()
    link.listen(back.set)
    try:
        await link.client.flush()
        process.kill()
        process.wait()
        again = await door.opened(home, to)
        await asyncio.wait_for(back.wait(), 10)
        await link.client.flush()
        back.clear()
        await lab.server.stop()
        await lab.server.start()
        await asyncio.wait_for(back.wait(), 20)
        assert link.client.connected_url.netloc == to
    finally:
        await link.close()
    assert again is not None
    again.terminate()
    assert again.wait(10) == 0
    assert not addresses.door(home, to).exists()


async def test_what_goes_through_a_door_is_what_comes_out_whoever_is_slow(home: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")  # as NATS does
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    to = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    process = await door.opened(home, to)
    assert process is not None
    body = os.urandom(64 << 20)
    reader, writer = await asyncio.open_unix_connection(addresses.door(home, to))
    writer.write(body)  # and nothing is read for a while
    await asyncio.sleep(1)
    assert rss(process.pid) < 80 << 20
    assert await reader.readexactly(5) == b"first"
    assert await reader.readexactly(len(body)) == body
    writer.close()
    server.close()


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_where_nats_is_away_a_door_ends_the_connection_at_once_and_tries_the_next_address(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    await door.opened(home, nobody)
    reader, writer = await asyncio.open_unix_connection(addresses.door(home, nobody))
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    both = f"{nobody},127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await door.opened(home, both)
    reader, writer = await asyncio.open_unix_connection(addresses.door(home, both))
    assert await asyncio.wait_for(reader.read(), 5) == b"hello"
    writer.close()
    server.close()


async def test_several_servers_have_one_door_and_down_finds_it(home: Path) -> None:
    opened = await asyncio.gather(*(door.opened(home, "127.0.0.1:1") for _ in range(4)))
    started = [one for one in opened if one is not None]
    await until(lambda: sum(one.poll() is None for one in started) == 1)
    assert {one.returncode for one in started} == {door.TAKEN, None}
    assert len(pids(home)) == 1
    assert len(processes.end_runners(home, 2.0)) == 1
    assert pids(home) == set()


async def test_a_door_that_nobody_uses_ends_and_one_that_is_used_does_not(home: Path) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    path = addresses.door(home, "alone")
    path.parent.mkdir()
    to = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    command = ["door", "--socket", str(path), "--home", str(home), "--to", to, "--alone", "0.5"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "neartime_server", *command)
    await until(path.exists)
    _, writer = await asyncio.open_unix_connection(path)
    await asyncio.sleep(1.5)
    assert process.returncode is None
    writer.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0
    server.close()


async def test_a_door_that_can_not_be_opened_says_why(home: Path) -> None:
    path = addresses.door(home, "127.0.0.1:1")
    path.mkdir(parents=True)
    with pytest.raises(ExecutorError, match=r"(?s)no door to NATS.*nats\.sock"):
        await door.opened(home, "127.0.0.1:1")


async def test_the_lock_of_a_door_is_out_of_the_reach_of_containers(home: Path) -> None:
    await door.opened(home, "127.0.0.1:1")
    folder = addresses.door(home, "127.0.0.1:1").parent
    assert [one.name for one in folder.iterdir()] == ["nats.sock"]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert folder.with_suffix(".lock").stat().st_mode & 0o777 == 0o600
    os.kill(pids(home).pop(), signal.SIGTERM)
