"""The environment variables that the server hands on to processes it starts: those it names, and no others.

A server's environment holds what is not for programs: tokens, credentials of clouds and registries, the database's URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

_HANDED_ON: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE", "LD_LIBRARY_PATH"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES"}
    | {"QISKIT_NUM_PROCS", "QISKIT_PARALLEL", "QISKIT_IN_PARALLEL", "RAYON_NUM_THREADS"}  # QISKIT_IBM_TOKEN is not
    | {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "MALLOC_ARENA_MAX"}
)
_FAMILIES: Final = ("LC_", "OMP_")
_INDEXES: Final = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX", "UV_HTTP", "UV_REQUEST")
_OF_INDEXES: Final = frozenset({"UV_FIND_LINKS", "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS"})
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_LOGIN: Final = re.compile(r"://([^/\s@]+)@")
"""In a URL: `user:password`, or a token alone."""


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


def of_indexes(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `uv` finds on another machine: where package indexes are, their credentials, and how to get there."""
    found = os.environ if source is None else source
    return {
        name: value
        for name, value in found.items()
        if name.startswith(_INDEXES) or name in _OF_INDEXES or name.lower() in _PROXIES
    }


def secrets_of(variables: Mapping[str, str]) -> list[str]:
    """What of these nobody may read: passwords, as they are written and as they are meant."""
    found = set()
    for name, value in variables.items():
        if name.endswith("_PASSWORD"):
            found.add(value)
        for login in _LOGIN.findall(value):
            found |= {login.partition(":")[2] or login, unquote(login.partition(":")[2] or login)}
    return sorted(found - {""})


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
