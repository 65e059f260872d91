"""One namespace of a Kubernetes, in dictionaries as its API has them.

The official client blocks, so call these methods in threads. It is an extra, `neartime[kubernetes]`: import this module
where the executor is chosen. Models of the client are left alone: making them costs more than the requests.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import urllib3.exceptions
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from kubernetes.stream import stream
from websocket import WebSocketException

from neartime_server.errors import ConfigurationError, ExecutorError
from neartime_server.executors.forwarding import Forwarded

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
"""How long the API server may take to answer a request."""
WATCH_SECONDS: Final = 300
"""After which a watch is begun anew, where it was."""
LOG_LINES: Final = 20

Object = dict[str, Any]
"""Of the API, as it is on the wire."""
AWAY: Final = (urllib3.exceptions.HTTPError, OSError)
"""What is raised where the API server can't be reached."""


class Gone(Exception):
    """What a watch was to go on from is too long ago: list anew."""


def words(error: ApiException) -> str:
    """The API server's own."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(error.body or "")["message"])
    return str(error.reason or error.status)


class Cluster:
    """Every method may raise ApiException, and what is in `AWAY`."""

    def __init__(self, namespace: str, kubeconfig: Path | None = None) -> None:
        """
        Args:
            kubeconfig: a file; None for the pod that this runs in, or where it is none, for kubectl's own file.

        Raises:
            ConfigurationError: there is no such file, or it names no cluster.
        """
        self.namespace = namespace
        self._configuration = client.Configuration()
        try:
            _configure(self._configuration, kubeconfig)
        except (ConfigException, OSError) as error:
            raise ConfigurationError(f"no Kubernetes: {error}; name its kubeconfig in NEARTIME_KUBECONFIG") from error
        self._configuration.connection_pool_maxsize = 32
        self._api: Any = client.ApiClient(self._configuration)
        self._core: Any = client.CoreV1Api(self._api)
        self._batch: Any = client.BatchV1Api(self._api)
        self._network: Any = client.NetworkingV1Api(self._api)
        self._watching: Any = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Also ends a watch that another thread reads."""
        self._closed.set()
        with contextlib.suppress(Exception):
            self._watching.shutdown()
        self._api.close()

    # --- pods

    def create(self, pod: Object) -> Object:
        return _read(self._core.create_namespaced_pod(self.namespace, pod, **_options()))

    def patch(self, name: str, changes: list[Object]) -> Object:
        """Carries out a JSON patch on a pod, all of it or nothing. Source: RFC 6902."""
        return _read(self._core.patch_namespaced_pod(name, self.namespace, changes, **_options()))

    def delete(self, name: str, grace: int, uid: str | None = None) -> bool:
        """Whether there was one. It goes when its containers have ended, `grace` seconds later at the latest."""
        body: Object = {"gracePeriodSeconds": grace}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._core.delete_namespaced_pod(name, self.namespace, body=body, **_options())
        except ApiException as error:
            if error.status in (404, 409):  # it is gone, or it is another one of that name
                return False
            raise
        return True

    def pods(self, selector: str) -> tuple[list[Object], str]:
        """Those with these labels, and the version of the list, from which `watch` goes on."""
        found = _read(self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_options()))
        return found["items"], found["metadata"]["resourceVersion"]

    def watch(self, selector: str, version: str) -> Iterator[Object]:
        """Events since a version: `type` and `object`; bookmarks among them. It ends after some minutes.

        Raises:
            Gone: the version is too old.
        """
        answer = self._core.list_namespaced_pod(
            self.namespace,
            label_selector=selector,
            resource_version=version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_SECONDS,
            _preload_content=False,
            _request_timeout=(CONNECT_SECONDS, WATCH_SECONDS + ANSWER_SECONDS),
        )
        self._watching = answer
        try:
            if self._closed.is_set():
                return
            for line in _lines(answer):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise Gone
                    raise ApiException(status=event["object"].get("code"), reason=event["object"].get("message"))
                yield event
        finally:
            answer.release_conn()

    def log(self, name: str) -> str:
        """The end of what a pod's container has said; empty where that can't be had."""
        try:
            answer = self._core.read_namespaced_pod_log(name, self.namespace, tail_lines=LOG_LINES, **_options())
            return bytes(answer.data).decode(errors="replace").strip()
        except ApiException:
            return ""

    def events(self, name: str, kind: str = "Pod") -> list[Object]:
        """What was said about a pod, the latest last."""
        selector = f"involvedObject.name={name},involvedObject.kind={kind}"
        found = _read(self._core.list_namespaced_event(self.namespace, field_selector=selector, **_options()))
        return sorted(found["items"], key=lambda one: one.get("lastTimestamp") or one.get("eventTime") or "")

    def say(self, name: str, line: str, seconds: float) -> str:
        """Writes a line to a container's standard input; returns the line that it answers, or nothing.

        Raises:
            ExecutorError: nothing could be written.
        """
        # A client of its own: the official way to a websocket replaces a method of the client for a moment.
        api = client.CoreV1Api(client.ApiClient(self._configuration))
        try:
            attached = stream(
                api.connect_get_namespaced_pod_attach,
                name, self.namespace, stdin=True, stdout=True, stderr=False, _preload_content=False,
            )  # fmt: skip
        except ApiException as error:
            raise ExecutorError(f"its pod can't be attached to: {words(error)}") from error
        try:
            attached.sock.settimeout(ANSWER_SECONDS)
            attached.write_stdin(f"{line}\n")
            return str(attached.readline_stdout(timeout=seconds) or "")
        except WebSocketException as error:  # the container has ended, or its node's connection
            raise ExecutorError(f"its pod can't be spoken to: {error}") from error
        finally:
            attached.close()
            api.api_client.close()

    # --- jobs

    def create_job(self, job: Object) -> Object:
        return _read(self._batch.create_namespaced_job(self.namespace, job, **_options()))

    def delete_job(self, name: str) -> bool:
        """With its pod. Whether there was one."""
        body = {"propagationPolicy": "Background"}
        try:
            self._batch.delete_namespaced_job(name, self.namespace, body=body, **_options())
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def job(self, name: str) -> Object | None:
        try:
            return _read(self._batch.read_namespaced_job(name, self.namespace, **_options()))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def jobs(self, selector: str) -> list[Object]:
        found: list[Object] = _read(
            self._batch.list_namespaced_job(self.namespace, label_selector=selector, **_options())
        )["items"]
        return found

    @contextlib.contextmanager
    def forwarded(self, name: str, port: int) -> Iterator[Forwarded]:
        """A connection to a port of a pod's loopback.

        Raises:
            OSError: the pod can't be reached.
        """
        api = client.CoreV1Api(client.ApiClient(self._configuration))  # of its own, as in `say`
        try:
            opened = stream(
                api.connect_get_namespaced_pod_portforward,
                name, self.namespace, ports=str(port), _preload_content=False,
            )  # fmt: skip
        except ApiException as error:
            api.api_client.close()
            raise ConnectionError(f"its pod can't be reached: {words(error)}") from error
        try:
            opened.sock.settimeout(ANSWER_SECONDS)
            yield Forwarded(opened.sock)
        finally:
            opened.close()
            api.api_client.close()

    # --- network policies

    def ensure_policy(self, policy: Object) -> None:
        """Has a NetworkPolicy there as it is given."""
        name = policy["metadata"]["name"]
        try:
            self._network.create_namespaced_network_policy(self.namespace, policy, **_options())
        except ApiException as error:
            if error.status != 409:
                raise
            self._network.patch_namespaced_network_policy(name, self.namespace, policy, **_options())


def _configure(configuration: client.Configuration, kubeconfig: Path | None) -> None:
    incluster: Any = config.load_incluster_config  # the client has no types for these
    from_file: Any = config.load_kube_config
    if kubeconfig is None:
        try:
            incluster(client_configuration=configuration)
            return
        except ConfigException:  # this is no pod
            pass
    file = None if kubeconfig is None else str(kubeconfig)
    from_file(file, client_configuration=configuration, persist_config=False)


def _options() -> dict[str, Any]:
    return {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, ANSWER_SECONDS)}


def _read(answer: Any) -> Object:
    found: Object = json.loads(answer.data)
    return found


def _lines(answer: Any) -> Iterator[bytes]:
    rest = b""
    for piece in answer.stream(amt=None, decode_content=False):
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, lines)
