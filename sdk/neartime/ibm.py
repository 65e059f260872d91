"""The genuine client of Qiskit Runtime, pointed at a Neartime server.

    from neartime import ibm
    from qiskit_ibm_runtime import SamplerV2, Session

    service = ibm.service()
    with Session(service.backend("generic_5q")) as session:
        SamplerV2(session).run([circuit]).result()

The package `qiskit-ibm-runtime` is the caller's own, unmodified. It is imported when a service is asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from neartime import config
from neartime.client import RuntimeService
from neartime.errors import ConfigurationError

if TYPE_CHECKING:
    from qiskit_ibm_runtime import QiskitRuntimeService

INSTANCE: Final = "crn:v1:neartime:public:quantum-computing:local:::"
"""What the client calls an instance has this form. The server does not read it: the token says whose it is."""
IAM_VARIABLE: Final = "IAM_URL"
"""Where the client changes its token for a signed one. It has no argument for that."""
SEARCH_VARIABLE: Final = "QISKIT_FUNCTIONS_EXPERIMENTAL"
"""Keeps the client from a search for instances in IBM Cloud."""


def service(url: str | None = None, token: str | None = None, *, name: str | None = None) -> QiskitRuntimeService:
    """A `QiskitRuntimeService` of a Neartime server, found as `RuntimeService` finds it.

    It sets two environment variables, which the client reads whenever it copies a backend: a process speaks with one
    server, and not with IBM Quantum besides.

    Args:
        url: of the server.
        token: of one of its instances.
        name: of a saved account, where neither is given.

    Raises:
        ConfigurationError: `qiskit-ibm-runtime` is not installed, no account is found, or the process speaks with
            another server already.
        Unauthorized: the server does not know the token.
        ConnectionFailed: the server can't be reached.
    """
    try:
        from qiskit_ibm_runtime import QiskitRuntimeService
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"neartime.ibm needs the package {error.name!r}: pip install 'qiskit-ibm-runtime>=0.51'"
        ) from error
    account = config.find(url, token, name)
    api = f"{account.url}/api/v1"
    _speak_with(api)
    with RuntimeService(account.url, account.token) as own:
        own.usage()  # theirs tries for minutes where nobody answers, and hides that the token is not known
    return QiskitRuntimeService(
        channel="ibm_quantum_platform", token=account.token, url=api, instance=INSTANCE, url_resolver=_as_it_is
    )


def _speak_with(api: str) -> None:
    other = os.environ.get(IAM_VARIABLE)
    if other not in (None, api):
        raise ConfigurationError(
            f"{IAM_VARIABLE} is {other} in this process, so the client would send the token there: use a process "
            "for each server, or unset it"
        )
    os.environ[IAM_VARIABLE] = api
    os.environ[SEARCH_VARIABLE] = "1"


def _as_it_is(url: str, *_: Any) -> str:
    return url
