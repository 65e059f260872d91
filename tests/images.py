"""The images that tests run: a base with Debian's Python, made here, and the runner on top of it.

No registry with images can be reached, so both are made of packages, on this machine, and kept in a cache folder as
layers, each under a key of what it is made of. A change of Neartime's own code makes a small layer anew, a change of
the lock the layer with Qiskit, a change of the recipe below everything. `python tests/images.py` fills
the cache with what takes minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import httpx
import uv

from neartime.contract.version import CONTRACT_VERSION

ROOT = Path(__file__).parent.parent
PYTHON = "3.11"
"""The suite's own."""
_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_NOT_NEEDED = (
    "var/cache/apt",
    "var/cache/ldconfig",  # differs each time
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
)
_BASE_RECIPE = 2
_RECIPE = 2
"""To be raised where this module makes a layer in another way."""
_PREFIX = "opt/neartime"
"""Where the runner's virtual environment is in its image."""
_USER = "65532:65532"
_EPOCH = "315532800"
"""The time of every file, 1980: the same content is the same layer. Archives of Python can't hold an earlier one."""


@dataclass(frozen=True)
class Layer:
    """A compressed tar archive in the cache."""

    digest: str
    """Of what is sent: compressed."""
    size: int
    diff_id: str
    """The digest of what is in it: the archive before it was compressed."""


@dataclass(frozen=True)
class Image:
    layers: Sequence[Layer]
    settings: Mapping[str, object]
    """`config` of the image's configuration: user, environment, command."""

    @cached_property
    def configuration(self) -> bytes:
        return _json(
            {
                "architecture": _architecture()[1],
                "os": "linux",
                "created": "1980-01-01T00:00:00Z",
                "config": self.settings,
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            }
        )

    @cached_property
    def manifest(self) -> bytes:
        kind = "application/vnd.oci.image"
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{kind}.manifest.v1+json",
                "config": {
                    "mediaType": f"{kind}.config.v1+json",
                    "digest": _digest(self.configuration),
                    "size": len(self.configuration),
                },
                "layers": [
                    {"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size}
                    for layer in self.layers
                ],
            }
        )

    def with_folder(self, folder: Path, place: str) -> Image:
        """This image with a folder's files at a place in it."""
        files = {str(path.relative_to(folder)): _digest(path.read_bytes()) for path in sorted(folder.rglob("*.py"))}

        def make(root: Path) -> Path:
            shutil.copytree(folder, root / "layer-root" / place)
            return root / "layer-root"

        return Image([*self.layers, _layer("folder", [place, files], make)], self.settings)

    def push(self, registry: str, name: str, tag: str) -> str:
        """Pushes what an open registry lacks of it; returns its digest there.

        Args:
            registry: its URL.
        """
        with httpx.Client(base_url=f"{registry}/v2/{name}/", trust_env=False, timeout=120) as client:
            for layer in self.layers:
                with _blob(layer.digest).open("rb") as data:
                    self._upload(client, layer.digest, layer.size, iter(lambda: data.read(1 << 20), b""))
            self._upload(client, _digest(self.configuration), len(self.configuration), iter([self.configuration]))
            content = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
            client.put(f"manifests/{tag}", content=self.manifest, headers=content).raise_for_status()
        return _digest(self.manifest)

    @staticmethod
    def _upload(client: httpx.Client, digest: str, size: int, data: Iterator[bytes]) -> None:
        if client.head(f"blobs/{digest}").status_code == 200:
            return
        begun = client.post("blobs/uploads/").raise_for_status()
        url = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest})
        client.put(url, content=data, headers={"Content-Length": str(size)}).raise_for_status()


def base_image() -> Image:
    """A minimal Debian with its Python, which is also called `python`. Labels say which it is."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with _turn():
        labels = {"neartime.python": "/usr/bin/python3", "neartime.python-version": PYTHON}
        return Image((_base(),), {"Env": [f"PATH={path}", "LANG=C.UTF-8"], "Cmd": ["python3"], "Labels": labels})


def runner_image() -> Image:
    """The base, Neartime's runner, Qiskit and Aer in a virtual environment, as a user without rights."""
    with _turn():
        layers = (_base(), _dependencies(), _neartime())
    path = f"/{_PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"
    settings = {
        "Env": [f"PATH={path}", "LANG=C.UTF-8", "HOME=/tmp"],
        "Cmd": ["python"],
        "User": _USER,
        "WorkingDir": "/",
        "Labels": {
            "neartime.python": f"/{_PREFIX}/bin/python",
            "neartime.python-version": PYTHON,
            "neartime.contract": str(CONTRACT_VERSION),
        },
    }
    return Image(layers, settings)


# --- the layers


def _base() -> Layer:
    recipe = [_BASE_RECIPE, _SUITE, _architecture()[0], _PACKAGES, _NOT_NEEDED]

    def make(folder: Path) -> Path:
        _call(
            "debootstrap", "--variant=minbase", f"--arch={_architecture()[0]}", f"--include={','.join(_PACKAGES)}",
            _SUITE, folder / "root",
        )  # fmt: skip
        for path in _NOT_NEEDED:
            for entry in (folder / "root" / path).iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (folder / "root" / "usr/bin/python").symlink_to("python3")
        # Debian's byte code names the times of its sources, which are others in a layer.
        _call(
            "chroot", folder / "root", "/usr/bin/python3", "-m", "compileall", "-q", "-f",
            "--invalidation-mode", "unchecked-hash", f"/usr/lib/python{PYTHON}", "/usr/lib/python3",
        )  # fmt: skip
        return folder / "root"

    return _layer("base", recipe, make)


