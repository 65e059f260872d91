"""Images made by a Docker Engine, and pushed to a registry where there is one.

Two images: what programs of one lock share, built once and kept by its content; and the program on top of it. Nothing
is executed in a build, so nothing is fetched there, and no credential is in any of its steps.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import IO, Any, Final

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.images import Image
from urllib3.exceptions import HTTPError

from neartime.contract.problem import ErrorCode
from neartime.oci import Credentials, Reference
from neartime_server.builder.images.layers import Layer
from neartime_server.builder.images.recipe import ENVIRONMENTS, LABEL, Recipe
from neartime_server.builder.protocol import Tell
from neartime_server.builder.remedies import ENGINE, REGISTRY, solution_of
from neartime_server.errors import BuildFailed, Refused

Auth = dict[str, str] | None
"""A login as the SDK takes it."""
TAIL: Final = 40
"""Lines of a build's log that an error carries."""


class EngineMaker:
    def __init__(
        self, client: docker.DockerClient, prefix: str, credentials: Credentials, *, pushes: bool = True
    ) -> None:
        """
        Args:
            prefix: what images' names begin with: a registry and the beginning of its repositories' names; or where
                nothing is pushed, `local`.
        """
        self._client, self._credentials = client, credentials
        self._pushes, self._prefix = pushes, prefix.rstrip("/")

    async def base(self, reference: str) -> tuple[str, dict[str, Any]]:
        name = str(Reference.parse(reference))
        what, login = f"the base image {name} can't be had", await self._login(name)
        return await asyncio.to_thread(self._guarded, what, lambda: self._find_base(name, login))

    async def find(self, recipe: Recipe) -> str | None:
        what, login = "the engine does not say what it has", await self._login(self._prefix)
        return await asyncio.to_thread(self._guarded, what, lambda: self._found(recipe, login))

    async def labels(self, image: str) -> dict[str, str] | None:
        what, login = f"the image {image} can't be looked at", await self._login(self._prefix)
        return await asyncio.to_thread(self._guarded, what, lambda: self._labels(image, login))

    async def make(self, recipe: Recipe, layers: list[Layer], tell: Tell) -> str:
        loop = asyncio.get_running_loop()

        def told(line: str) -> None:
            loop.call_soon_threadsafe(tell, line)

        login = await self._login(self._prefix)
        return await asyncio.to_thread(
            self._guarded, "the image can't be built", lambda: self._make(recipe, layers, told, login)
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def _login(self, name: str) -> Auth:
        login = await self._credentials.find(Reference.parse(name).registry)
        if login is None:
            return None
        return {"username": login.username, "password": login.password, "identitytoken": login.identity_token}

    # --- in a thread

    def _guarded(self, what: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (DockerException, OSError, HTTPError) as error:
            raise BuildFailed(f"{what}: {_words(error)}", "", solution_of(error, ENGINE)) from error

    def _find_base(self, name: str, login: Auth) -> tuple[str, dict[str, Any]]:
        try:
            image = self._client.images.get(name)
        except ImageNotFound:
            try:
                image = self._pull(name, login)
            except NotFound as error:
                message = f"there is no image {name}: {_words(error)}"
                raise Refused.of(422, ErrorCode.UNSUPPORTED_IMAGE, message, path="manifest.image") from error
        repository = Reference.parse(name).name
        digests = [
            one for one in image.attrs.get("RepoDigests") or [] if one.rpartition("@")[0] == _familiar(repository)
        ]
        return (digests or [str(image.id)])[0], {"config": image.attrs.get("Config") or {}}

    def _labels(self, name: str, login: Auth) -> dict[str, str] | None:
        try:
            return dict(self._client.images.get(name).labels)
        except ImageNotFound:
            if not self._pushes:
                return None
        try:
            return dict(self._pull(name, login).labels)
        except NotFound:
            return None

    def _pull(self, name: str, login: Auth) -> Image:
        for event in self._client.api.pull(name, stream=True, decode=True, auth_config=login):
            if "error" in event:
                raise BuildFailed(
                    f"{name} can't be pulled: {event['error']}", "", solution_of(event["error"], REGISTRY)
                )
        return self._client.images.get(name)

    def _found(self, recipe: Recipe, login: Auth) -> str | None:
        repository = f"{self._prefix}/{recipe.manifest.name}"
        try:
            image = self._client.images.get(f"{repository}:{recipe.tag}")
        except ImageNotFound:
            return None
        if not self._pushes:
            return str(image.id)
        digests = [one for one in image.attrs.get("RepoDigests") or [] if one.rpartition("@")[0] == repository]
        return digests[0] if digests and self._in_registry(f"{repository}:{recipe.tag}", login) else None

    def _in_registry(self, name: str, login: Auth) -> bool:
        try:
            self._client.images.get_registry_data(name, auth_config=login)
        except NotFound:
            return False
        return True

    def _make(self, recipe: Recipe, layers: list[Layer], tell: Tell, login: Auth) -> str:
        shared = [layer for layer in layers if layer.what != "program"]
        under = recipe.base.reference
        if shared:
            under = f"{self._prefix}/{ENVIRONMENTS}:{recipe.environment[:32]}-{recipe.runner[:32]}"
            try:
                self._client.images.get(under)
            except ImageNotFound:
                label = _pairs("LABEL", {f"{LABEL}environment": recipe.environment})
                adding = (f"ADD {layer.what}.tar.gz /" for layer in shared)
                steps = [f"FROM {recipe.base.reference}", *self._settings(recipe), *adding, label]
                self._build(under, steps, shared, tell)
        (program,) = (layer for layer in layers if layer.what == "program")
        # Each step costs the engine a container: those that are the same for all programs are in the image below.
        settings = [] if shared else self._settings(recipe)
        steps = [f"FROM {under}", *settings, "ADD program.tar.gz /", _pairs("LABEL", recipe.labels)]
        name = f"{self._prefix}/{recipe.manifest.name}:{recipe.tag}"
        built = self._build(name, steps, [program], tell)
        if not self._pushes:
            tell(f"{built} is there")
            return built
        try:
            pinned = self._push(name, tell, login)
        except BaseException:
            with suppress(DockerException, OSError):  # of an engine that is gone, too: without a digest it is not found
                self._client.images.remove(name, noprune=True)  # it is not there for whoever looks in the registry
            raise
        tell(f"{pinned} is there")
        return pinned

    def _settings(self, recipe: Recipe) -> list[str]:
        """How an image runs, on top of its base."""
        config = recipe.configured(self._client.images.get(recipe.base.reference).attrs["Config"])
        return [
            _pairs("ENV", dict(one.split("=", 1) for one in config["Env"])),
            f"USER {config['User']}",
            f"WORKDIR {config['WorkingDir']}",
            "ENTRYPOINT []",
            f"CMD {json.dumps(config['Cmd'])}",
        ]

    def _build(self, name: str, steps: Iterable[str], layers: list[Layer], tell: Tell) -> str:
        tell(f"building {name}")
        lines: list[str] = []
        with _context(steps, layers) as context:
            said = self._client.api.build(
                fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True, decode=True,
                network_mode="none",
            )  # fmt: skip
            image = ""
            for event in said:
                if "error" in event:
                    solution = solution_of(event["error"], ENGINE)
                    raise BuildFailed(f"the image can't be built: {event['error']}", "\n".join(lines[-TAIL:]), solution)
                if line := str(event.get("stream", "")).rstrip():
                    lines.append(line)
                    tell(line)
                image = (event.get("aux") or {}).get("ID", image)
        if not image:  # the engine was ended in the middle
            raise BuildFailed("the image can't be built: the engine ended the build", "\n".join(lines[-TAIL:]), ENGINE)
        return image

    def _push(self, name: str, tell: Tell, login: Auth) -> str:
        repository, _, tag = name.rpartition(":")
        tell(f"pushing {name}")
        digest = ""
        said = self._client.api.push(repository, tag, stream=True, decode=True, auth_config=login)
        for event in said:
            if "error" in event:
                solution = solution_of(event["error"], REGISTRY)
                raise BuildFailed(f"the image can't be pushed: {event['error']}", "", solution)
            digest = (event.get("aux") or {}).get("Digest", digest)
        if not digest:
            said = f"the engine does not say which digest {name} has"
            raise BuildFailed(f"the image can't be pushed: {said}", "", ENGINE)
        return f"{repository}@{digest}"


def _context(steps: Iterable[str], layers: Iterable[Layer]) -> IO[bytes]:
    """A build's context as a tar: the Dockerfile, and the layers as files."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
    with tarfile.open(fileobj=file, mode="w") as tar:
        text = "\n".join(steps).encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        for layer in layers:
            tar.add(layer.file, f"{layer.what}.tar.gz", filter=_plain)
    file.seek(0)
    return file


def _pairs(instruction: str, values: Mapping[str, str]) -> str:
    """`LABEL a="b" c="d"`. Source: Dockerfile reference, "Escape" and "Environment replacement"."""
    quoted = (f'"{name}"' if instruction == "LABEL" else name for name in values)
    texts = ('"' + re.sub(r'(["\\\\$])', r"\\\1", value.replace("\n", " ")) + '"' for value in values.values())
    return f"{instruction} " + " ".join(f"{name}={text}" for name, text in zip(quoted, texts, strict=True))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode = 0, 0, 0, "", "", 0o644
    return entry


def _familiar(name: str) -> str:
    """As the engine writes it: without what stands for Docker Hub."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def _words(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return str(explanation or error)
