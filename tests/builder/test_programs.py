"""A program's files, laid out for workers."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neartime_server.builder.programs import materialize
from neartime_server.errors import BuildFailed

DIGEST = "sha256:" + "ab" * 32


def archive(files: dict[str, bytes], **modes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = modes.get(name.partition(".")[0], stat.S_IFREG | 0o644) << 16
            opened.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def left(home: Path) -> list[str]:
    return sorted(one.name for one in (home / "programs").iterdir())


def test_files_are_laid_out_by_content_and_can_only_be_read(tmp_path: Path) -> None:
    files = {"program.py": b"def main(): ...\n", "package/__init__.py": b"", "package/data/table.csv": b"1,2\n"}
    folder = materialize(tmp_path, DIGEST, archive(files))
    assert folder == tmp_path / "programs" / ("ab" * 32)
    found = {str(one.relative_to(folder)): one for one in folder.rglob("*") if one.is_file()}
    assert {name: one.read_bytes() for name, one in found.items()} == files
    assert {stat.S_IMODE(one.stat().st_mode) for one in found.values()} == {0o444}
    assert left(tmp_path) == ["ab" * 32]


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    folder = materialize(tmp_path, DIGEST, archive({"program.py": b"1"}))
    assert materialize(tmp_path, DIGEST, b"no archive at all") == folder
    assert (folder / "program.py").read_bytes() == b"1"


def test_many_at_once_end_with_one_whole_folder(tmp_path: Path) -> None:
    data = archive({f"{number}.py": b"x" * 1000 for number in range(200)})
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: materialize(tmp_path, DIGEST, data), range(16)))
    (folder,) = folders
    assert len(list(folder.iterdir())) == 200
    assert left(tmp_path) == [folder.name]


@pytest.mark.parametrize(
    "name", ["../outside.py", "/etc/outside.py", "a/../../outside.py", "..\\outside.py", "a/b/../../../outside.py"]
)
def test_a_path_that_leads_elsewhere_is_refused_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildFailed, match="can't be unpacked safely"):
        materialize(tmp_path, DIGEST, archive({"program.py": b"", name: b""}))
    assert left(tmp_path) == []
    assert [one.name for one in tmp_path.iterdir()] == ["programs"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="can't be unpacked safely"):
        materialize(tmp_path, DIGEST, archive({"link": b"/etc/passwd"}, link=stat.S_IFLNK | 0o777))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_path_that_is_there_twice_or_is_a_file_and_a_folder_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("program.py", "1")
        opened.writestr("program.py", "2")
    for data in (file.getvalue(), archive({"a": b"", "a/b": b""}), archive({"a/b": b"", "a": b""})):
        with pytest.raises(BuildFailed, match="can't be unpacked"):
            materialize(tmp_path, DIGEST, data)
    assert left(tmp_path) == []


def test_an_archive_that_is_larger_than_it_claims_or_claims_too_much_is_refused(tmp_path: Path) -> None:
    data = bytearray(archive({"program.py": b"\0" * (4 << 20)}))
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(signature) + offset
        data[at : at + 4] = struct.pack("<I", 10)
    with pytest.raises(BuildFailed):
        materialize(tmp_path, DIGEST, bytes(data))
    huge = bytearray(archive({"program.py": b""}))
    at = huge.index(b"PK\x01\x02") + 24
    huge[at : at + 4] = struct.pack("<I", 0x7FFFFFFF)
    with pytest.raises(BuildFailed, match="more than 1024 MiB"):
        materialize(tmp_path, DIGEST, bytes(huge))
    assert left(tmp_path) == []


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no archive"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BuildFailed, match="can't be unpacked"):
        materialize(tmp_path, DIGEST, data)
    assert left(tmp_path) == []
