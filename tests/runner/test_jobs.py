"""A worker runs jobs: what goes in, what comes out, and in which order."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from runner.harness import AER, PYTHON, World, until

from neartime.codec import encode
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Start
from neartime.contract.programs import PICKLE_FILE, PickledWith, Schemas

COUNTING = """
def main(backend, user_messenger, count):
    for number in range(count):
        user_messenger.publish(number)
    return {"count": count, "backend": backend.name}
"""


async def test_a_program_runs_and_its_events_come_in_order(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.run({"count": 3})
    assert [event.kind for event in job.events] == ["status", "interim", "interim", "interim", "result", "status"]
    assert [status.status for status in job.statuses] == [JobStatus.RUNNING, JobStatus.COMPLETED]
    assert await worker.values(job) == [0, 1, 2]
    assert await worker.result(job) == {"count": 3, "backend": "none"}
    assert job.end.interims == 3
    assert [event.envelope.index for event in job.of("interim")] == [1, 2, 3]
    assert {event.envelope.source for event in job.events} == {worker.id}


async def test_a_thousand_interim_results_of_a_tight_loop_arrive_in_order(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.run({"count": 1000})
    assert [int(event.body) for event in job.of("interim")] == list(range(1000))


async def test_the_second_job_of_a_session_finds_the_module_and_the_backend_of_the_first(world: World) -> None:
    worker = await world.worker(
        "import os\n"
        "print('imported')\n"
        "seen = []\n"
        "def main(backend, user_messenger):\n"
        "    seen.append(id(backend))\n"
        "    return {'jobs': len(seen), 'backends': len(set(seen)), 'process': os.getpid()}\n"
    )
    first, second = await worker.run(), await worker.run()
    one, two = await worker.result(first), await worker.result(second)
    assert (one["jobs"], two["jobs"], two["backends"]) == (1, 2, 1)
    assert one["process"] == two["process"]
    assert "imported" in await worker.log_text(first)
    assert "imported" not in await worker.log_text(second)


async def test_what_main_publishes_as_final_is_the_result_unless_it_returns_one(world: World) -> None:
    worker = await world.worker(
        "def main(backend, user_messenger, returned):\n"
        "    user_messenger.publish('early', final=True)\n"
        "    user_messenger.publish('late', final=True)\n"
        "    return returned\n"
    )
    assert await worker.result(await worker.run({"returned": None})) == "late"
    assert await worker.result(await worker.run({"returned": "returned"})) == "returned"
    job = await worker.run({"returned": 1})
    assert not job.of("interim")


async def test_a_program_of_the_custom_program_era_runs_with_its_submodules_and_data_files(world: World) -> None:
    folder = world.program(
        "import json, os\n"
        "from pathlib import Path\n"
        "from helpers.scale import scaled\n"
        "import queue\n"
        "class Encoder(json.JSONEncoder):\n"
        "    def default(self, value):\n"
        "        return {'real': value.real} if hasattr(value, 'secret') else super().default(value)\n"
        "class Odd:\n"
        "    secret, real = 1, 2\n"
        "def main(backend, user_messenger, **kwargs):\n"
        "    beside = json.loads((Path(__file__).parent / 'data.json').read_text())\n"
        "    here = json.loads(open('data.json').read())\n"
        "    user_messenger.publish({'iteration': 1})\n"
        "    user_messenger.publish(Odd(), encoder=Encoder)\n"
        "    user_messenger.publish({'x': scaled(kwargs['x'], beside['factor']), 'same': beside == here,\n"
        "                            'queue': queue.MINE}, final=True)\n",
        data__json='{"factor": 3}',
        queue__py="MINE = True\n",  # takes the standard library's place, as where Python is started in that folder
    )
    (folder / "helpers").mkdir()
    (folder / "helpers" / "__init__.py").write_text("")
    (folder / "helpers" / "scale.py").write_text("def scaled(x, factor):\n    return x * factor\n")
    worker = await world.worker(folder)
    job = await worker.run({"x": 14})
    assert await worker.result(job) == {"x": 42, "same": True, "queue": True}
    assert await worker.values(job) == [{"iteration": 1}, {"real": 2}]


async def test_a_typed_program_gets_one_object_of_its_model(world: World) -> None:
    source = (
        "from __future__ import annotations\n"
        "from pydantic import BaseModel, Field\n"
        "class Inputs(BaseModel):\n"
        "    shots: int = Field(100, ge=1)\n"
        "    names: list[str]\n"
        "def main(backend, user_messenger, given: Inputs):\n"
        "    return [type(given).__name__, given.shots, given.names]\n"
    )
    worker = await world.worker(source, typed=True)
    assert await worker.result(await worker.run({"names": ["a"]})) == ["Inputs", 100, ["a"]]
    job = await worker.run({"names": ["a", 2], "shots": 0})
    assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.INVALID_INPUT)
    assert "inputs.names[1]: " in (job.end.reason or "")
    assert "inputs.shots: " in (job.end.reason or "")
    assert job.end.usage is not None
    assert job.end.usage.seconds == 0


async def test_what_is_inside_an_opaque_input_is_checked_before_main(world: World) -> None:
    from qiskit import QuantumCircuit

    circuit = {"$ref": "neartime:QuantumCircuit", "num_qubits": {"maximum": 2}}
    schemas = Schemas(inputs={"type": "object", "properties": {"circuit": circuit}})
    worker = await world.worker(
        "def main(backend, user_messenger, circuit):\n    return circuit.num_qubits\n", schemas=schemas
    )
    two, three = (encode({"circuit": QuantumCircuit(size)}, qpy_version=13) for size in (2, 3))
    assert await worker.result(await worker.run(two)) == 2
    job = await worker.run(three)
    assert job.end.reason_code == ReasonCode.INVALID_INPUT
    assert "inputs.circuit: " in (job.end.reason or "")


async def test_inputs_that_main_does_not_take_are_named(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.run({"count": 1, "cuont": 2})
    assert job.end.reason_code == ReasonCode.INVALID_INPUT
    assert "'cuont'" in (job.end.reason or "")
    assert (await worker.run(b"[1]")).end.reason_code == ReasonCode.INVALID_INPUT
    assert (await worker.run(b'{"count": {"__type__": "unheard-of", "__value__": 1}}')).end.reason_code == (
        ReasonCode.INVALID_INPUT
    )
    assert (await worker.run({"count": 1})).end.status is JobStatus.COMPLETED


@pytest.mark.skipif(sys.executable != PYTHON, reason="a pickle does not cross Python versions")
async def test_a_pickled_function_runs(world: World) -> None:
    factor = 3

    def program(backend, user_messenger, x):  # type: ignore[no-untyped-def]
        user_messenger.publish(x)
        return x * factor

    folder = world.program("")
    (folder / PICKLE_FILE).write_bytes(cloudpickle.dumps(program))
    pickled_with = PickledWith(python=platform.python_version(), cloudpickle=cloudpickle.__version__)
    worker = await world.worker(folder, kind="function", pickled_with=pickled_with)
    job = await worker.run({"x": 14})
    assert await worker.result(job) == 42
    assert await worker.values(job) == [14]


async def test_a_function_that_another_python_has_pickled_is_refused_in_plain_words(world: World) -> None:
    folder = world.program("")
    (folder / PICKLE_FILE).write_bytes(b"never read")
    worker = await world.worker(folder, kind="function", pickled_with=PickledWith(python="3.9.1", cloudpickle="3.1.0"))
    job = await worker.run()
    assert job.end.reason_code == ReasonCode.INCOMPATIBLE_VERSION
    assert "Python 3.9.1" in (job.end.reason or "")
    assert f"Python {world.zygote.state.python}" in (job.end.reason or "")


async def test_a_result_that_is_not_what_the_program_declares_fails_the_job(world: World) -> None:
    schemas = Schemas(result={"type": "integer"}, interim={"type": "string"})
    source = (
        "def main(backend, user_messenger, interim, result):\n"
        "    user_messenger.publish(interim)\n"
        "    return object() if result == 'object' else result\n"
    )
    worker = await world.worker(source, schemas=schemas)
    good = await worker.run({"interim": "text", "result": 1})
    assert good.end.status is JobStatus.COMPLETED
    for interim, result, words in (("text", "text", "result"), (1, 1, "interim"), ("text", "object", "result: object")):
        job = await worker.run({"interim": interim, "result": result})
        assert job.end.reason_code == ReasonCode.INVALID_RESULT
        assert words in (job.end.reason or "")
        assert not job.of("result")


async def test_an_exception_is_told_with_the_programs_own_frames(world: World) -> None:
    worker = await world.worker(
        "def deeper(x):\n    return 1 / x\n\ndef main(backend, user_messenger):\n    return deeper(0)\n"
    )
    job = await worker.run()
    reason = job.end.reason or ""
    assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.PROGRAM_ERROR)
    assert reason.startswith("ZeroDivisionError: division by zero\nTraceback")
    assert 'File "program.py", line 2, in deeper' in reason
    assert "return 1 / x" in reason
    assert "neartime_runner" not in reason
    assert "ZeroDivisionError" in await worker.log_text(job)


async def test_an_import_error_is_told_in_the_jobs_error_and_log(world: World) -> None:
    worker = await world.worker("import no_such_module\n\ndef main(backend, user_messenger): ...\n")
    for _ in range(2):
        job = await worker.run()
        assert job.end.reason_code == ReasonCode.PROGRAM_ERROR
        assert (job.end.reason or "").startswith("ModuleNotFoundError: No module named 'no_such_module'")
        assert "import no_such_module" in (job.end.reason or "")
        assert "neartime_runner" not in (job.end.reason or "")
        assert "import no_such_module" in await worker.log_text(job)


async def test_a_backend_that_can_not_be_built_is_told(world: World) -> None:
    backend = AER.model_copy(update={"options": {"no_such_option": 1}})
    worker = await world.worker(COUNTING, backend=backend)
    job = await worker.run({"count": 1})
    assert job.end.reason_code == ReasonCode.START_FAILED
    assert "qiskit_aer:AerSimulator" in (job.end.reason or "")


async def test_seconds_inside_the_backend_are_counted(world: World) -> None:
    source = (
        "from qiskit import QuantumCircuit\n"
        "def main(backend, user_messenger):\n"
        "    circuit = QuantumCircuit(2)\n"
        "    circuit.h(0); circuit.cx(0, 1); circuit.measure_all()\n"
        "    return backend.run(circuit, shots=100).result().get_counts()\n"
    )
    worker = await world.worker(source, backend=AER)
    job = await worker.run()
    assert sum((await worker.result(job)).values()) == 100
    assert job.end.usage is not None
    assert 0 < job.end.usage.quantum_seconds <= job.end.usage.seconds


async def test_large_values_go_in_and_out(world: World) -> None:
    array = np.random.default_rng(7).random(1_500_000)  # 12 MB
    wanted = world.store(encode({"array": array}))
    worker = await world.worker(
        "def main(backend, user_messenger, array):\n    user_messenger.publish(array)\n    return array[::-1]\n"
    )
    job = await worker.run(inputs=wanted)
    assert job.end.status is JobStatus.COMPLETED, job.end.reason
    assert np.array_equal((await worker.values(job))[0], array)
    assert np.array_equal(await worker.result(job), array[::-1])
    assert sorted(fetch.chunk for fetch in world.fetched) == list(range(wanted.chunks))


async def test_an_interim_result_of_fifty_megabytes_arrives_between_its_neighbours(world: World) -> None:
    worker = await world.worker(
        "import numpy as np\n"
        "def main(backend, user_messenger):\n"
        "    user_messenger.publish('before')\n"
        "    user_messenger.publish(np.arange(6_250_000, dtype=np.float64))\n"
        "    user_messenger.publish('after')\n",
        limits={"buffer": 8 << 20},
    )
    job = await worker.run()
    before, large, after = await worker.values(job)
    assert (before, after) == ("before", "after")
    assert np.array_equal(large, np.arange(6_250_000, dtype=np.float64))


def peak(pid: int) -> int:
    """The most memory that a process has had so far, MiB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


