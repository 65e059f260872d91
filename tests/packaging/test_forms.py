"""Folders, files, zips and text as programs; program.toml; what of a program's source is read and what is run."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from zips import entry, zipped

from neartime import packaging
from neartime.contract.programs import Manifest
from neartime.errors import PackagingError
from neartime.packaging import Package, package

MAIN = "def main(backend, user_messenger, **kwargs):\n    return kwargs\n"
TYPED = """
from pydantic import BaseModel, Field

class Inputs(BaseModel):
    maxiter: int = Field(ge=1)

class Interim(BaseModel):
    energy: float

def main(backend, user_messenger, inputs: Inputs):
    return inputs.maxiter
"""


def folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def refused(data: Any, **overrides: Any) -> PackagingError:
    with pytest.raises(PackagingError) as caught:
        package(data, **overrides)
    return caught.value


def paths(error: PackagingError) -> list[str]:
    return [fault.path for fault in error.faults]


# --- forms


def test_a_folder_is_a_program_with_all_of_its_files(tmp_path: Path) -> None:
    files = {"program.py": MAIN, "program.toml": 'name = "mine"\n', "sub/module.py": "x = 1\n", "data/t.csv": "1,2\n"}
    made = package(folder(tmp_path / "Folder", files))
    assert made.manifest == Manifest(name="mine")
    assert set(made.files) == set(files)
    assert zipfile.ZipFile(io.BytesIO(made.archive)).read("data/t.csv") == b"1,2\n"


def test_a_folder_without_program_toml_is_called_after_itself(tmp_path: Path) -> None:
    made = package(str(folder(tmp_path / "My Program", {"program.py": MAIN})))
    assert made.manifest == Manifest(name="my-program")


def test_a_file_is_a_program_called_after_itself(tmp_path: Path) -> None:
    (tmp_path / "Count_Down (1).py").write_text(MAIN)
    made = package(str(tmp_path / "Count_Down (1).py"))
    assert made.manifest.name == "count_down-1"
    assert list(made.files) == ["program.py"]


@pytest.mark.parametrize(
    ("file", "module"),
    [("bell.py", "bell.py"), ("random.py", "program.py"), ("qiskit.py", "program.py"), ("bell", "program.py")],
)
def test_a_file_keeps_its_name_for_tracebacks_unless_that_is_another_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, module: str
) -> None:
    (tmp_path / file).write_text(MAIN)
    made = package(tmp_path / file, name="mine")
    assert list(made.files) == [module]
    assert made.manifest.entry_point == f"{module.removesuffix('.py')}:main"
    monkeypatch.syspath_prepend(tmp_path)  # as of a script beside it
    assert package(tmp_path / file, name="mine").digest == made.digest


def test_text_is_a_program_that_has_to_be_given_a_name() -> None:
    assert package(MAIN, name="text").files == package(MAIN, name="other").files
    assert package("def main(backend, user_messenger): return 1", name="line").manifest.name == "line"
    error = refused(MAIN)
    assert paths(error) == ["manifest.name"]
    assert "pass name=" in str(error)


def test_a_zip_is_a_program_whether_a_folder_or_its_files_were_zipped(tmp_path: Path) -> None:
    source = folder(tmp_path / "src" / "mine", {"program.py": MAIN, "sub/module.py": "", "__pycache__/x.pyc": ""})
    inside = shutil.make_archive(str(tmp_path / "inside"), "zip", source)
    whole = shutil.make_archive(str(tmp_path / "whole"), "zip", source.parent)
    made = [package(Path(one), name="mine") for one in (inside, whole)]
    assert made[0] == made[1] == package(source)
    assert package(inside).manifest.name == "inside"


def test_a_zip_with_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(zipped([("program.py", MAIN.encode()), (entry("link", 0o120777), b"/etc")]))
    assert paths(refused(tmp_path / "p.zip")) == ["data['link']"]


def test_the_same_files_make_the_same_archive_and_digest_wherever_they_lie(tmp_path: Path) -> None:
    files = {"program.py": MAIN, "a/b.py": "x = 1\n"}
    first, second = (package(folder(tmp_path / str(number) / "same", files)) for number in range(2))
    assert first == second
    assert first.digest == second.digest
    os.utime(tmp_path / "1" / "same" / "a" / "b.py", (0, 0))
    assert package(tmp_path / "1" / "same") == first
    (tmp_path / "1" / "same" / "a" / "b.py").write_text("x = 2\n")
    assert package(tmp_path / "1" / "same").digest != first.digest


@pytest.mark.parametrize("data", ["nothing.py", "nothing", "", "no/such/folder"])
def test_what_is_not_there_is_said_to_be(data: str) -> None:
    assert "is not there" in str(refused(data)) or data == ""


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.py").write_bytes(b"\x89PNG\xff")
    assert "neither Python source" in str(refused(tmp_path / "picture.py"))
    assert "not int" in str(refused(3))
    assert "a class" in str(refused(Package))


# --- what is left out


def test_caches_environments_and_secrets_are_no_part_of_a_program(tmp_path: Path) -> None:
    files = dict.fromkeys((".git/config", ".venv/bin/python", "__pycache__/a.pyc", "sub/__pycache__/b.pyc", ".env"), "")
    made = package(folder(tmp_path / "p", {**files, "program.py": MAIN, "sub/a.py": "", ".hidden/kept": ""}))
    assert sorted(made.files) == [".hidden/kept", "program.py", "sub/a.py"]


def test_an_ignore_file_names_what_else_is_left_out(tmp_path: Path) -> None:
    ignored = "# large\n*.csv\n\n/notes/\nsub/old.py\n"
    files = {
        "program.py": MAIN,
        ".neartimeignore": ignored,
        "a.csv": "",
        "sub/b.csv": "",
        "sub/old.py": "",
        "old.py": "",
    }
    source = folder(tmp_path / "p", {**files, "notes/a/b.txt": "", "sub/notes.txt": ""})
    kept = [".neartimeignore", "old.py", "program.py", "sub/notes.txt"]
    assert sorted(package(source).files) == kept
    zip_file = shutil.make_archive(str(tmp_path / "p"), "zip", source)
    assert sorted(package(zip_file).files) == kept


def test_links_in_a_folder_are_refused_with_their_paths(tmp_path: Path) -> None:
    source = folder(tmp_path / "p", {"program.py": MAIN})
    (source / "passwd").symlink_to("/etc/passwd")
    (source / "sub").symlink_to(tmp_path)
    assert paths(refused(source)) == ["passwd", "sub"]
    (source / ".neartimeignore").write_text("passwd\nsub\n")
    assert sorted(package(source).files) == [".neartimeignore", "program.py"]


def test_a_program_that_is_too_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    source = folder(tmp_path / "p", {"program.py": MAIN})
    (source / "noise.bin").write_bytes(os.urandom(65 << 20))
    assert paths(refused(source))[0] == "noise.bin"


# --- the manifest


def test_every_key_of_program_toml_is_taken(tmp_path: Path) -> None:
    text = """
