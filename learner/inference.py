"""Predictions: inputs as a batch, outputs on the CPU, batches joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from callbacks.device import map_tensors, tensors_in
from learner.data import Data, InputsOnly
from learner.loaders import check_batches
from learner.tensors import as_tensors, describe, is_array


def loader_or_valid(data: Data, loader: Any) -> Any:
    """The loader given, or the validation data.

    Raises:
        TypeError: it gives no batches.
        ValueError: none was given and there is no validation data.
    """
    if loader is None and data.valid is None:
        raise ValueError(
            "there is no validation data: pass a loader, as in learn.validate(learn.data.train), or give "
            "Data a valid."
        )
    if loader is None:
        return data.valid
    check_batches("the loader", loader)
    return loader


def as_batch(inputs: Any, data: Data) -> InputsOnly:
    """Inputs as a batch without targets.

    Raises:
        TypeError, ValueError: neither tensors nor a mapping, or another number of them than the model takes.
    """
    if isinstance(inputs, Mapping):
        return InputsOnly({key: item for key, item in inputs.items() if key not in data.target_keys})
    if not (is_array(inputs) or isinstance(inputs, (tuple, list))):
        raise TypeError(
            f"predict was given {describe(inputs)}: pass a tensor of shape (items, ...), a tuple of such, or "
            "a mapping; over a loader it is learn.get_preds(loader)."
        )
    tensors, n_inputs = as_tensors(inputs)
    if n_inputs != data.n_inputs and data.custom_split is None:
        raise ValueError(
            f"predict was given {describe(inputs)}, so {n_inputs} inputs, but the model takes "
            f"{data.n_inputs} (Data(n_inputs={data.n_inputs})): leave targets out."
        )
    return InputsOnly(tensors)


def to_cpu(output: Any) -> Any:
    """Every tensor of an output on the CPU, without its graph."""

    def move(leaf: Any) -> Any:
        return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf.to("cpu")

    return map_tensors(output, move)


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
    """Outputs of batches as one: tensors along their first dimension, nests part by part.

    Raises:
        ValueError: tensors whose other dimensions differ.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return join_tensors(parts)
    if isinstance(first, Mapping):
        return {key: join(tuple(part[key] for part in parts)) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [join(items) for items in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return None if first is None else list(parts)


def join_tensors(parts: tuple[Tensor, ...]) -> Tensor:
    """Tensors in a row along their first dimension; single numbers as a row of them."""
    if not parts[0].ndim:
        return torch.stack(parts)
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"the batches' outputs cannot be joined: their items have the shapes {sorted(shapes)}. Go "
            "through the batches and call learn.predict on each."
        )
    return torch.cat(parts)


def n_items_of(inputs: Any, targets: Any) -> int:
    """Number of items in a batch of any kind: the first dimension of its first tensor, or 1."""
    for item in inputs.values() if isinstance(inputs, Mapping) else inputs or ():
        if isinstance(item, PackedSequence):  # its data has a row for each moment of each item
            return int(item.batch_sizes[0])
    for tensor in (*tensors_in(inputs), *tensors_in(targets)):
        if tensor.ndim:
            return len(tensor)
    return 1
