"""Qiskit Runtime's metadata and spec, as they were written for its custom programs."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from neartime.contract import ibm
from neartime.schema import faults, manifest_faults, read_manifest

VQE: dict[str, Any] = {
    "name": "VQE (custom)",
    "description": "Variational quantum eigensolver.",
    "max_execution_time": 18000,
    "version": "2.1",
    "spec": {
        "backend_requirements": {"min_num_qubits": 2, "input_allowed": ["job", "runtime"]},
        "parameters": {
            "$schema": "https://json-schema.org/draft/2019-09/schema",
            "properties": {
                "ansatz": {"description": "A parameterized quantum circuit.", "type": "object"},
                "operator": {"description": "The Hamiltonian.", "type": "object"},
                "initial_parameters": {"description": "The initial point.", "type": ["array", "string"]},
                "shots": {"type": "integer", "default": 1024},
            },
            "required": ["ansatz", "operator"],
        },
        "return_values": {"type": "object", "properties": {"eigenvalue": {"type": "number"}}},
        "interim_results": {"description": "Energies.", "type": "array"},
    },
}  # fmt: skip
FIRST_FORM: dict[str, Any] = {
    "name": "sample-program",
    "description": "A sample runtime program.",
    "max_execution_time": 300,
    "backend_requirements": {"min_num_qubits": 5},
    "parameters": [
        {"name": "iterations", "description": "How often to run.", "type": "int", "required": True},
        {"name": "circuits", "description": "What to run.", "type": "A circuit or a list of them", "required": False},
    ],
    "return_values": [{"name": "-", "description": "A string.", "type": "string"}],
    "interim_results": [{"name": "counts", "description": "Counts.", "type": "dict"}],
}


def manifest(metadata: dict[str, Any]) -> dict[str, Any]:
    found = ibm.fields(metadata)
    assert manifest_faults(found) == []
    return read_manifest(found).model_dump(mode="json", by_alias=True)


def test_the_last_form_is_taken_as_it_is() -> None:
    before = copy.deepcopy(VQE)
    made = manifest(VQE)
    assert before == VQE
    assert (made["name"], made["description"], made["max-execution-time"]) == (
        "vqe-custom",
        before["description"],
        18000,
    )
    assert made["backends"]["min-num-qubits"] == 2
    assert made["metadata"]["title"] == "VQE (custom)"
    assert made["metadata"]["version"] == "2.1"


def test_a_client_reads_back_what_was_sent() -> None:
    assert ibm.spec(manifest(VQE)) == VQE["spec"]


def test_circuits_and_arrays_fit_what_qiskit_runtimes_specs_called_them() -> None:
    declared = manifest(VQE)["schemas"]["inputs"]
    tagged = {name: {"__type__": name, "__value__": ""} for name in ("QuantumCircuit", "ndarray")}
    operator = {"__type__": "settings", "__module__": "m", "__class__": "SparsePauliOp", "__value__": {}}
    values = {"ansatz": tagged["QuantumCircuit"], "operator": operator, "initial_parameters": tagged["ndarray"]}
    assert faults(values, declared) == []
    assert [str(fault) for fault in faults({"ansatz": 3, "shots": "x"}, declared)] == [
        "inputs.ansatz: expected an object, got 3",
        "inputs.shots: expected an integer, got 'x'",
        "inputs.operator: is missing",
    ]


def test_return_values_and_interim_results_were_prose_and_are_not_enforced() -> None:
    schemas = manifest(VQE)["schemas"]
    assert (schemas["interim"], schemas["result"]) == (None, None)


def test_the_first_form_with_lists_is_taken_too() -> None:
    made = manifest(FIRST_FORM)
    declared = made["schemas"]["inputs"]
    assert declared["required"] == ["iterations"]
    assert declared["properties"]["iterations"] == {"type": "integer", "description": "How often to run."}
    assert "type" not in declared["properties"]["circuits"]
    spec = ibm.spec(made)
    assert spec["backend_requirements"] == {"min_num_qubits": 5}
    assert spec["parameters"] == declared
    assert spec["interim_results"]["properties"]["counts"]["type"] == "object"


def test_the_fields_of_a_request_are_a_manifest() -> None:
    made = ibm.manifest("hello", "old", 600, VQE["spec"])
    assert made["max-execution-time"] == 600
    assert manifest_faults(made) == []
    assert ibm.manifest("hello", "", None, None) == {"name": "hello", "description": ""}


def test_a_manifest_of_ones_own_has_a_spec_too() -> None:
    schema = {"type": "object", "properties": {"c": {"$ref": "neartime:QuantumCircuit"}}}
    made = read_manifest({"name": "a", "schemas": {"inputs": schema, "result": {"type": "number"}}})
    assert ibm.spec(made.model_dump(mode="json", by_alias=True)) == {
        "backend_requirements": {},
        "parameters": schema,
        "return_values": {"type": "number"},
        "interim_results": {},
    }


def test_what_is_of_the_wrong_type_is_named_by_the_manifests_own_check() -> None:
    bad = {"name": 3, "max_execution_time": "long", "spec": {"backend_requirements": [], "parameters": "none"}}
    assert {fault.path for fault in manifest_faults(ibm.fields(bad))} == {
        "manifest.name",
        "manifest.max-execution-time",
        "manifest.schemas.inputs",
    }


@given(st.text())
def test_any_name_makes_one_that_a_program_can_have_or_none(name: str) -> None:
    made = ibm.slug(name)
    assert made == "" or manifest_faults({"name": made}) == []


def test_a_key_that_was_meant_for_something_and_would_do_nothing_is_a_fault() -> None:
    bad = {
        "descripton": "a text",
        "Max-Execution-Time": 3,
        "requirements": ["scipy"],
        "version": "2.1",
        "author": "the lab",
        "spec": {
            "parametrs": {},
            "max_execution_time": 300,
            "backend_requirements": {"min_num_qubit": 5, "input_allowed": ["job"]},
        },
    }
    assert [str(fault) for fault in ibm.misplaced(bad, "metadata")] == [
        "metadata.descripton: is not known; did you mean description?",
        "metadata.Max-Execution-Time: is not known; did you mean max_execution_time?",
        "metadata.requirements: is a key of the manifest: it goes into program.toml, or is passed as requirements=…",
        "metadata.spec.parametrs: is not known; did you mean parameters?",
        "metadata.spec.max_execution_time: belongs beside spec, not in it",
        "metadata.spec.backend_requirements.min_num_qubit: is not known; did you mean min_num_qubits?",
    ]
    assert ibm.misplaced(VQE) == ibm.misplaced(FIRST_FORM) == []


def test_what_a_server_tells_of_a_program_is_no_fault_when_it_comes_back() -> None:
    told = {"id": "a", "name": "a", "creation_date": "today", "update_date": "today", "is_public": True, "cost": 3}
    assert ibm.misplaced({**told, "spec": ibm.spec(manifest(VQE))}) == []
