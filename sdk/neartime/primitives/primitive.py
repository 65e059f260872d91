"""What all primitives have in common: where they run, and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic

from neartime.primitives.mode import Mode
from neartime.primitives.options import O

if TYPE_CHECKING:
    from neartime.client import RuntimeService


class Primitive(Generic[O]):
    """A primitive with options of one kind, which its class names."""

    _kind: type[O]

    def __init__(
        self,
        mode: Any = None,
        options: O | Mapping[str, Any] | None = None,
        *,
        service: RuntimeService | None = None,
    ) -> None:
        """
        Args:
            mode: a backend or its name, a `Session` or a `Batch`; None is the server's default backend.
            options: options of its kind, or a dictionary with their keys.
            service: where a backend is given by name; None finds one as `RuntimeService()` does.

        Raises:
            InvalidInput: an option is none, or can't be that.
        """
        self._mode = Mode(mode, service)
        self._options = self._kind.of(options)

    @property
    def options(self) -> O:
        """Its options, which may be changed between runs."""
        return self._options

    @options.setter
    def options(self, options: O | Mapping[str, Any]) -> None:
        self._options = self._kind.of(options)


def values(pub: Any) -> Any:
    """The parameter values of a PUB; None where there are neither values nor a shape."""
    bindings = pub.parameter_values
    return bindings if bindings.shape or bindings.num_parameters else None
