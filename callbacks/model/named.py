"""Layers and parameters of a model by name, by pattern, by class."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

COMPILED = "_orig_mod."  # what torch.compile puts into names


def find_layers(model: nn.Module, wanted: Sequence[str] | None, owner: str) -> dict[str, nn.Module]:
    """Modules by name, in the order in which the model has them; of the model itself it is `model`.

    `wanted` are names as in `model.named_modules()`, with `*` for any characters, or names of classes, as
    `ReLU`; None for all that have parameters and no modules within. `owner` asks, for the message.
    """
    named = {name.replace(COMPILED, "") or "model": module for name, module in model.named_modules()}
    if wanted is None:
        leaves = {name: each for name, each in named.items() if not any(each.children())}
        found = {name: each for name, each in leaves.items() if any(True for _ in each.parameters())}
        if not found:
            raise ValueError(
                f"{owner}: no layer has parameters. Choose layers by name: {owner}(layers=['...'])."
            )
        return found
    for pattern in wanted:
        if not any(is_meant(name, module, pattern) for name, module in named.items()):
            raise ValueError(
                f"{owner}(layers={list(wanted)!r}): the model has no {pattern!r}. Available: "
                f"{', '.join(named)}. Class names such as 'ReLU' also work."
            )
    return {
        name: module
        for name, module in named.items()
        if any(is_meant(name, module, pattern) for pattern in wanted)
    }


def is_meant(name: str, module: nn.Module, pattern: str) -> bool:
    """Does the pattern match this module, by its name or its class?"""
    kind = type(module).__name__  # `fully_shard` makes a subclass
    return fnmatchcase(name, pattern) or pattern in (kind, kind.removeprefix("FSDP"))


def find_parameters(model: nn.Module, wanted: Sequence[str] | None, owner: str) -> dict[str, nn.Parameter]:
    """Parameters by name, in the order in which the model has them.

    `wanted` are names as in `model.named_parameters()`, with `*` for any characters; None for all. `owner`
    asks, for the message.
    """
    named = {name.replace(COMPILED, ""): each for name, each in model.named_parameters()}
    if wanted is None:
        return named
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(
                f"{owner}(parameters={list(wanted)!r}): the model has no {pattern!r}. Available: "
                f"{', '.join(named)}."
            )
    return {name: tensor for name, tensor in named.items() if any(fnmatchcase(name, each) for each in wanted)}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers by name, those outside of the state dict too."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def short_label(name: str, kind: str, width: int) -> str:
    """Name and class of a layer; a long name has initials for its first parts, such as `e.l.0.linear`."""
    parts = name.split(".")
    for n in range(len(parts) - 1):
        if len(".".join(parts)) + 1 + len(kind) <= width:
            break
        parts[n] = parts[n] if parts[n].isdecimal() else parts[n][:1]
    text = f"{'.'.join(parts)} {kind}".strip()
    return text if len(text) <= width else f"{text[: width - 3]}..."


def as_patterns(owner: str, argument: str, value: Any) -> tuple[str, ...] | None:
    """One name or several as a tuple."""
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) and n for n in names):
        raise TypeError(f"{owner}({argument}={value!r}): pass one or more names, such as ['0', 'head.*'].")
    return tuple(names)
