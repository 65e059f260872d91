"""The helper for the genuine client, where that is not installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from neartime import ibm
from neartime.errors import ConfigurationError


@pytest.mark.skipif(importlib.util.find_spec("qiskit_ibm_runtime") is not None, reason="the client is installed")
def test_a_client_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ibm.IAM_VARIABLE, raising=False)
    with pytest.raises(ConfigurationError, match=r"'qiskit_ibm_runtime': pip install 'qiskit-ibm-runtime"):
        ibm.service("http://127.0.0.1:9", "neartime_nothing")
    assert ibm.IAM_VARIABLE not in os.environ


def test_importing_the_helper_loads_neither_that_client_nor_qiskit() -> None:
    code = "import sys; from neartime import ibm; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} & {"qiskit_ibm_runtime", "qiskit", "numpy"} == set()
