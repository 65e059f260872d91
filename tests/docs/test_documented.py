"""Every event, header and control message is explained in docs/reference/events.md, with all of its fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from neartime.contract import events, gateways, launch, subjects, version
from neartime.contract.ids import new_id

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/events.md has no section {title!r}"
    return found[1]


def first_cells(title: str) -> list[str]:
    return re.findall(r"^\| `?([^`|]+?)`? \|", section(title), re.MULTILINE)[1:]


def headers_of(module: object) -> set[str]:
    return {value for name, value in vars(module).items() if name.endswith("_HEADER")}


def test_every_kind_of_event_is_documented_and_nothing_else() -> None:
    assert first_cells("Kinds of events") == list(subjects.KINDS)


def test_every_header_of_an_event_is_documented_and_nothing_else() -> None:
    assert set(first_cells("Headers of an event")) == headers_of(events) | headers_of(version)


def test_every_header_of_a_control_message_is_documented_and_nothing_else() -> None:
    assert set(first_cells("Headers of a control message")) == headers_of(launch)


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("A status event", events.StatusEvent),
        ("A log record", events.LogRecord),
        ("A reference", events.Reference),
    ],
)
def test_every_field_of_a_body_is_documented_and_nothing_else(title: str, model: type[BaseModel]) -> None:
    assert first_cells(title) == list(model.model_fields)


def test_every_control_message_is_documented_with_its_fields() -> None:
    rows = {
        name: re.findall(r"`(\w+)`", fields)
        for name, fields in re.findall(r"^\| `?(\w+)`? \|[^|]+\|([^|]*)\|", section("Control messages"), re.MULTILINE)
    }
    messages: dict[str, type[BaseModel]] = {
        "start": launch.Start,
        "cancel": launch.Cancel,
        "drain": launch.Drain,
        "answer": launch.Answer,
        "heartbeat": launch.Beat,
        "fetch": launch.Fetch,
    }
    assert rows == {
        "message": [],
        **{name: [field for field in model.model_fields if field != "type"] for name, model in messages.items()},
    }


def test_every_question_to_a_gateway_is_documented_with_its_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", section("What a gateway is asked"), re.MULTILINE)
    assert [verb for verb, _ in rows] == [verb.value for verb in gateways.Verb]
    fields = {name for _, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert fields == set(gateways.Asked.model_fields)


def test_every_step_of_a_call_is_documented() -> None:
    assert all(f"`{step.value}`" in section("What a gateway is asked") for step in gateways.Step)


def test_every_subject_is_documented() -> None:
    session, job, worker = new_id(), new_id(), new_id()
    made = [subjects.event(session, job, kind) for kind in subjects.KINDS]
    made += [subjects.blob(session, job, "1"), subjects.control(worker), subjects.beat(worker), subjects.fetch(worker)]
    made.append(subjects.gateway("<backend>", session, worker, "<verb>"))
    for id_, word in ((session, "<session>"), (job, "<job>"), (worker, "<worker>")):
        made = [subject.replace(id_, word) for subject in made]
    made = [subject.replace("blob.1", "blob.<name>") for subject in made]
    assert first_cells("Subjects") == [*made, f"{subjects.inbox('<credential>')}.>"]
