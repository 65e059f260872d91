"""The environment variables that the server hands on to processes it starts: those it names, and no others.

A server's environment holds what is not for programs: tokens, credentials of clouds and registries, the database's URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

_HANDED_ON: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE", "LD_LIBRARY_PATH"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES"}
    | {"QISKIT_NUM_PROCS", "QISKIT_PARALLEL", "QISKIT_IN_PARALLEL", "RAYON_NUM_THREADS"}  # QISKIT_IBM_TOKEN is not
    | {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "MALLOC_ARENA_MAX"}
)
_FAMILIES: Final = ("LC_", "OMP_")
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})


def of_worker(*, own: bool, source: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs find: the machine's ways and limits, and no secret. Proxies, unless they hold a password.

    `own`: they run in the server's own environment, so that its modules are where the server's are.
    """
    found = os.environ if source is None else source
    return {
        name: value
        for name, value in found.items()
        if name in _HANDED_ON
        or name.startswith(_FAMILIES)
        or (name.lower() in _PROXIES and "@" not in value)
        or (name == "PYTHONPATH" and own)
    }


def of_tool(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `uv` finds: also the operator's package indexes and the credentials for them; no code of others runs in it.

    Nothing of Python's own: byte code is wanted, and the server's modules are not those of an environment.
    """
    found = os.environ if source is None else source
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(("NEARTIME_", "PYTHON", "VIRTUAL_ENV", "CONDA_")) and name != "UV_PYTHON"
    }
