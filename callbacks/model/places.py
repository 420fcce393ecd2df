"""The places of a model's tensors and modules, to detect that they were replaced."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn


class Places:
    """The contents of a model's places: its parameters, its modules, and on request its buffers.

    Code that looks up tensors of a model by name, and keeps them, checks before each use whether they are
    still the model's: a layer, a parameter or a buffer may have been replaced since.
    """

    def __init__(self, model: nn.Module, *, with_buffers: bool = False):
        self.model = model
        self._kept = [
            (holder, list(holder.values()))
            for module in model.modules()
            for holder in holders_of(module, with_buffers)
            if holder
        ]

    def are_of(self, model: nn.Module) -> bool:
        """Is it this model, with the same objects in all places? About 0.3 microseconds per module."""
        return model is self.model and all(map(is_unchanged, self._kept))


def holders_of(module: nn.Module, with_buffers: bool) -> tuple[dict[str, Any], ...]:
    """The dicts in which a module keeps its parts."""
    if with_buffers:
        return module._parameters, module._modules, module._buffers
    return module._parameters, module._modules


def is_unchanged(kept: tuple[dict[str, Any], list[Any]]) -> bool:
    """Are the same things there?"""
    holder, items = kept
    return len(holder) == len(items) and all(map(is_, holder.values(), items))
