"""The builder of container executors: an image for each version, made of layers that are made once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import platform
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol

from neartime.contract.problem import ErrorCode
from neartime.contract.programs import Manifest, digest
from neartime.errors import InvalidReference
from neartime.oci import Reference
from neartime.packaging import pack
from neartime_server.builder import needs, uv
from neartime_server.builder.images.layers import Layer, Layers
from neartime_server.builder.images.recipe import ENVIRONMENTS, LABEL, PACKAGES, PROGRAM, RUNNER, Base, Recipe
from neartime_server.builder.images.remote import Remote
from neartime_server.builder.locks import Locks
from neartime_server.builder.once import Once
from neartime_server.builder.programs import materialize
from neartime_server.builder.protocol import Built, Source, Tell, tell_nobody
from neartime_server.builder.remedies import solution_of
from neartime_server.builder.uv import Interpreter, Target
from neartime_server.errors import BuildFailed, Refused

log = logging.getLogger(__name__)

KNOWN: Final = 1000
KNOWN_SECONDS: Final = 600.0
"""How many images' labels are held, and for how long it stands that an image is there."""
GLIBC: Final = "manylinux_2_28"
"""What wheels may ask of the base image's C library: that of Debian 11 and RHEL 8, and of all that came after."""


class ImageMaker(Protocol):
    """Puts images together, and knows those that are there."""

    async def base(self, reference: str) -> tuple[str, dict[str, Any]]:
        """A base image's reference by its digest, and its configuration.

        Raises:
            Refused: 422, there is no such image.
            BuildFailed: the registry or the engine does not answer.
        """

    async def find(self, recipe: Recipe) -> str | None:
        """Reference by its digest of the image of this recipe, where it is there."""

    async def labels(self, image: str) -> dict[str, str] | None:
        """What an image that was made says of itself; None where it is gone. `image` is as `make` gave it.

        Raises:
            BuildFailed: the registry or the engine does not answer.
        """

    async def make(self, recipe: Recipe, layers: list[Layer], tell: Tell) -> str:
        """Make the image of these layers on top of the recipe's base. Returns its reference by its digest.

        Raises:
            BuildFailed: it can't be made; nothing of it is left that could be taken for it.
        """

    async def close(self) -> None: ...


