"""Predictions: inputs as a batch, outputs on the CPU, batches joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from callbacks.device import map_tensors
from learner.data import Data, as_tensors, describe, first_tensor, is_array


def loader_or_valid(data: Data, loader: Any) -> Any:
    """The loader given, or the validation data.

    Raises:
        ValueError: none was given and there is no validation data.
    """
    if loader is None and data.valid is None:
        raise ValueError(
            "there is no validation data: pass a loader, as in learn.validate(learn.data.train), or give "
            "Data a valid."
        )
    return data.valid if loader is None else loader


def as_batch(inputs: Any, data: Data) -> Any:
    """Inputs as a batch without targets.

    Raises:
        TypeError: neither tensors nor a mapping.
    """
    if isinstance(inputs, Mapping) or hasattr(inputs, "keys"):
        return inputs
    if is_array(inputs) or isinstance(inputs, (tuple, list)):
        tensors, n_inputs = as_tensors(inputs)
        if n_inputs != data.n_inputs:
            raise ValueError(
                f"predict was given {n_inputs} inputs, but the model takes {data.n_inputs} "
                f"(Data(n_inputs={data.n_inputs}))."
            )
        return tensors
    raise TypeError(
        f"predict was given {describe(inputs)}: pass a tensor of shape (items, ...), a tuple of such, or a "
        f"mapping."
    )


def to_cpu(output: Any) -> Any:
    """Every tensor of an output on the CPU, without its graph."""
    return map_tensors(output, lambda tensor: tensor.detach().cpu() if isinstance(tensor, Tensor) else tensor)


def collect(predict: Callable[[], None], learn: Any, batches: Iterable[Any]) -> tuple[Any, Any]:
    """Run the model on each batch and join the outputs, and the targets."""
    found = []
    for learn.batch_idx, learn.batch in enumerate(batches):
        predict()
        found.append((to_cpu(learn.preds), to_cpu(learn.targets)))
    if not found:
        raise ValueError("the loader gave no batch, so there are no predictions.")
    preds, targets = zip(*found, strict=True)
    return join(preds), join(targets)


def join(parts: tuple[Any, ...]) -> Any:
    """Outputs of batches as one: tensors along their first dimension, nests part by part."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts) if first.ndim else torch.stack(parts)
    if isinstance(first, Mapping):
        return {key: join(tuple(part[key] for part in parts)) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(join(items) for items in zip(*parts, strict=True))
    return None if first is None else list(parts)


def n_items_of(inputs: Any, targets: Any) -> int:
    """Number of items in a batch of any kind: the first dimension of its first tensor, or 1."""
    first = first_tensor(inputs)
    first = first_tensor(targets) if first is None else first
    return 1 if first is None else len(first)