async def test_a_supervisor_never_holds_a_large_value(world: World) -> None:
    source = "def main(backend, user_messenger, blob):\n    user_messenger.publish(len(blob))\n    return blob\n"
    worker = await world.worker(source, limits={"buffer": 4 << 20})
    await worker.run({"blob": b""})
    before = peak(worker.pid)
    blob = bytes(60 << 20)
    job = await worker.run(inputs=world.store(encode({"blob": blob})))
    assert await worker.values(job) == [len(blob)]
    assert await worker.result(job) == blob
    assert peak(worker.pid) - before < 30


async def test_values_of_several_threads_do_not_mix(world: World) -> None:
    source = (
        "import threading, numpy as np\n"
        "def main(backend, user_messenger):\n"
        "    def publish(number):\n"
        "        for _ in range(20):\n"
        "            user_messenger.publish(np.full(100_000, number))\n"
        "    threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
    )
    worker = await world.worker(source)
    job = await worker.run()
    assert len(job.of("interim")) == 60
    for value in await worker.values(job):
        assert len(value) == 100_000
        assert len(set(value.tolist())) == 1


async def test_a_value_that_breaks_off_in_the_middle_leaves_nothing_behind(world: World) -> None:
    source = (
        "class Breaking(list):\n"
        "    pass\n"
        "def main(backend, user_messenger):\n"
        "    import numpy as np\n"
        "    import neartime_runner.messenger as messenger\n"
        "    def broken():\n"
        "        yield b'x' * 600_000\n"
        "        yield b'x' * 600_000\n"
        "        raise ValueError('in the middle')\n"
        "    try:\n"
        "        user_messenger._wire.send_value(messenger.Frame.INTERIM, broken())\n"
        "    except ValueError as error:\n"
        "        user_messenger.publish(str(error))\n"
        "    user_messenger.publish(np.zeros(100_000))\n"
    )
    worker = await world.worker(source)
    job = await worker.run()
    text, zeros = await worker.values(job)
    assert text == "in the middle"
    assert not zeros.any()