class ImageBuilder:
    """Keeps layers in a home, and has a maker make images of them."""

    def __init__(
        self,
        home: Path,
        maker: ImageMaker,
        base: str,
        remote: Callable[[Layers], Remote] | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        """
        Args:
            base: reference of the image that programs are built on; `{python}` in it stands for a minor version.
            remote: makes what fetches packages elsewhere; without, they are fetched here.
            ahead: whether the image that programs without requirements share is made before there is one.
        """
        self._home, self._maker, self._base, self._ahead = home, maker, base, ahead
        self._layers = Layers(home / "layers")
        self._remote = remote(self._layers) if remote is not None else None
        self._locks = Locks(home / "layers" / "resolved", home / "logs" / "builds")
        self._here = uv.this_python()
        self._once = Once()
        self._known: dict[str, tuple[Built, float]] = {}

    async def build(self, source: Source, tell: Tell = tell_nobody) -> Built:
        try:
            return await self._build(source, tell)
        except OSError as error:
            raise BuildFailed(f"the image's layers can't be written: {error}", "", solution_of(error)) from error

    async def _build(self, source: Source, tell: Tell) -> Built:
        if source.image is not None and (made := await self._made(source.image, source.lock)) is not None:
            return made
        base = await self._base_of(source.manifest)
        tell(f"on {base.reference}, Python {base.minor}")
        lock = None
        if not base.complete:
            requirements = needs.wanted(source.manifest)
            lock = source.lock
            if lock is None or not needs.serves(lock, base.minor):
                tell(f"resolving {', '.join(requirements) or 'the runner'} for Python {base.minor}")
                lock = await self._locks.resolve(
                    self._here, requirements, needs.own(base.minor), self._target(base.minor)
                )
            needs.check_lock(lock)
        recipe = Recipe(base, lock, needs.runner_digest(), source.manifest, source.digest)
        image = await self._once(recipe.tag, lambda: self._image(recipe, source, tell))
        return self._built(recipe, image)

    async def ready(self) -> Built | None:
        if not self._ahead:
            return None
        manifest = Manifest(name=ENVIRONMENTS, description="What programs without requirements run in.")

        async def archive() -> bytes:
            return pack({})

        return await self.build(Source(manifest, digest(manifest, {}), archive))

    async def close(self) -> None:
        await self._locks.close()
        await self._once.close()
        if self._remote is not None:
            await self._remote.close()
        await self._maker.close()

    def _built(self, recipe: Recipe, image: str) -> Built:
        return Built(f"sha256:{recipe.environment}", recipe.lock, Path(recipe.base.python), str(PROGRAM), image)

    async def _made(self, image: str, lock: str | None) -> Built | None:
        """What was made for a version before. Where it is gone it is made again, of the same packages."""
        known, at = self._known.get(image, (None, 0.0))
        if known is not None and time.monotonic() - at < KNOWN_SECONDS:
            return known
        labels = await self._maker.labels(image)
        if labels is None:
            log.warning("the image %s is gone, and is made again", image)
            return None
        try:
            environment, python = labels[f"{LABEL}environment"], Path(labels[f"{LABEL}python"])
        except KeyError as error:
            message = f"the image {image} does not say what it has: it lacks the label {error}"
            raise BuildFailed(message, "", "upload the program again") from error
        built = Built(f"sha256:{environment}", lock, python, str(PROGRAM), image)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[image] = built, time.monotonic()
        return built

    # --- base and packages

    async def _base_of(self, manifest: Manifest) -> Base:
        if manifest.image is not None:
            reference, complete = _named(manifest.image.base), manifest.image.complete
        else:
            reference, complete = self._base.format(python=await self._minor(manifest)), False
        pinned, config = await self._maker.base(reference)
        found = Base.of(pinned, config, complete=complete)
        if not _runs_on(manifest, found.minor):
            raise needs.no_python(manifest, [f"{found.minor} in {reference}"])
        return found

    async def _minor(self, manifest: Manifest) -> str:
        """The newest Python that a program can run on, the server's own if that will do."""
        for minor in dict.fromkeys([self._here.minor, *needs.MINORS]):
            if _runs_on(manifest, minor):
                return minor
        raise needs.no_python(manifest, ["3.10 to 3.14"])

    # --- the image

    async def _image(self, recipe: Recipe, source: Source, tell: Tell) -> str:
        if (found := await self._maker.find(recipe)) is not None:
            tell(f"{found} is there already")
            return found
        layers = []
        if recipe.lock is not None:
            layers.append(await self._once(f"packages {recipe.environment}", lambda: self._packages(recipe, tell)))
            layers.append(await self._once(f"runner {recipe.base.minor}", lambda: self._runner(recipe)))
        layers.append(await self._program(recipe, source))
        return await self._maker.make(recipe, layers, tell)

    async def _packages(self, recipe: Recipe, tell: Tell) -> Layer:
        assert recipe.lock is not None
        name = hashlib.sha256(recipe.lock.encode()).hexdigest()
        if (known := self._layers.known("packages", name)) is not None:
            return known
        tell(f"fetching {len(needs.pinned(recipe.lock))} packages")
        if self._remote is not None:
            return await self._remote.packages(recipe.base, recipe.lock, name, self._target(recipe.base.minor), tell)
        async with self._draft() as draft:
            folder, build_log = draft / "packages", self._log(f"packages-{name[:12]}")
            await uv.install(self._here, recipe.lock, folder, self._target(recipe.base.minor), build_log)
            shutil.rmtree(folder / "bin", ignore_errors=True)
            await self._compile(folder, PACKAGES, recipe.base.minor, build_log)
            tell("packing them")
            return await asyncio.to_thread(self._layers.pack, "packages", name, [(PACKAGES, folder)])

    async def _runner(self, recipe: Recipe) -> Layer:
        """Neartime's own packages as this server has them, so that the two can't drift."""
        name = needs.runner_layer(recipe.base.minor)
        if (known := self._layers.known("runner", name)) is not None:
            return known
        async with self._draft() as draft:
            folder = draft / "runner"
            await asyncio.to_thread(needs.copy, folder)
            await self._compile(folder, RUNNER, recipe.base.minor, self._log("runner"))
            return await asyncio.to_thread(self._layers.pack, "runner", name, [(RUNNER, folder)])

    async def _program(self, recipe: Recipe, source: Source) -> Layer:
        name = recipe.program.removeprefix("sha256:")
        if (known := self._layers.known("program", name)) is not None:
            return known
        folder = await asyncio.to_thread(materialize, self._home, source.digest, await source.archive())
        return await asyncio.to_thread(self._layers.pack, "program", name, [(PROGRAM, folder)])

    async def _compile(self, folder: Path, place: PurePosixPath, minor: str, build_log: Path) -> None:
        """Byte code saves each worker seconds. It takes a Python of that version here; without one there is none."""
        interpreter = await self._interpreter(minor)
        if interpreter is None:
            log.info("there is no Python %s on this machine: images of it have no byte code", minor)
            return
        options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", str(place)]
        command = ["-I", "-m", "compileall", *options, str(folder)]
        try:
            await uv.run_python(interpreter.path, command, build_log, "byte code can't be made")
        except BuildFailed as error:  # a file of a package that is meant for another Python
            log.info("%s: %s", error, error.log)

    async def _interpreter(self, minor: str) -> Interpreter | None:
        if self._here.minor == minor:
            return self._here
        return next((one for one in await uv.interpreters() if one.minor == minor), None)

    @asynccontextmanager
    async def _draft(self) -> AsyncIterator[Path]:
        folder = self._home / "layers" / f".making-{secrets.token_hex(8)}"
        folder.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _target(self, minor: str) -> Target:
        machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
        return Target(minor, f"{machine}-{GLIBC}")

    def _log(self, name: str) -> Path:
        folder = self._home / "logs" / "builds"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{name}.log"


def _named(reference: str) -> str:
    try:
        return str(Reference.parse(reference))
    except InvalidReference as error:
        raise Refused.of(422, ErrorCode.UNSUPPORTED_IMAGE, str(error), path="manifest.image") from error


def _runs_on(manifest: Manifest, minor: str) -> bool:
    """Whether a program takes a release of this minor version of Python."""
    pythons = needs.pythons(manifest)
    return any(pythons.contains(f"{minor}.{patch}", prereleases=True) for patch in range(40))
