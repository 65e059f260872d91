"""Images of a Docker Engine: had where they are needed, and asked once which contract their runner speaks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import docker
import requests
from docker.errors import APIError, ImageNotFound, NotFound

from neartime_server.errors import ExecutorError

CHECK_SECONDS: Final = 60.0
"""How long an image's runner may take to say its version, on a busy machine."""


def said(error: APIError) -> str:
    """The engine's own words."""
    return str(error.explanation or error).strip()


class Images:
    """Its methods block: call them in threads. Each raises `APIError` where the engine refuses."""

    def __init__(
        self,
        home: Path,
        engine: Callable[[], docker.DockerClient],
        credentials: Callable[[str], dict[str, str] | None],
        held: Callable[[], dict[str, Any]],
    ) -> None:
        """
        Args:
            credentials: of a registry, by its host.
            held: arguments of a container that may do nothing: whose it is, and what it is held to.
        """
        self._home, self._engine, self._credentials, self._held = home, engine, credentials, held

    def contract(self, image: str, python: str) -> int:
        """The contract version of an image's runner. An image does not change, so each is asked once and for all; of
        those that Neartime has made on one base, with the same packages and the same runner, one."""
        self._have(image)
        found = self._engine().images.get(image)
        made = [str(found.labels.get(f"neartime.{name}") or "") for name in ("recipe", "environment", "runner")]
        content = f"{' '.join(made[1:]) if all(made) else found.id} {python}"
        file = self._home / "run" / "images" / hashlib.sha256(content.encode()).hexdigest()
        with contextlib.suppress(OSError, ValueError):
            return int(file.read_text())
        contract = self._version(image, python)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(str(contract))
        draft.replace(file)
        return contract

    def _have(self, image: str) -> None:
        """Pulls an image, unless it is there."""
        api = self._engine().api
        with contextlib.suppress(ImageNotFound):
            self._engine().images.get(image)
            return
        host = image.partition("/")[0] if "/" in image else ""
        try:
            lines = api.pull(image, stream=True, decode=True, auth_config=self._credentials(host))
            problem = next((line["error"] for line in lines if "error" in line), None)
        except APIError as error:
            problem = said(error)
        if problem is not None:
            raise ExecutorError(f"the image {image} is not there and can't be pulled: {problem}")

    def _version(self, image: str, python: str) -> int:
        """The contract version that the runner in an image states."""
        api = self._engine().api
        made = api.create_container(
            image,
            [python, "-m", "neartime_runner", "version"],
            entrypoint=[],
            **self._held(),
        )["Id"]
        try:
            api.start(made)
            code = api.wait(made, timeout=round(CHECK_SECONDS))["StatusCode"]
            output = api.logs(made, stdout=True, stderr=False).decode(errors="replace")
            errors = api.logs(made, stdout=False, stderr=True, tail=5).decode(errors="replace").strip()
        except APIError as error:
            raise ExecutorError(f"the image {image} has no {python} that could be started: {said(error)}") from error
        except requests.exceptions.RequestException as error:
            raise ExecutorError(f"the runner in {image} does not say its version: {error}") from error
        finally:
            with contextlib.suppress(NotFound):
                api.remove_container(made, force=True, v=True)
        if code == 0:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                return int(json.loads(output)["contract"])
        if "neartime_runner version" in errors or "invalid choice" in errors:
            return 0  # of a time when it could not say
        raise ExecutorError(
            f"the image {image} does not carry a runner that works; install neartime[runner] in it: "
            f"{errors or output or f'exit code {code}'}"
        )
