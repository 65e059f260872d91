"""One instance of every model of the contract, with every field said."""

from __future__ import annotations

from datetime import datetime, timezone

from pydantic import BaseModel

from neartime.contract import backends, events, gateways, jobs, launch, problem, programs, sessions, streams

ID = "0mh2k1x9a7c3d5e8f0gq"
OTHER = "0mh2k1x9a8b4e6f1g2hr"
TIME = datetime(2025, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
DIGEST = "sha256:" + "0123456789abcdef" * 4
SCHEMA = {
    "type": "object",
    "properties": {"ansatz": {"$ref": "neartime:QuantumCircuit"}, "maxiter": {"type": "integer", "minimum": 1}},
    "required": ["ansatz"],
    "additionalProperties": False,
}

usage = jobs.Usage(seconds=1.5, quantum_seconds=0.5)
manifest = programs.Manifest(
    name="vqe",
    description="Ground-state energy.",
    entry_point="program:main",
    max_execution_time=600,
    python=">=3.11",
    requirements=["qiskit>=2", "scipy"],
    resources=programs.Resources(cpu=2, memory="4Gi"),
    image=programs.Image(base="images.example/lab/base:3", complete=True),
    backends=programs.BackendRequirements(min_num_qubits=2, simulator=True, names=["aer"]),
    schemas=programs.Schemas(inputs=SCHEMA, interim={"type": "number"}, result={"type": "object"}),
    typed=True,
    kind="function",
    pickled_with=programs.PickledWith(python="3.11.7", cloudpickle="3.1.1"),
    checkpoints=True,
    metadata={"author": "the lab"},
)
version = programs.VersionView(
    id=OTHER,
    number=3,
    digest=DIGEST,
    created=TIME,
    manifest=manifest.model_dump(mode="json", by_alias=True),
    environment=DIGEST,
    build=programs.BuildState.FAILED,
    build_log="no matching distribution",
)
program = programs.ProgramView(
    id=ID,
    name="vqe",
    description="Ground-state energy.",
    cost=600,
    is_public=True,
    creation_date=TIME,
    update_date=TIME,
    version=version,
    spec={"parameters": SCHEMA},
)
state = jobs.JobState(status=jobs.JobStatus.FAILED, reason="ValueError: no", reason_code=jobs.ReasonCode.PROGRAM_ERROR)
job = jobs.JobView(
    id=ID,
    backend="aer",
    program=jobs.ProgramReference(id=ID, name="vqe", version=OTHER),
    session_id=OTHER,
    status=jobs.JobStatus.FAILED,
    state=state,
    created=TIME,
    started=TIME,
    ended=TIME,
    tags=["sweep"],
    cost=600,
    usage=usage,
    attempt=2,
    interims=7,
    sequence=99,
    priority=5,
    position=1,
    waits_for="a place: 1 may run at a time",
)
entry = jobs.QueueEntry(
    id=ID,
    instance="chemistry",
    backend="aer",
    program="vqe",
    session_id=OTHER,
    status=jobs.JobStatus.QUEUED,
    priority=5,
    position=1,
    waits_for="a place: 1 may run at a time",
    created=TIME,
    started=TIME,
)
session = sessions.SessionView(
    id=OTHER,
    backend_name="aer",
    mode=sessions.SessionMode.DEDICATED,
    state=sessions.SessionState.CLOSED,
    accepting_jobs=False,
    max_ttl=3600,
    interactive_ttl=300,
    created=TIME,
    started=TIME,
    closed=TIME,
    reason="idle for 300 s",
    usage=usage,
    last_activity=TIME,
    jobs=2,
)
status = backends.BackendStatus(
    name="aer", backend_version="0.17", state=True, status="active", message="", length_queue=1
)
device = backends.BackendDevice(
    name="aer", description="A simulator.", simulator=True, num_qubits=29, parallelism=2, status=status
)
spec = backends.BackendSpec(
    name="aer",
    factory="qiskit_aer:AerSimulator",
    options={"method": "statevector"},
    home=backends.BackendHome.GATEWAY,
)
gateway = backends.Gateway(
    requirements=["lab-provider==2.1"],
    python=">=3.11",
    interpreter="/opt/lab/bin/python",
    credentials={"key": "file:/etc/neartime/machine.key"},
    variables={"LAB_TOKEN": "variable:LAB_TOKEN"},
    started_by="operator",
    timeout=600.0,
    refresh=60.0,
)
placement = backends.Placement(
    node_selector={"lab": "cold"},
    affinity={"nodeAffinity": {}},
    tolerations=[{"key": "quantum", "operator": "Exists"}],
    resources={"nvidia.com/gpu": "1"},
    promised=0.5,
    runtime_class="gvisor",
    priority_class="batch",
    image_pull_secrets=["registry"],
    service_account="worker",
    patch={"spec": {"dnsPolicy": "Default"}},
)
worker = launch.Launch(
    contract_version=1,
    worker_id=ID,
    session_id=OTHER,
    program_id=ID,
    version_id=OTHER,
    manifest={"name": "vqe"},
    path="/programs/vqe",
    files=launch.Fetchable(digest="cd" * 32, size=1234, chunks=1),
    backend=spec,
    nats=launch.NatsAccess(url="nats://127.0.0.1:4222", credential="a credential", inbox="_INBOX.w"),
    control_key="ab" * 32,
    limits=launch.Limits(memory=1 << 30),
)
fetchable = launch.Fetchable(digest="ab" * 32, size=600_000, chunks=2)
spawned = launch.Spawned(worker_id=ID, pid=1234)
exited = launch.WorkerExit(worker_id=ID, exit_code=-9)

SAMPLES: list[BaseModel] = [
    # backends
    spec,
    backends.BackendConfig(
        name="aer",
        factory="qiskit_aer:AerSimulator",
        options={"method": "statevector"},
        description="A simulator.",
        parallelism=2,
        home=backends.BackendHome.GATEWAY,
        simulator=True,
        placement=placement,
        gateway=gateway,
    ),
    gateway,
    placement,
    status,
    device,
    backends.BackendList(devices=["aer"], backends=[device]),
    # events
    events.Reference(subject=f"job.{OTHER}.{ID}.blob.1", first=4, last=5, chunks=2, size=600_000, digest="ab" * 32),
    events.StatusEvent(
        status=jobs.JobStatus.CANCELLED,
        time=TIME,
        reason="cancelled by the user",
        reason_code=jobs.ReasonCode.CANCELLED_BY_USER,
        worker_id=ID,
        usage=usage,
        interims=7,
    ),
    events.LogRecord(time=TIME, stream="logging", text="hello", level="WARNING"),
    # gateways
    gateways.GatewayLaunch(backend=spec, parallelism=2, gateway=gateway, nats=worker.nats),
    gateways.Asked(call=ID, part=1, parts=2, seconds=1.5),
    gateways.Told(
        step=gateways.Step.RAISED,
        refused="no job runs",
        again=True,
        error="ValueError: no",
        parts=2,
        gateway=OTHER,
    ),
    gateways.LeaseAsked(instance_id=ID, session_id=OTHER, worker_id=ID),
    gateways.Lease(held=False, alone=True, reason="its job is to end"),
    gateways.DescribeAsked(part=1, digest="ab" * 32),
    gateways.Described(digest="ab" * 32, parts=2, fault="no such module"),
    # jobs
    usage,
    jobs.JobRequest(
        program_id="vqe",
        program_version=OTHER,
        backend="aer",
        params={"maxiter": 3},
        session_id=OTHER,
        tags=["sweep"],
        log_level="debug",
        cost=60,
        max_attempts=2,
        qpy_version=13,
    ),
    jobs.JobAccepted(id=ID, backend="aer", session_id=OTHER, program_version=OTHER),
    state,
    job.program,
    job,
    jobs.JobPage(jobs=[job], count=1, limit=10, offset=0),
    entry,
    jobs.QueuePage(jobs=[entry]),
    jobs.Priority(priority=5),
    jobs.JobMetrics(
        timestamps={"created": TIME, "started": TIME, "running": TIME, "finished": None},
        usage=usage,
        attempts=2,
        interims=7,
        position_in_queue=1,
    ),
    # launch
    worker.nats,
    worker.limits,
    worker,
    launch.Start(
        job_id=ID,
        attempt=2,
        max_execution_time=60.0,
        log_level="info",
        inputs=fetchable,
        checkpoint=fetchable,
        interims=7,
        qpy_version=13,
    ),
    fetchable,
    launch.Cancel(job_id=ID, reason_code=jobs.ReasonCode.TIMED_OUT, reason="ran for more than 60 s"),
    launch.Drain(),
    launch.Answer(ok=False, error="busy"),
    launch.Beat(worker_id=ID, job_id=OTHER, ready=True, draining=True),
    launch.Fetch(job_id=ID, digest="ab" * 32, chunk=1),
    launch.Spawn(launch=worker),
    launch.Kill(worker_id=ID, grace=2.0),
    launch.Forget(worker_id=ID),
    spawned,
    exited,
    launch.ZygoteState(python="3.11.7", packages={"qiskit": "2.6.2"}, running=[spawned], exited=[exited]),
    # problem
    problem.Fault(path="inputs.maxiter", message="-3 is less than the minimum of 1"),
    problem.Problem(
        code=problem.ErrorCode.INVALID_INPUT,
        message="inputs.maxiter: -3 is less than the minimum of 1",
        solution="mend it",
        path="inputs.maxiter",
    ),
    problem.Problems(errors=[problem.Problem(code=problem.ErrorCode.NOT_FOUND, message="not here")], trace=ID),
    # programs
    manifest,
    manifest.schemas,
    manifest.resources,
    manifest.image,
    manifest.backends,
    programs.PickledWith(python="3.11.7", cloudpickle="3.1.1"),
    programs.ProgramUpload(
        manifest={"name": "vqe"},
        data="UEs=",
        source_digest="ab" * 32,
        is_public=True,
        name="vqe",
        description="Ground-state energy.",
        cost=600,
        spec={"parameters": SCHEMA},
    ),
    version,
    program,
    programs.ProgramPage(programs=[program], count=1),
    programs.VersionPage(versions=[version], count=1),
    # sessions
    sessions.SessionRequest(backend="aer", mode=sessions.SessionMode.BATCH, max_ttl=3600, interactive_ttl=300),
    sessions.SessionChange(accepting_jobs=False),
    session,
    sessions.SessionPage(sessions=[session], count=1),
    # streams
    streams.StreamAccess(url="nats://127.0.0.1:4222", credential="a credential", inbox="_INBOX.c", expires=TIME),
]
