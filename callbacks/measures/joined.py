"""Keep and join predictions and targets of several batches, for metrics of a whole pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from callbacks.place.device import map_tensors


def kept(part: Any) -> Any:
    """A copy of predictions or targets on their device, since a later batch may use the same memory."""
    return map_tensors(part, lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf)


def detached(preds: Any) -> Any:
    """A model's output, or its `.logits`, without the graph, so that a metric cannot keep the graph."""
    if type(preds) is Tensor:
        return preds.detach()
    return map_tensors(
        getattr(preds, "logits", preds), lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf
    )


def joined(parts: Sequence[Any]) -> Any:
    """Join parts of batches on the CPU: tensors along their first dimension, lists end to end, nests by part.

    Raises:
        ValueError: other dimensions of the tensors differ.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return joined_tensors(parts)
    if isinstance(first, Mapping):
        return {key: joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(joined(each) for each in zip(*parts, strict=True))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    return None if first is None else list(parts)


def joined_tensors(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors along their first dimension; stack single numbers."""
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"the batches cannot be joined: their items have shapes {', '.join(map(str, sorted(shapes)))}. "
            "Pad them to one length, or write the metric as an object with reset, update and compute."
        )
    return (torch.cat(list(parts)) if parts[0].ndim else torch.stack(list(parts))).cpu()