def _dependencies() -> Layer:
    """Everything but Neartime itself, as the lock has it."""
    extras = ("--extra", "runner", "--extra", "qiskit")
    lock = _uv("export", "--quiet", "--frozen", "--no-emit-project", "--no-header", "--no-annotate", *extras)
    recipe = [_RECIPE, _base().digest, lock]

    def make(folder: Path) -> Path:
        (folder / "lock.txt").write_text(lock)
        environment = folder / "root" / _PREFIX
        # nkeys is pure Python, and the index has its source alone. All else is made for the image's platform.
        _uv(
            "pip", "install", "--quiet", "--require-hashes", "--no-deps",
            "--only-binary", ":all:", "--no-binary", "nkeys",
            "--python-version", PYTHON, "--python-platform", f"{_architecture()[2]}-manylinux_2_36",
            "--link-mode", "copy", "--target", _packages(environment), "-r", folder / "lock.txt",
        )  # fmt: skip
        # Its programs are for an interpreter of this machine.
        shutil.rmtree(_packages(environment) / "bin", ignore_errors=True)
        (environment / "bin").mkdir()
        for name in ("python", "python3", f"python{PYTHON}"):
            (environment / "bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")
        (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        _compile(folder / "root")
        return folder / "root"

    return _layer("dependencies", recipe, make)


def _neartime() -> Layer:
    """Neartime's own wheel, of the code as it is now."""
    with tempfile.TemporaryDirectory() as built:
        _uv("build", "--quiet", "--wheel", "--out-dir", built)
        [wheel] = Path(built).glob("*.whl")
        recipe = [_RECIPE, _base().digest, _digest(wheel.read_bytes())]

        def make(folder: Path) -> Path:
            packages = _packages(folder / "root" / _PREFIX)
            packages.mkdir(parents=True)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
            _compile(folder / "root")
            return folder / "root"

        return _layer("neartime", recipe, make)


def _packages(environment: Path) -> Path:
    return environment / "lib" / f"python{PYTHON}" / "site-packages"


def _compile(root: Path) -> None:
    """Compiles what is below the prefix, by the image's own Python; without, each import compiles again."""
    with tempfile.TemporaryDirectory(dir=_cache()) as system:
        _call("tar", "-xf", _blob(_base().digest), "-C", system)
        (Path(system) / "dev/shm").mkdir(parents=True)  # where several processes have their locks
        (root / _PREFIX).rename(Path(system) / _PREFIX)
        try:
            _call(
                "chroot", system, "/usr/bin/python3", "-m", "compileall", "-q", "-j", os.cpu_count() or 1,
                "--invalidation-mode", "unchecked-hash", f"/{_PREFIX}",
            )  # fmt: skip
        finally:
            (Path(system) / _PREFIX).rename(root / _PREFIX)


# --- the cache


def _layer(name: str, recipe: object, make: Callable[[Path], Path]) -> Layer:
    """The layer of that recipe: out of the cache, or made."""
    record = _cache() / f"{name}-{_digest(_json(recipe))[7:39]}.json"
    with contextlib.suppress(OSError, ValueError):
        layer = Layer(**json.loads(record.read_text()))
        if _blob(layer.digest).stat().st_size == layer.size:
            os.utime(record)
            return layer
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_cache()) as folder:
        layer = _pack(make(Path(folder)), Path(folder))
    record.write_text(json.dumps(asdict(layer)))
    print(f"layer {name}: {layer.size / 1e6:.1f} MB, made in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    _forget()
    return layer


def _pack(root: Path, folder: Path) -> Layer:
    # A system keeps its owners and modes; the rest is root's, for all to read whatever this process's umask is.
    options = [] if (root / "etc").exists() else ["--owner=0", "--group=0", "--mode=go+rX"]
    command = [
        "tar", "--create", "--sort=name", "--numeric-owner", f"--mtime=@{_EPOCH}", *options,
        *(f"--exclude=./{path}/*" for path in ("dev", "proc", "sys")), "-C", str(root), ".",
    ]  # fmt: skip
    content, packed = hashlib.sha256(), hashlib.sha256()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as tar,
        (folder / "layer").open("w+b") as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) as archive,  # type: ignore[arg-type]
    ):
        assert tar.stdout is not None
        while data := tar.stdout.read(1 << 20):
            content.update(data)
            archive.write(data)
    assert tar.returncode == 0, "tar failed"
    with (folder / "layer").open("rb") as file:
        while data := file.read(1 << 20):
            packed.update(data)
    layer = Layer(f"sha256:{packed.hexdigest()}", (folder / "layer").stat().st_size, f"sha256:{content.hexdigest()}")
    (folder / "layer").rename(_blob(layer.digest))
    return layer


def _forget(days: float = 14) -> None:
    """Removes layers that nobody has asked for in so many days."""
    kept = set()
    for record in _cache().glob("*.json"):
        if time.time() - record.stat().st_mtime > days * 86400:
            record.unlink()
        else:
            kept.add(_blob(json.loads(record.read_text())["digest"]).name)
    for blob in (_cache() / "blobs").iterdir():
        if blob.name not in kept:
            blob.unlink()


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neartime" / "images"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    return folder


def _blob(digest: str) -> Path:
    return _cache() / "blobs" / digest.removeprefix("sha256:")


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """One process at a time makes layers; others wait, and find them."""
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _architecture() -> tuple[str, str, str]:
    """This machine's, as Debian, Docker and Python's wheels call it."""
    machine = platform.machine()
    name = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    return name, name, machine


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _uv(*arguments: object) -> str:
    return _call(uv.find_uv_bin(), *arguments)


def _call(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


if __name__ == "__main__":
    with _turn():
        print(f"images: {(_base().size + _dependencies().size) / 1e6:.0f} MB in {_cache()}")