name = "all"
description = "All keys."
entry-point = "sub.other:start"
max-execution-time = 60
python = ">=3.11"
requirements = ["numpy"]
checkpoints = true

[resources]
cpu = 2
memory = "4Gi"

[image]
base = "images.example/lab/base:3"
complete = true

[backends]
min-num-qubits = 5
simulator = true
names = ["aer"]

[schemas]
interim = {type = "number"}
result = "schemas/result.json"

[schemas.inputs]
type = "object"
properties.n.type = "integer"

[metadata]
author = "the lab"
"""
    files = {"program.toml": text, "sub/other.py": "start = print\n", "schemas/result.json": '{"type": "string"}'}
    assert package(folder(tmp_path / "p", files)).manifest.model_dump(mode="json", by_alias=True) == {
        "name": "all",
        "description": "All keys.",
        "entry-point": "sub.other:start",
        "max-execution-time": 60,
        "python": ">=3.11",
        "requirements": ["numpy"],
        "resources": {"cpu": 2.0, "memory": "4Gi"},
        "image": {"base": "images.example/lab/base:3", "complete": True},
        "backends": {"min-num-qubits": 5, "simulator": True, "names": ["aer"]},
        "schemas": {
            "inputs": {"type": "object", "properties": {"n": {"type": "integer"}}},
            "interim": {"type": "number"},
            "result": {"type": "string"},
        },
        "typed": False,
        "kind": "module",
        "pickled-with": None,
        "checkpoints": True,
        "metadata": {"author": "the lab"},
    }


def test_a_bad_program_toml_is_refused_with_every_fault_and_its_path(tmp_path: Path) -> None:
    text = 'nmae = "x"\nmax-execution-time = 0\nrequirements = ["numpy", "-e ."]\ntyped = 1\n[resources]\nmemroy = 1\n'
    error = refused(folder(tmp_path / "p", {"program.py": MAIN, "program.toml": text}))
    assert set(paths(error)) == {
        "manifest.nmae",
        "manifest.max-execution-time",
        "manifest.requirements[1]",
        "manifest.typed",
        "manifest.resources.memroy",
    }
    assert "did you mean name?" in str(error)


def test_a_program_toml_that_is_no_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    error = refused(folder(tmp_path / "p", {"program.py": MAIN, "program.toml": 'name = "x"\nname = \n'}))
    assert "line 2" in str(error)


@pytest.mark.parametrize("content", [None, "no json"])
def test_a_schema_file_that_can_not_be_read_is_a_fault(tmp_path: Path, content: str | None) -> None:
    files = {"program.py": MAIN, "program.toml": '[schemas]\ninputs = "s.json"\n'}
    error = refused(folder(tmp_path / "p", files if content is None else {**files, "s.json": content}))
    assert paths(error) == ["manifest.schemas.inputs"]


def test_arguments_win_over_metadata_and_metadata_over_program_toml(tmp_path: Path) -> None:
    text = 'name = "a"\ndescription = "toml"\nmax-execution-time = 1\npython = ">=3.10"\n[backends]\nsimulator = true\n'
    metadata = {"name": "B", "description": "ibm", "spec": {"backend_requirements": {"min_num_qubits": 3}}}
    source = folder(tmp_path / "p", {"program.py": MAIN, "program.toml": text})
    made = package(source, metadata=metadata, description="argument", max_execution_time=7, python=None).manifest
    assert (made.name, made.description, made.max_execution_time, made.python) == ("b", "argument", 7, ">=3.10")
    assert (made.backends.min_num_qubits, made.backends.simulator) == (3, True)


def test_a_key_in_a_place_where_it_does_nothing_is_refused_with_all_other_faults(tmp_path: Path) -> None:
    toml = 'name = "a"\ndescripton = ""\n[metadata]\nauthor = "the lab"\nrequirements = ["scipy"]\n'
    source = folder(tmp_path / "a", {"program.py": MAIN, "program.toml": toml})
    error = refused(source, metadata={"descripton": "", "version": "2"})
    assert paths(error) == ["metadata.descripton", "manifest.metadata.requirements", "manifest.descripton"]
    assert paths(refused(lambda backend, user_messenger: 1, name="a", metadata={"parametrs": {}})) == [
        "metadata.parametrs"
    ]


def test_faults_of_arguments_are_told_as_those_of_program_toml() -> None:
    error = refused(MAIN, name="x", requirments=["a"], resources={"cpus": 3}, typed=True)
    assert set(paths(error)) == {"manifest.requirments", "manifest.resources.cpus", "manifest.typed"}


def test_an_upload_is_what_the_server_reads(tmp_path: Path) -> None:
    from neartime_server.api import uploads

    made = package(TYPED, name="typed")
    upload = made.to_upload(is_public=True)
    assert upload.is_public
    assert base64.b64decode(upload.data or "") == made.archive
    checked = uploads.check(upload)
    assert (checked.manifest, checked.archive, checked.digest) == (made.manifest, made.archive, made.digest)


# --- the entry point


def test_main_is_looked_for_in_the_only_module_that_has_one(tmp_path: Path) -> None:
    files = {"vqe.py": MAIN, "other.py": "x = 1\n", "sub/deep.py": MAIN, "broken.py": "def"}
    assert package(folder(tmp_path / "p", files)).manifest.entry_point == "vqe:main"
    (tmp_path / "p" / "other.py").write_text(MAIN)
    error = refused(tmp_path / "p")
    assert paths(error) == ["manifest.entry-point"]
    assert "other.py, vqe.py" in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "from elsewhere import main\n",
        "from elsewhere import *\n",
        "import elsewhere\nmain = elsewhere.start\n",
        "try:\n    from a import main\nexcept ImportError:\n    from b import main\n",
        "if True:\n    def main(backend, user_messenger): ...\n",
        "async def main(backend, user_messenger): ...\n",
    ],
)
def test_a_main_that_is_bound_in_any_way_will_do(source: str) -> None:
    assert package(source, name="x").manifest.entry_point == "program:main"


def test_what_the_source_lacks_or_breaks_shows_at_once(tmp_path: Path) -> None:
    assert paths(refused("x = 1\n", name="x")) == ["manifest.entry-point"]
    assert paths(refused(MAIN, name="x", entry_point="other:main")) == ["manifest.entry-point"]
    error = refused("x = 1\ndef main(backend:\n    pass\n", name="x")
    assert paths(error) == ["program.py:2"]
    assert "def main(backend:" in str(error)
    assert "null bytes" in str(refused("x = 1\n\0", name="x"))
    assert paths(refused(folder(tmp_path / "empty", {"notes.txt": ""}))) == ["manifest.entry-point"]


# --- models


def test_schemas_are_those_of_the_programs_models() -> None:
    manifest = package(TYPED, name="typed").manifest
    assert manifest.typed
    assert manifest.schemas.inputs == {
        "type": "object",
        "title": "Inputs",
        "properties": {"maxiter": {"type": "integer", "minimum": 1}},
        "required": ["maxiter"],
        "additionalProperties": False,
    }
    assert (manifest.schemas.interim or {})["required"] == ["energy"]
    assert manifest.schemas.result is None


def test_a_model_that_main_does_not_take_declares_keyword_arguments() -> None:
    manifest = package(TYPED.replace("inputs: Inputs", "maxiter"), name="x").manifest
    assert (manifest.typed, (manifest.schemas.inputs or {})["required"]) == (False, ["maxiter"])


def test_a_model_of_any_name_and_place_is_found_by_main(tmp_path: Path) -> None:
    files = {
        "program.py": "from __future__ import annotations\nfrom sub.models import Settings\n\n"
        "def main(backend, user_messenger, settings: Settings): ...\n",
        "sub/models.py": "from pydantic import BaseModel\nclass Settings(BaseModel):\n    n: int\n",
    }
    manifest = package(folder(tmp_path / "p", files)).manifest
    assert (manifest.typed, (manifest.schemas.inputs or {})["required"]) == (True, ["n"])


def test_a_schema_in_program_toml_wins_over_a_model(tmp_path: Path) -> None:
    text = "[schemas.inputs]\ntype = 'object'\n"
    manifest = package(folder(tmp_path / "p", {"program.py": TYPED, "program.toml": text})).manifest
    assert manifest.typed
    assert manifest.schemas.inputs == {"type": "object"}


def test_a_program_that_declares_nothing_is_not_run() -> None:
    source = "import no_such_module\nraise SystemExit\n\ndef main(backend, user_messenger, n: int = 3): ...\n"
    assert package(source, name="x").manifest.schemas.inputs is None


def test_a_name_that_only_looks_like_a_model_is_none() -> None:
    source = "from qiskit.result import Result\n\ndef main(backend, user_messenger, n: Result = None): ...\n"
    manifest = package(source, name="x").manifest
    assert (manifest.typed, manifest.schemas.result) == (False, None)
    assert not package(source.replace("qiskit.result", "no_such_module"), name="x").manifest.typed


def test_a_model_of_a_program_that_can_not_be_imported_is_an_error_with_its_traceback(tmp_path: Path) -> None:
    files = {"program.py": "from helper import n\n" + TYPED, "helper.py": "import no_such_module\n"}
    error = refused(folder(tmp_path / "p", files))
    assert "No module named 'no_such_module'" in str(error)
    assert 'File "helper.py", line 1' in str(error)
    assert str(tmp_path) not in str(error)
    assert "derive.py" not in str(error)


def test_a_program_that_ends_its_process_is_an_error_with_what_it_said() -> None:
    error = refused("import os\nprint('good bye', flush=True)\nos._exit(3)\n" + TYPED, name="x")
    assert "good bye" in str(error)


def test_what_a_program_prints_does_not_mix_with_its_schemas() -> None:
    assert package("print('{}')\n" + TYPED, name="x").manifest.typed


def test_a_field_of_a_type_without_a_name_is_an_error_that_says_so() -> None:
    source = TYPED.replace(
        "maxiter: int = Field(ge=1)", "f: object = Field(); g: __import__('typing').Callable[[], int]"
    )
    assert "no schema can name" in str(refused(source, name="x"))
    source = "import numpy\n" + TYPED.replace("maxiter: int = Field(ge=1)", "table: numpy.ndarray")
    assert "arbitrary_types_allowed" in str(refused(source, name="x"))


def test_packaging_leaves_the_authors_process_and_folder_as_they_were(tmp_path: Path) -> None:
    source = folder(tmp_path / "p", {"program.py": "import helper\n" + TYPED, "helper.py": ""})
    before = set(sys.modules)
    package(source)
    assert not {"program", "helper"} & (set(sys.modules) - before)
    assert sorted(path.name for path in source.rglob("*")) == ["helper.py", "program.py"]


def test_a_program_may_have_modules_of_common_names(tmp_path: Path) -> None:
    files = {"program.py": "import models, entry, wire\n" + TYPED, "models.py": "", "entry.py": "", "wire.py": ""}
    assert package(folder(tmp_path / "p", files)).manifest.typed


def test_the_half_that_the_server_uses_loads_alone() -> None:
    code = "import sys; from neartime.packaging import read_files; print('cloudpickle' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("False")
    assert dir(packaging) == packaging.__all__ == sorted(packaging.__all__)
    with pytest.raises(AttributeError):
        _ = packaging.nothing  # type: ignore[attr-defined]


def test_a_manifest_survives_the_way_as_json() -> None:
    upload = package(TYPED, name="typed").to_upload()
    assert (
        Manifest.model_validate(json.loads(upload.model_dump_json())["manifest"])
        == package(TYPED, name="typed").manifest
    )


def test_a_file_that_is_no_python_is_told_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "syn.py").write_text("x = 1\ndef main(:\n")
    assert paths(refused(tmp_path / "syn.py")) == ["syn.py:2"]
