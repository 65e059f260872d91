"""Archives: the same files make the same bytes, and nobody's archive is trusted."""

from __future__ import annotations

import hashlib
import stat
import time
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zips import entry, zipped

from neartime.errors import PackagingError
from neartime.packaging import pack, read_files, unpack
from neartime.packaging.archive import MAX_FILES, MAX_UNPACKED, path_fault, read_contents

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def faults(archive: bytes) -> list[str]:
    with pytest.raises(PackagingError) as caught:
        read_files(archive)
    return [str(fault) for fault in caught.value.faults]


@given(st.dictionaries(PATHS.filter(lambda path: path_fault(path) is None), st.binary(max_size=50), max_size=5))
def test_what_is_packed_is_read_and_depends_on_the_files_alone(files: dict[str, bytes]) -> None:
    parents = {path[:at] for path in files for at, character in enumerate(path) if character == "/"}
    if parents & set(files):
        return
    archive = pack(files)
    assert archive == pack(dict(reversed(files.items())))
    assert read_contents(archive)[0] == files
    assert read_files(archive) == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def test_an_archive_is_unpacked_with_what_may_be_run(tmp_path: Path) -> None:
    archive = pack({"program.py": b"x = 1\n", "bin/tool": b"#!/bin/sh\n", "empty": b""}, frozenset({"bin/tool"}))
    unpack(archive, tmp_path)
    assert (tmp_path / "program.py").read_bytes() == b"x = 1\n"
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "bin" / "tool").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "program.py").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/etc/passwd", "absolute"),
        ("C:/windows", "absolute"),
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("a/./b", "not a plain one"),
        ("a//b", "not a plain one"),
        ("a\\b", "not a plain one"),
        ("a\nb", "not a plain one"),
        ("x" * 300, "longer"),
        ("/".join(["x" * 100] * 5), "longer"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str, says: str) -> None:
    (fault,) = faults(zipped([("program.py", b""), (path, b"")]))
    assert says in fault


@pytest.mark.parametrize(
    ("mode", "kind"), [(0o120777, "link"), (0o010644, "fifo"), (0o060644, "device"), (0o140755, "socket")]
)
def test_links_and_devices_are_refused(mode: int, kind: str, tmp_path: Path) -> None:
    archive = zipped([(entry("program.py"), b""), (entry(kind, mode), b"/etc/passwd")])
    assert faults(archive) == [f"data['{kind}']: is a link or a device, and only files are taken"]
    with pytest.raises(PackagingError):
        unpack(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_fault_is_told_at_once() -> None:
    archive = zipped([("../a", b""), ("/b", b""), (entry("c", 0o120777), b"")])
    assert len(faults(archive)) == 3


def test_a_path_twice_and_a_file_that_is_a_folder_too_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert faults(zipped([("a", b"1"), ("a", b"2")])) == ["data: has a path twice"]
    assert faults(zipped([("a", b"1"), ("a/b", b"2")])) == ["data['a']: is a file and a folder"]


def test_folders_count_for_nothing() -> None:
    assert list(read_files(zipped([(entry("a/", 0o040755), b""), ("a/b.py", b"")]))) == ["a/b.py"]


def test_what_unpacks_to_more_than_is_taken_is_refused_before_it_is(tmp_path: Path) -> None:
    made = zipped([("zeros", b"\0" * 1000)])
    # The sizes in the directory and before the data say more than a gigabyte.
    size = (MAX_UNPACKED + 1).to_bytes(4, "little")
    archive = made.replace((1000).to_bytes(4, "little"), size)
    assert archive != made
    start = time.monotonic()
    assert "once unpacked" in faults(archive)[0]
    assert time.monotonic() - start < 1


def test_data_beyond_what_an_entry_says_is_never_given_out() -> None:
    made = zipped([("zeros", b"\0" * 100_000)])
    archive = made.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert archive != made
    assert "is damaged" in faults(archive)[0]


def test_more_files_than_are_taken_are_refused_before_they_are_read() -> None:
    archive = zipped(((f"f{number}", b"") for number in range(MAX_FILES + 1)), zipfile.ZIP_STORED)
    assert "files" in faults(archive)[0]
    many = archive + b"PK\x01\x02" * (2 * MAX_FILES)
    start = time.monotonic()
    assert "files" in faults(many)[0]
    assert time.monotonic() - start < 0.5


@pytest.mark.parametrize(
    "data",
    [b"", b"no zip", b"PK\x03\x04", zipped([("a", b"abc")])[:-30]],
    ids=["nothing", "text", "a beginning", "without its end"],  # a zip has the time in it
)
def test_what_is_no_zip_is_refused(data: bytes) -> None:
    assert faults(data)[0].startswith("data: is no zip archive")


def test_a_damaged_file_is_named() -> None:
    made = bytearray(zipped([("program.py", b"some text")], zipfile.ZIP_STORED))
    made[made.index(b"some text")] ^= 1
    assert faults(bytes(made))[0].startswith("data['program.py']: is damaged")


def test_ways_of_packing_that_few_read_are_refused() -> None:
    assert "use deflate" in faults(zipped([("a", b"x" * 100)], zipfile.ZIP_LZMA))[0]
    made = bytearray(zipped([("a", b"x")]))
    made[6] |= 1  # in front of the data
    at = made.index(b"PK\x01\x02")
    made[at + 8] |= 1  # in the directory
    assert faults(bytes(made)) == ["data['a']: is encrypted"]


@given(st.binary(max_size=300))
def test_any_bytes_are_an_archive_or_refused(data: bytes) -> None:
    try:
        read_files(data)
    except PackagingError:
        pass


@given(st.data())
def test_an_archive_with_a_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(pack({"program.py": b"def main(backend, user_messenger):\n    return 1\n" * 3, "a/b": b"c"}))
    at = data.draw(st.integers(0, len(made) - 1))
    made[at] = data.draw(st.integers(0, 255))
    try:
        read_files(bytes(made))
    except PackagingError:
        pass
