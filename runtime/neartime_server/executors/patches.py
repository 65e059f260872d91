"""Patches of pods, carried out: a strategic merge, in which lists that have a key are merged by it.

Source: Kubernetes API, core/v1 PodSpec and Container, `patchMergeKey`; "Update API Objects in Place Using kubectl
patch", strategic merge patch. Tolerations are added there, too: the API itself replaces them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Object = dict[str, Any]

_KEYS: Final = {
    **dict.fromkeys(("containers", "volumes", "env", "imagePullSecrets", "resourceClaims", "schedulingGates"), "name"),
    "volumeMounts": "mountPath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""By which field entries of a list are the same one."""
_ADDED: Final = frozenset({"tolerations"})
"""Lists whose entries have no key: what is not there yet is added."""


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """The target with a patch carried out. A field that is null goes; a list without a key is replaced."""
    result = dict(target)
    for name, value in patch.items():
        before = result.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = merged(before if isinstance(before, Mapping) else {}, value)
        elif name in _KEYS and isinstance(value, list):
            result[name] = _by_key(before or [], value, _KEYS[name])
        elif name in _ADDED and isinstance(value, list):
            result[name] = [*(before or []), *(one for one in value if one not in (before or []))]
        else:
            result[name] = value
    return result


def _by_key(before: Sequence[Object], patch: Sequence[Any], key: str) -> list[Any]:
    """Entries stay where they are; new ones come after them."""
    result: list[Any] = list(before)
    for entry in patch:
        found = entry.get(key) if isinstance(entry, Mapping) else None
        at = next((number for number, one in enumerate(result) if found is not None and one.get(key) == found), None)
        if at is None:
            result.append(entry)
        else:
            result[at] = _one(result[at], entry)
    return result


def _one(before: Object, entry: Mapping[str, Any]) -> Object:
    """A variable has one value: from where it came before does not count any more."""
    if "value" in entry or "valueFrom" in entry:
        return dict(entry)
    return merged(before, entry)
