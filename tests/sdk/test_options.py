"""Options of a job, and lengths of time in people's words."""

from __future__ import annotations

import pytest

from neartime.errors import InvalidInput
from neartime.options import RuntimeOptions, seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [(300, 300), ("300", 300), ("2h 30m", 9000), ("90s", 90), ("1d", 86400), ("1h30m15s", 5415), (2.5, 2)],
)
def test_times_are_read_as_people_write_them(text: int | str, count: int) -> None:
    assert seconds(text, "max_time") == count


@pytest.mark.parametrize("text", ["", "soon", "-5", 0, -1, "0h", "5 parsecs"])
def test_a_time_that_can_not_be_read_is_refused_by_name(text: int | str) -> None:
    with pytest.raises(InvalidInput, match="max_time"):
        seconds(text, "max_time")


def test_a_dictionary_does_as_well_as_the_dataclass() -> None:
    asked = {"backend_name": "aer", "max_execution_time": "1m", "job_tags": ["a"], "log_level": "INFO"}
    assert RuntimeOptions.of(asked).request() == {
        "backend": "aer",
        "cost": 60,
        "tags": ["a"],
        "log_level": "info",
    }
    assert RuntimeOptions.of(RuntimeOptions(max_attempts=3)).request() == {"max_attempts": 3}
    assert RuntimeOptions.of(None).request() == {}


def test_a_backend_may_be_given_as_an_object_with_a_name() -> None:
    class Backend:
        name = "aer"

    assert RuntimeOptions(backend=Backend()).request() == {"backend": "aer"}


def test_options_that_do_not_exist_are_all_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        RuntimeOptions.of({"backend": "aer", "shots": 3, "seed": 1})
    assert [fault.path for fault in caught.value.faults] == ["options.seed", "options.shots"]