async def test_a_second_attempt_goes_on_from_the_checkpoint_of_the_first(world: World) -> None:
    source = (
        "def main(backend, user_messenger, count):\n"
        "    state = user_messenger.restore()\n"
        "    assert user_messenger.restore() is state\n"
        "    done = 0 if state is None else state['done']\n"
        "    for number in range(done, count):\n"
        "        user_messenger.publish(number)\n"
        "        user_messenger.checkpoint({'done': number + 1})\n"
        "    return state\n"
    )
    first = await (await world.worker(source)).run({"count": 2})
    assert [event.envelope.interims for event in first.of("checkpoint")] == [1, 2]
    worker = await world.worker(source)
    saved = world.store(encode({"done": 2}))
    second = await worker.run({"count": 4}, attempt=2, checkpoint=saved, interims=2)
    assert await worker.values(second) == [2, 3]
    assert [event.envelope.index for event in second.of("interim")] == [3, 4]
    assert second.end.interims == 4
    assert await worker.result(second) == {"done": 2}


async def test_circuits_come_back_in_the_version_of_qpy_that_was_asked_for(world: World) -> None:
    worker = await world.worker(
        "from qiskit import QuantumCircuit\ndef main(backend, user_messenger):\n    return QuantumCircuit(2)\n"
    )
    job = await worker.run(qpy_version=13)
    assert (await worker.result(job)).num_qubits == 2


