"""Subjects and streams inside one instance's NATS account.

    job.<session>.<job>.status|interim|checkpoint|result   stream JOBS: the life of a job, bytes reserved for it
    job.<session>.<job>.log                        stream BULK: log records
    job.<session>.<job>.blob.<name>                stream BULK: chunks of a large value
    worker.<worker>.control                        request/reply, signed: start, cancel, drain
    beat.<worker>                                  a worker's signed heartbeat
    fetch.<worker>                                 request/reply, signed: a worker asks for a chunk of its job's inputs
    gateway.<backend>.<session>.<worker>.<verb>    request/reply: a worker asks a gateway, which is in another account

That account, the platform's, belongs to no instance. NATS hands on to it what is asked of gateways, and says in the
subject whose it is; a worker's credential says the rest of it, so that nobody speaks for another session.

    gateway.<instance>.<backend>.<session>.<worker>.<verb>    what a gateway hears
    lease.<backend>                                request/reply: a gateway asks whether a session has the backend now
    describe.<backend>                             request/reply: the server asks a gateway what its backend is

Two streams, so that a full quota of logs and large values can't silence the status that says so.
"""

from neartime.contract.ids import is_id

JOBS = "JOBS"
BULK = "BULK"
STREAM_SUBJECTS = {
    JOBS: ["job.*.*.status", "job.*.*.interim", "job.*.*.checkpoint", "job.*.*.result"],
    BULK: ["job.*.*.log", "job.*.*.blob.*"],
}
JOB_KINDS = ("status", "interim", "checkpoint", "result")
KINDS = (*JOB_KINDS, "log")


def event(session_id: str, job_id: str, kind: str) -> str:
    """The subject of a job's events of one kind (one of `KINDS`)."""
    return f"job.{session_id}.{job_id}.{kind}"


def blob(session_id: str, job_id: str, name: str) -> str:
    """The subject that carries the chunks of one large value of a job."""
    return f"job.{session_id}.{job_id}.blob.{name}"


def parse_event(subject: str) -> tuple[str, str, str] | None:
    """(session id, job id, kind) of an event's subject, and None for any other subject."""
    tokens = subject.split(".")
    if len(tokens) != 4 or tokens[0] != "job" or tokens[3] not in KINDS or not (is_id(tokens[1]) and is_id(tokens[2])):
        return None
    return tokens[1], tokens[2], tokens[3]


def control(worker_id: str) -> str:
    return f"worker.{worker_id}.control"


def beat(worker_id: str) -> str:
    return f"beat.{worker_id}"


def fetch(worker_id: str) -> str:
    return f"fetch.{worker_id}"


def inbox(name: str) -> str:
    """The inbox prefix of one credential; each has its own, so that nobody hears another's answers."""
    return f"_INBOX_{name}"


def worker_permissions(worker_id: str, session_id: str, backend: str | None = None) -> tuple[list[str], list[str]]:
    """What a worker may (publish, subscribe): its session's events, its own beat and fetch, its own control subject;
    and ask the gateway of its session's backend, where that has one."""
    publish = [f"job.{session_id}.>", beat(worker_id), fetch(worker_id)]
    if backend is not None:
        publish.append(gateway(backend, session_id, worker_id, "*"))
    return publish, [f"{inbox(worker_id)}.>", control(worker_id)]


# --- gateways

GATEWAY_HERE = "gateway.*.*.*.*"
"""In an instance's account."""
PLATFORM_SUBJECTS = ("gateway.*.*.*.*.*", "lease.*", "describe.*")


def backend_token(name: str) -> str:
    """A backend's name as one token of a subject: names may hold dots, and no tilde."""
    return name.replace(".", "~")


def gateway(backend: str, session_id: str, worker_id: str, verb: str) -> str:
    """Where a worker asks its backend's gateway."""
    return f"gateway.{backend_token(backend)}.{session_id}.{worker_id}.{verb}"


def asked(subject: str) -> tuple[str, str, str, str] | None:
    """(instance id, session id, worker id, verb) of what a gateway hears; None of any other subject."""
    tokens = subject.split(".")
    if len(tokens) != 6 or tokens[0] != "gateway" or not all(map(is_id, (tokens[1], tokens[3], tokens[4]))):
        return None
    return tokens[1], tokens[3], tokens[4], tokens[5]


def lease(backend: str) -> str:
    return f"lease.{backend_token(backend)}"


def describe(backend: str) -> str:
    return f"describe.{backend_token(backend)}"


def gateway_permissions(name: str, backend: str) -> tuple[list[str], list[str]]:
    """What a gateway may (publish, subscribe) in the platform's account; `name` is its credential's own."""
    heard = [f"gateway.*.{backend_token(backend)}.*.*.*", describe(backend)]
    return [lease(backend), describe(backend)], [f"{inbox(name)}.>", *heard]


def reader_permissions(name: str) -> tuple[list[str], list[str]]:
    """What a client may (publish, subscribe): make and delete consumers of its own on the two streams, and hear them.

    `name` is the credential's own; its consumers deliver to its inbox. Nothing of an event can be written with it.
    """
    publish = [f"$JS.API.STREAM.INFO.{stream}" for stream in (JOBS, BULK)]
    for verb in ("CREATE", "INFO", "DELETE"):
        publish += [f"$JS.API.CONSUMER.{verb}.{stream}.>" for stream in (JOBS, BULK)]
    publish += [f"$JS.FC.{stream}.>" for stream in (JOBS, BULK)]
    return publish, [f"{inbox(name)}.>"]
