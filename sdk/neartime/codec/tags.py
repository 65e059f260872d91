"""The tags of the wire form: `{"__type__": TAG, "__value__": …}`.

Tags without a prefix are those of Qiskit Runtime's encoder and decoder, with its values. What that form can't carry, or
loses, has a tag of our own, `neartime.…`, which its decoder passes through as the dictionary it is. Every tag, with its
value: docs/reference/codec.md.
"""

from __future__ import annotations

TYPE = "__type__"
VALUE = "__value__"

# Shared with Qiskit Runtime.
NDARRAY = "ndarray"
COMPLEX = "complex"
DATETIME = "datetime"
SET = "set"
CIRCUIT = "QuantumCircuit"
INSTRUCTION = "Instruction"
PARAMETER = "Parameter"
SETTINGS = "settings"
OBSERVABLES_ARRAY = "ObservablesArray"
BINDINGS_ARRAY = "BindingsArray"
PAULI_LINDBLAD_MAP = "PauliLindbladMap"
BIT_ARRAY = "BitArray"
DATA_BIN = "DataBin"
PUB_RESULT = "PubResult"
SAMPLER_PUB_RESULT = "SamplerPubResult"
ESTIMATOR_PUB_RESULT = "EstimatorPubResult"
PRIMITIVE_RESULT = "PrimitiveResult"
RESULT = "Result"
NOISE_MODEL = "NoiseModel"
SPARSE_MATRIX = "spmatrix"
TO_JSON = "to_json"
JSON = "_json"
THEIR_NOISE_LEARNER_RESULT = "NoiseLearnerResult"

# Our own.
DICT = "neartime.dict"
TUPLE = "neartime.tuple"
FROZENSET = "neartime.frozenset"
BYTES = "neartime.bytes"
ENUM = "neartime.enum"
DATE = "neartime.date"
TIME = "neartime.time"
TIMEDELTA = "neartime.timedelta"
DECIMAL = "neartime.decimal"
FRACTION = "neartime.fraction"
UUID = "neartime.uuid"
SCALAR = "neartime.scalar"
PARAMETER_EXPRESSION = "neartime.ParameterExpression"
PARAMETER_VECTOR = "neartime.ParameterVector"
SPARSE_OBSERVABLE = "neartime.SparseObservable"
COUPLING_MAP = "neartime.CouplingMap"
SAMPLER_PUB = "neartime.SamplerPub"
ESTIMATOR_PUB = "neartime.EstimatorPub"
NOISE_LEARNER_RESULT = "neartime.NoiseLearnerResult"

NAMED = frozenset({SETTINGS, JSON, NOISE_LEARNER_RESULT})
"""Those that have more beside them than a value."""

STREAMED = "neartime.streamed"
"""Stands inside this package for a value whose text is written later; never on the wire."""
