"""The state of several optimizers as one mapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from torch import Tensor

from callbacks.optim.parameter_rules import parameters_of


class JoinedState(MutableMapping[Tensor, Any]):
    """The state of several optimizers as one mapping; what is assigned goes to the one with the parameter."""

    def __init__(self, members: Iterable[Any]):
        self._members = [each for each in members if isinstance(getattr(each, "state", None), MutableMapping)]

    def _of(self, parameter: Tensor) -> MutableMapping[Tensor, Any]:
        for member in self._members:
            if parameter in member.state or any(parameter is each for each in parameters_of(member)):
                return member.state
        raise KeyError(parameter)

    def __getitem__(self, parameter: Tensor) -> Any:
        return self._of(parameter)[parameter]

    def __setitem__(self, parameter: Tensor, value: Any) -> None:
        self._of(parameter)[parameter] = value

    def __delitem__(self, parameter: Tensor) -> None:
        del self._of(parameter)[parameter]

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in member.state for member in self._members)

    def get(self, parameter: Tensor, default: Any = None) -> Any:
        """The state of a parameter, or the default; nothing is made."""
        found = (member.state[parameter] for member in self._members if parameter in member.state)
        return next(found, default)

    def __iter__(self) -> Iterator[Tensor]:
        return (parameter for member in self._members for parameter in member.state)

    def __len__(self) -> int:
        return sum(len(member.state) for member in self._members)
