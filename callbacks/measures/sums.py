"""The counts of metrics in a pass, and how those of several processes are merged."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from callbacks.core.missing_names import suggest_arguments


class Sums:
    """A metric that counts: attributes that start with their class's values and are added over processes.

    Attributes:
        added: the names of these attributes.
    """

    added: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        if cls.__module__.startswith("callbacks.") and "update" in vars(cls):
            cls.update = of_tensors(vars(cls)["update"])  # type: ignore[attr-defined]

    @suggest_arguments
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        for name in self.added:
            setattr(self, name, getattr(type(self), name))

    def merge(self, other: Any) -> None:
        """Add what another one has counted, in another process."""
        for name in self.added:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def of_tensors(update: Callable[..., None]) -> Callable[..., None]:
    """The `update` of a metric; if it fails because it did not receive tensors, its error says so."""

    @wraps(update)
    def checked(self: Any, preds: Tensor, targets: Tensor) -> None:
        try:
            update(self, preds, targets)
        except (AttributeError, TypeError) as error:
            for name, given in (("preds", preds), ("targets", targets)):
                if not isinstance(given, Tensor):
                    kind = type(given).__name__
                    raise TypeError(
                        f"{type(self).__name__}.update: {name} must be a tensor, but got an object of type "
                        f"{kind}. Convert numbers with torch.as_tensor; of several outputs pass one."
                    ) from error
            raise

    return checked
