"""Every key of a manifest and every type's name is explained in docs/reference/programs.md, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pydantic

from neartime import types
from neartime.contract.programs import BackendRequirements, Image, Manifest, Resources, Schemas
from neartime.schema import TYPE_NAMES
from neartime.schema.names import INSIDES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "programs.md").read_text()


def rows(section: str) -> list[list[str]]:
    """The cells of the tables of a section, those whose first cell is code."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]


def keys(model: type[pydantic.BaseModel], prefix: str = "") -> set[str]:
    return {prefix + name.replace("_", "-") for name in model.model_fields}


def test_every_key_of_a_manifest_is_documented_and_nothing_else() -> None:
    documented = {row[0].strip("`") for row in rows("program.toml")}
    assert documented == (
        keys(Manifest)
        | keys(Resources, "resources.")
        | keys(Image, "image.")
        | keys(BackendRequirements, "backends.")
        | keys(Schemas, "schemas.")
    )


def test_every_default_is_the_documented_one() -> None:
    documented = {row[0].strip("`"): row[1].strip("`").strip('"') for row in rows("program.toml")}
    assert documented["max-execution-time"] == str(Manifest(name="a").max_execution_time)
    assert documented["entry-point"] == Manifest(name="a").entry_point
    assert (documented["resources.cpu"], documented["resources.memory"]) == (str(Resources().cpu), Resources().memory)


def test_every_type_is_documented_with_what_can_be_said_of_its_inside() -> None:
    documented = {row[0].strip("`"): row for row in rows("Types") if '"' not in row[0]}
    assert list(documented) == list(TYPE_NAMES)
    for name, row in documented.items():
        kind = TYPE_NAMES[name]
        assert re.findall(r"`(\w+)`", row[2]) == list(kind.insides), name
        assert bool(row[3]) == bool(kind.json), name
        assert kind.module.partition(".")[0] in row[1] or kind.module == "builtins", name


def test_every_constraint_is_documented_in_both_ways_of_writing_it() -> None:
    table = [row for row in rows("Types") if '"' in row[0]]
    assert {match for row in table for match in re.findall(r'^`"(\w+)"', row[0])} == set(INSIDES)
    for row in table:
        constraint = eval(row[1].strip("`"), {"types": types})
        keyword, wanted = constraint.keyword()
        said = eval(f"{{{row[0].strip('`')}}}", {"null": None})
        assert said == {keyword: wanted}
