"""Options complete in an editor, have Qiskit Runtime's names and defaults, and refuse what is none."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from qiskit import QuantumCircuit

from neartime.errors import InvalidInput
from neartime.primitives import EstimatorOptions, LayerError, NoiseLearnerOptions, NoiseLearnerResult, SamplerOptions

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "primitives.md").read_text()


def names(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every option, with its default as the reference writes it."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from names(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(field.get_default()).replace("'", '"')


@pytest.mark.parametrize("kind", [SamplerOptions, EstimatorOptions, NoiseLearnerOptions])
def test_every_option_is_documented_with_its_default_and_nothing_else(kind: type[BaseModel]) -> None:
    title = kind.__name__.removesuffix("Options")
    section = re.search(rf"^## {title}(?:V2)?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", section[1], re.MULTILINE) == list(names(kind))


def faults(kind: type[SamplerOptions] | type[EstimatorOptions], values: object) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        kind.of(values)  # type: ignore[arg-type]
    return [str(fault) for fault in caught.value.faults]


def test_a_misspelt_option_is_refused_with_the_nearest() -> None:
    assert faults(EstimatorOptions, {"resilience_levle": 1}) == [
        "options: resilience_levle: there is no such option; did you mean resilience_level?"
    ]
    assert faults(SamplerOptions, {"twirling": {"enable_gate": True}}) == [
        "options.twirling: enable_gate: there is no such option; did you mean enable_gates?"
    ]
    options = EstimatorOptions()
    with pytest.raises(ValueError, match="did you mean zne_mitigation"):
        options.resilience.zne_mitigatoin = True  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="did you mean default_shots"):
        SamplerOptions(default_shot=5)  # type: ignore[call-arg]


def test_values_that_can_not_be_are_refused_with_their_place() -> None:
    assert faults(EstimatorOptions, {"dynamical_decoupling": {"sequence_type": "YY"}})[0].startswith(
        "options.dynamical_decoupling.sequence_type: Input should be 'XX', 'XpXm' or 'XY4'"
    )
    with pytest.raises(ValueError, match=r"^default_precision: Input should be greater"):
        EstimatorOptions().default_precision = -1


def test_levels_that_there_are_not_are_refused_with_what_to_do() -> None:
    assert "resilience.pec_mitigation" in faults(EstimatorOptions, {"resilience_level": 3})[0]
    assert "twirling.enable_measure" in faults(SamplerOptions, {"resilience_level": 1})[0]
    both = {"resilience_level": 2, "resilience": {"pec_mitigation": True}}
    assert "zne_mitigation=False" in faults(EstimatorOptions, both)[0]
    assert "transpile them before" in faults(SamplerOptions, {"optimization_level": 1})[0]


def test_options_of_two_primitives_are_their_own() -> None:
    first, second = SamplerOptions(), SamplerOptions()
    first.twirling.enable_gates = True
    assert second.twirling.enable_gates is None
    assert SamplerOptions().twirling.enable_gates is None
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize(
    ("values", "asks", "mitigates"),
    [
        ({}, False, True),
        ({"resilience_level": 0}, False, False),
        ({"resilience_level": 1}, True, True),
        ({"resilience_level": 2}, True, True),
        ({"resilience_level": 0, "resilience": {"zne_mitigation": True}}, True, True),
        ({"resilience_level": 0, "twirling": {"enable_gates": True}}, True, True),
        ({"resilience_level": 0, "dynamical_decoupling": {"enable": True}}, True, True),
        ({"resilience_level": 0, "resilience": {"pec_mitigation": True}}, True, True),
        ({"resilience": {"measure_mitigation": False}, "twirling": {"enable_measure": False}}, False, False),
    ],
)
def test_an_estimator_mitigates_where_level_or_options_say_so(values: object, asks: bool, mitigates: bool) -> None:
    options = EstimatorOptions.of(values)  # type: ignore[arg-type]
    assert (options.asks_for_mitigation, options.mitigates) == (asks, mitigates)


def test_what_was_learnt_of_layers_is_an_option_as_it_came() -> None:
    layer = LayerError(QuantumCircuit(2), [3, 1])
    for given in (NoiseLearnerResult([layer]), [layer]):
        options = EstimatorOptions.of({"resilience": {"layer_noise_model": given}})
        assert options.for_program() == {"resilience": {"layer_noise_model": [layer]}}
    assert (
        "nor a list of LayerErrors" in faults(EstimatorOptions, {"resilience": {"layer_noise_model": {"ZZ": 0.1}}})[0]
    )


def test_no_bound_is_sent_too() -> None:
    options = EstimatorOptions.of({"resilience": {"pec": {"max_overhead": None}}})
    assert options.for_program() == {"resilience": {"pec": {"max_overhead": None}}}


def test_what_was_not_set_is_not_sent() -> None:
    options = SamplerOptions.of({"simulator": {"seed_simulator": 3}, "environment": {"job_tags": ["x"]}})
    assert options.for_program() == {"simulator": {"seed_simulator": 3}}
    assert options.for_job() == {"log_level": "WARNING", "job_tags": ["x"]}


def test_what_was_set_one_after_the_other_and_does_not_go_together_is_refused_before_it_is_sent() -> None:
    options = EstimatorOptions()
    options.resilience_level = 2
    options.resilience.pec_mitigation = True
    with pytest.raises(InvalidInput, match=r"pec_mitigation: it takes the place of extrapolation.*resilience_level=1"):
        options.for_program()
    options.resilience_level = 1
    assert options.for_program()["resilience"] == {"pec_mitigation": True}


def test_a_value_that_can_not_be_is_told_in_plain_words_when_it_is_set() -> None:
    options = EstimatorOptions()
    with pytest.raises(ValueError, match=r"^noise_factors: ") as refused:
        options.resilience.zne.noise_factors = "x"  # type: ignore[assignment]
    assert "pydantic" not in str(refused.value)
    assert "\n" not in str(refused.value)
