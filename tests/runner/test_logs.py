"""What a program writes is its job's log, line by line, while it runs."""

from __future__ import annotations

from runner.harness import World

from neartime.contract.jobs import JobStatus


async def test_lines_of_every_origin_are_in_the_log_while_the_job_runs(world: World) -> None:
    source = (
        "import ctypes, logging, os, subprocess, sys, time\n"
        "def main(backend, user_messenger):\n"
        "    print('by print')\n"
        "    print('by print to stderr', file=sys.stderr)\n"
        "    logging.getLogger('mine').warning('by logging\\nin two lines')\n"
        "    os.write(1, b'by the system call\\n')\n"
        "    ctypes.CDLL(None).puts(b'by the C library')\n"
        "    subprocess.run(['echo', 'by a process'])\n"
        "    sys.stdout.write('without an end')\n"
        "    sys.stdout.flush()\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
    )
    worker = await world.worker(source)
    job = await worker.start()
    wanted = {
        ("stdout", "by print"),
        ("stderr", "by print to stderr"),
        ("logging", "by logging"),
        ("logging", "in two lines"),
        ("stdout", "by the system call"),
        ("stdout", "by the C library"),
        ("stdout", "by a process"),
        ("stdout", "without an end"),
    }
    seen: set[tuple[str, str]] = set()
    while not wanted <= seen:
        seen = {(record.stream, record.text) for record in await worker.logs(job)}
    levels = {record.level for record in await worker.logs(job) if record.stream == "logging"}
    assert levels == {"WARNING"}
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED


async def test_records_below_the_jobs_level_are_left_out(world: World) -> None:
    source = (
        "import logging\n"
        "def main(backend, user_messenger):\n"
        "    for level in ('debug', 'info', 'warning', 'error'):\n"
        "        getattr(logging.getLogger('mine'), level)(level)\n"
    )
    worker = await world.worker(source)
    for level, shown in (("info", ["info", "warning", "error"]), ("error", ["error"]), ("debug", 4)):
        texts = [record.text for record in await worker.logs(await worker.run(log_level=level))]
        assert texts == shown if isinstance(shown, list) else len(texts) == shown


async def test_all_that_was_written_is_in_the_log_when_the_job_ends(world: World) -> None:
    worker = await world.worker(
        "def main(backend, user_messenger, count):\n    for number in range(count):\n        print(number)\n"
    )
    for count in (1, 5000):
        job = await worker.run({"count": count})
        assert [record.text for record in await worker.logs(job)] == [str(number) for number in range(count)]


async def test_the_lines_of_one_job_are_not_in_the_log_of_the_next(world: World) -> None:
    worker = await world.worker(
        "import sys\n"
        "def main(backend, user_messenger, name):\n"
        "    sys.stdout.write(f'{name} without an end')\n"
        "    print(f'{name} to stderr', file=sys.stderr)\n"
    )
    for name in ("one", "two", "three"):
        texts = {record.text for record in await worker.logs(await worker.run({"name": name}))}
        assert texts == {f"{name} without an end", f"{name} to stderr"}


async def test_a_line_that_is_too_long_is_cut_and_says_so(world: World) -> None:
    worker = await world.worker("def main(backend, user_messenger):\n    print('x' * 1_000_000)\n    print('next')\n")
    long, following = await worker.logs(await worker.run())
    assert long.text.endswith("bytes more)")
    assert len(long.text) < 20_000
    assert following.text == "next"


async def test_bytes_that_are_no_text_do_no_harm(world: World) -> None:
    worker = await world.worker(
        "import logging, os\n"
        "def main(backend, user_messenger):\n"
        "    os.write(1, b'\\xff\\xfe\\0 odd\\n')\n"
        "    logging.warning('lone \\ud800 surrogate')\n"
        "    print('lone \\ud800 surrogate')\n"
        "    raise ValueError('lone \\ud800 surrogate')\n"
    )
    job = await worker.run()
    assert "\\ud800" in (job.end.reason or "")
    text = await worker.log_text(job)
    assert "odd" in text
    assert text.count("\\ud800") >= 3


async def test_a_program_that_closes_stdout_ends_all_the_same_and_the_next_job_can_write(world: World) -> None:
    source = (
        "import os, sys\n"
        "def main(backend, user_messenger, how):\n"
        "    print(f'{how}: before')\n"
        "    if how == 'close': sys.stdout.close()\n"
        "    if how == 'descriptor': os.close(1)\n"
        "    if how == 'redirect': os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "    if how == 'replace': sys.stdout = None\n"
        "    if how == 'nonblocking': os.set_blocking(1, False)\n"
        "    return how\n"
    )
    worker = await world.worker(source)
    for how in ("close", "descriptor", "redirect", "replace", "nonblocking", "nothing"):
        job = await worker.run({"how": how})
        assert await worker.result(job) == how
        assert [record.text for record in await worker.logs(job)] == [f"{how}: before"]


async def test_a_flood_of_output_holds_up_neither_heartbeats_nor_the_end(world: World) -> None:
    worker = await world.worker(
        "def main(backend, user_messenger):\n    for _ in range(200_000):\n        print('x' * 50)\n"
    )
    job = await worker.start()
    await worker.follow(job)
    assert job.end.status is JobStatus.COMPLETED
    assert len(await worker.logs(job)) == 200_000


async def test_a_program_that_configures_logging_by_itself_is_heard(world: World) -> None:
    source = (
        "import logging\n"
        "def main(backend, user_messenger, force):\n"
        "    logging.basicConfig(level='INFO', force=force, format='mine: %(message)s')\n"
        "    logging.getLogger('mine').error('an error')\n"
    )
    worker = await world.worker(source)
    for force, stream, text in ((False, "logging", "an error"), (True, "stderr", "mine: an error")):
        (record,) = await worker.logs(await worker.run({"force": force}))
        assert (record.stream, record.text) == (stream, text)


async def test_a_crash_in_native_code_says_where(world: World) -> None:
    worker = await world.worker(
        "import ctypes\ndef crash():\n    ctypes.string_at(0)\ndef main(backend, user_messenger):\n    crash()\n"
    )
    job = await worker.run()
    assert "SIGSEGV" in (job.end.reason or "")
    assert "in crash" in (job.end.reason or "")
