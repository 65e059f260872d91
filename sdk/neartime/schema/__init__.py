"""Schemas: values held against them, and they and the manifest around them held against what is allowed.

The server loads this. It imports neither numpy nor Qiskit, and decodes nothing.
"""

from neartime.schema.check import MAX_FAULTS, faults
from neartime.schema.declared import schema_faults
from neartime.schema.manifest import manifest_faults, read_manifest
from neartime.schema.names import TYPE_NAMES
from neartime.schema.requirements import QISKIT_FLOOR, UnsupportedRequirement
from neartime.schema.values import value_faults

__all__ = [
    "MAX_FAULTS",
    "QISKIT_FLOOR",
    "TYPE_NAMES",
    "UnsupportedRequirement",
    "faults",
    "manifest_faults",
    "read_manifest",
    "schema_faults",
    "value_faults",
]
