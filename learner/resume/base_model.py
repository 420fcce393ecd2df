"""Checkpoints without the frozen weights of a base model, as for adapters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.output import listed
from callbacks.model import shards
from callbacks.model.named import named_tensors
from learner.resume import wrapped_names
from learner.state.fingerprint import content_of

LEFT_OUT = "left_out"  # the key in a file


def without_base(model: nn.Module, contents: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The contents of a file without the parameters of these names, with their checksum instead.

    Raises:
        ValueError: the model has no parameter of that name.
    """
    are_several = isinstance(names, Iterable) and not isinstance(names, str)
    left = dict.fromkeys(names if are_several else [names])
    if not left:
        return contents
    unknown = left.keys() - contents["model"].keys()
    if unknown:
        raise ValueError(f"save(without=...): the model has no parameter {next(iter(unknown))!r}.")
    kept = {name: each for name, each in contents["model"].items() if name not in left}
    checksum = sum_of(contents["model"][name] for name in left)
    return {**contents, "model": kept, LEFT_OUT: {"names": list(left), "sum": checksum}}


def with_base(model: nn.Module, contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contents with the model's own values for the parameters that the file lacks.

    Raises:
        ValueError: these are not the values that the run had.
    """
    left = contents.get(LEFT_OUT)
    if left is None:
        return contents
    own = {name: each for name, each in named_tensors(model).items() if not is_lazy(each)}
    names = list(wrapped_names.matched(own, [*contents["model"], *left["names"]]).items())
    base = [new for old, new in names if old in set(left["names"])]
    missing = [name for name in base if name not in own]
    if missing or sum_of(own[name] for name in base) != left["sum"]:
        problem = f"the model lacks {listed(missing)}" if missing else f"the values of {listed(base)} differ"
        raise ValueError(
            f"{path} contains only the trained weights, without those of the base model, and the base "
            f"model is a different one: {problem}. First load the base weights of the run. Nothing was "
            "changed."
        )
    return {**contents, "model": {**contents["model"], **{name: own[name].detach() for name in base}}}


def sum_of(tensors: Iterable[Tensor]) -> int:
    """A checksum of some values of each tensor; of sharded ones, every process must call this."""
    return content_of(shards.whole(each.detach()).reshape(-1) for each in tensors)
