"""/backends: what can be run on."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from neartime.contract.backends import BackendConfig, BackendDevice, BackendList, BackendStatus
from neartime_server.api import ibm
from neartime_server.api.ibm import ForIbm
from neartime_server.api.services import JSON, Here, Services
from neartime_server.errors import Refused
from neartime_server.store import jobs

router = APIRouter(prefix="/backends", tags=["backends"])


@router.get("", response_model=BackendList)
async def index(here: Here, for_ibm: ForIbm) -> Response:
    """Every backend of this server, with the length of its queue."""
    found = [await _device(here, here.backends.get(name)) for name in here.backends.names()]
    if for_ibm:
        return Response(json.dumps({"devices": [ibm.device(one) for one in found]}), media_type=JSON)
    page = BackendList(devices=[one.name for one in found], backends=found)
    return Response(page.model_dump_json(), media_type=JSON)


@router.get("/{name}/configuration", response_model=dict[str, Any])
async def configuration(name: str, here: Here, for_ibm: ForIbm) -> Response:
    """Number of qubits, basis gates and coupling map, as the backend itself states them."""
    found = await here.backends.configuration(_name(here, name))
    return Response(json.dumps(ibm.configuration(found) if for_ibm else found), media_type=JSON)


@router.get("/{name}/properties", response_model=dict[str, Any])
async def properties(name: str, here: Here, for_ibm: ForIbm) -> Response:
    """Calibration, where the backend has one; the simulators have none."""
    found = await here.backends.configuration(_name(here, name))
    told = ibm.properties(found) if for_ibm else found.get("properties")
    if told and not for_ibm:
        told = {**told, "last_update_date": found["described"]}
    return Response(json.dumps(told or {}), media_type=JSON)


@router.get("/{name}/status", response_model=BackendStatus)
async def status(name: str, here: Here) -> Response:
    """Whether it takes jobs, and how many wait."""
    found = await _status(here, here.backends.get(name, status=404))
    return Response(found.model_dump_json(), media_type=JSON)


def _name(here: Services, name: str) -> str:
    """The name, if there is such a backend."""
    return here.backends.get(name, status=404).name


async def _status(here: Services, config: BackendConfig) -> BackendStatus:
    return await _status_of(here, config, (await _known(here, config))[1])


async def _status_of(here: Services, config: BackendConfig, fault: str) -> BackendStatus:
    waiting = await here.store.read(lambda connection: jobs.waiting(connection, config.name))
    state, status = (False, "internal") if fault else (True, "active")
    return BackendStatus(name=config.name, state=state, status=status, message=fault, length_queue=waiting)


async def _known(here: Services, config: BackendConfig) -> tuple[dict[str, Any], str]:
    """What the backend states of itself, and why it can't: one that can't be built must not hide the others."""
    try:
        return await here.backends.configuration(config.name, wait=False), ""
    except Refused as refused:
        return {}, str(refused)


async def _device(here: Services, config: BackendConfig) -> BackendDevice:
    known, fault = await _known(here, config)
    return BackendDevice(
        name=config.name,
        description=config.description,
        simulator=known.get("simulator"),
        num_qubits=known.get("num_qubits"),
        parallelism=config.parallelism,
        status=await _status_of(here, config, fault),
    )