async def test_threads_that_main_leaves_behind_say_nothing_in_the_next_job(world: World) -> None:
    source = (
        "import threading\n"
        "go = threading.Event()\n"
        "heard = []\n"
        "def main(backend, user_messenger, first):\n"
        "    if first:\n"
        "        def late():\n"
        "            go.wait()\n"
        "            try:\n"
        "                user_messenger.publish('late')\n"
        "            except RuntimeError as error:\n"
        "                heard.append(str(error))\n"
        "        global thread\n"
        "        thread = threading.Thread(target=late, name='straggler', daemon=True)\n"
        "        thread.start()\n"
        "    else:\n"
        "        go.set()\n"
        "        thread.join()\n"
        "        return heard\n"
    )
    worker = await world.worker(source)
    first = await worker.run({"first": True})
    assert "straggler" in await worker.log_text(first)
    second = await worker.run({"first": False})
    assert not second.of("interim")
    assert "its job has ended" in (await worker.result(second))[0]


async def test_children_draw_random_numbers_of_their_own(world: World) -> None:
    folder = world.program(
        "import random, numpy\ndef main(backend, user_messenger):\n    return [random.random(), numpy.random.rand()]\n"
    )
    drawn = set()
    for _ in range(3):
        worker = await world.worker(folder)
        drawn.update(await worker.result(await worker.run()))
    assert len(drawn) == 6


