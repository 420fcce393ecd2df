"""What the modules of a step hold: to see whether it has changed, and to put it back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HELD = ("_parameters", "_buffers", "_modules")  #: the dicts of a module in which its parts are

#: Lists of the weights that `nn.LSTM` and its kin keep for themselves, renewed where the weights are others.
CACHES = ("_flat_weights", "_flat_weight_refs")


def watched(modules: Iterable[nn.Module]) -> list[tuple[dict[str, Any], str, Any]]:
    """Everything that the modules hold, as (dict, key, value)."""
    found: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules:
        own = vars(module)
        found += [(own, key, value) for key, value in own.items() if key not in (*HELD, *HOOKS, *CACHES)]
        found += [(own[name], key, value) for name in HELD for key, value in own[name].items()]
    return found


class Traces:
    """What the modules hold now, to find what running them changes."""

    def __init__(self, modules: Iterable[nn.Module]):
        self._before = [(each, dict(vars(each))) for each in modules]
        self._lists = [
            (each, key, value, len(value))
            for each, own in self._before
            for key, value in own.items()
            if isinstance(value, list)
        ]

    def put_back(self) -> str:
        """Put back what has changed; gives one of it, in words, or nothing."""
        found = ""
        for module, key, value, size in self._lists:
            if len(value) > size:
                del value[size:]
                found = f"the list {key!r} of {type(module).__name__}"
        for module, before in self._before:
            own = vars(module)
            for key in [key for key in own if key not in before or own[key] is not before[key]]:
                if key not in CACHES:
                    found = f"{key!r} of {type(module).__name__}"
                del own[key]
            own.update(before)
        return found


def hooks_of(model: nn.Module, loss_func: Any) -> list[tuple[str, Any]]:
    """The dicts in which hooks are registered, each with what it belongs to."""
    found = [
        (f"the module {name!r}" if name else "the model", vars(module)[kind])
        for name, module in model.named_modules()
        for kind in HOOKS
    ]
    if isinstance(loss_func, nn.Module):
        found += [("the loss function", vars(each)[kind]) for each in loss_func.modules() for kind in HOOKS]
    return found


def modules_of(model: nn.Module, loss_func: Any) -> list[nn.Module]:
    """The modules that a step runs."""
    return [*model.modules(), *(loss_func.modules() if isinstance(loss_func, nn.Module) else ())]


def is_value(value: Any) -> bool:
    """Is it told by its value, not by which object it is?"""
    if isinstance(value, tuple):
        return all(map(is_value, value))
    return isinstance(value, (int, float, str, bool, type(None), torch.dtype, torch.device))
