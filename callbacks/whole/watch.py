"""What the modules of a step hold: to see whether it has changed, and to put it back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import is_
from typing import Any

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HELD = ("_parameters", "_buffers", "_modules")  #: the dicts of a module in which its parts are

#: What each module has, whatever it does: the dicts of its parts and of hooks, which are looked at apart.
EVERY = frozenset(vars(nn.Module())) - {"training"}

#: Lists of the weights that `nn.LSTM` and its kin keep for themselves, renewed where the weights are others.
CACHES = ("_flat_weights", "_flat_weight_refs")


class Watch:
    """Everything that modules hold, to see whether one of it is another object now.

    Args:
        modules: those of a step.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self._held: list[tuple[dict[str, Any], list[str], list[Any]]] = []  # dict, keys, values
        for module in modules:
            own = vars(module)
            self._add(own, [key for key in own if key not in EVERY and key not in CACHES])
            for name in HELD:
                self._add(own[name], list(own[name]))

    def _add(self, holder: dict[str, Any], keys: list[str]) -> None:
        if keys:
            self._held.append((holder, keys, [holder[key] for key in keys]))

    def is_as_it_was(self) -> bool:
        """Are all of them the same objects?"""
        return all(all(map(is_, map(holder.get, keys), values)) for holder, keys, values in self._held)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], str, Any]]:
        """Each as (dict, key, value)."""
        for holder, keys, values in self._held:
            yield from ((holder, key, value) for key, value in zip(keys, values, strict=True))


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