async def test_a_program_can_fork(world: World) -> None:
    source = (
        "import logging, os, multiprocessing\n"
        "def square(x):\n"
        "    logging.warning('squaring %d', x)\n"
        "    return x * x\n"
        "def main(backend, user_messenger):\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        squares = pool.map(square, range(5))\n"
        "    read, write = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        try:\n"
        "            user_messenger.publish('from the wrong process')\n"
        "        except RuntimeError as error:\n"
        "            os.write(write, str(error).encode())\n"
        "        return 'from the wrong process'\n"
        "    os.wait()\n"
        "    return [squares, os.read(read, 1000).decode()]\n"
    )
    worker = await world.worker(source)
    job = await worker.run()
    squares, refusal = await worker.result(job)
    assert squares == [0, 1, 4, 9, 16]
    assert "in the process that runs main() alone" in refusal
    assert not job.of("interim")
    assert "squaring 4" in await worker.log_text(job)


async def test_what_a_program_started_is_gone_when_its_process_is(world: World) -> None:
    source = (
        "import os, subprocess, sys\n"
        "def main(backend, user_messenger):\n"
        "    code = 'import os, sys, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(1000)'\n"
        "    daemon = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)\n"
        "    user_messenger.publish(int(daemon.stdout.readline()))\n"
        "    os._exit(3)\n"
    )
    worker = await world.worker(source)
    job = await worker.run()
    (daemon,) = await worker.values(job)
    assert job.end.reason_code == ReasonCode.PROCESS_DIED
    assert "exit code 3" in (job.end.reason or "")
    await until(lambda: not alive(daemon))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_started_job_is_not_started_again(world: World) -> None:
    worker = await world.worker(COUNTING)
    job_id = new_id()
    for _ in range(3):
        await worker.start({"count": 1}, job_id=job_id)
    job = await worker.start({"count": 1}, job_id=job_id)
    await worker.follow(job)
    assert len(job.of("interim")) == 1
    again = await worker.command(Start(job_id=job_id, max_execution_time=60), encode({"count": 1}))
    assert again.ok
    assert len((await worker.run({"count": 1}, job_id=job_id, attempt=2)).of("interim")) == 1


async def test_libraries_with_thread_pools_of_their_own_work_in_a_child(world: World) -> None:
    source = """
import numpy
from qiskit import QuantumCircuit, transpile
from qiskit.circuit.library import efficient_su2
from qiskit_aer import AerSimulator

def main(backend, user_messenger):
    product = numpy.ones((600, 600)) @ numpy.ones((600, 600))
    circuit = efficient_su2(6, reps=2)
    circuit.measure_all()
    circuit = circuit.assign_parameters([0.1] * circuit.num_parameters)
    circuits = transpile([circuit] * 4, backend, optimization_level=3)
    machine = AerSimulator(max_parallel_threads=2, max_parallel_experiments=2)
    counts = machine.run(circuits, shots=100).result().get_counts()
    return [product[0, 0], [sum(one.values()) for one in counts]]
"""
    worker = await world.worker(source, backend=AER)
    for _ in range(2):
        assert await worker.result(await worker.run()) == [600, [100] * 4]
