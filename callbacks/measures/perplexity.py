"""Perplexity, the metric of language models."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.core.missing_names import suggest_arguments
from callbacks.measures.classification import ClassMean
from callbacks.measures.scores import widest


class Perplexity(ClassMean):
    """exp of the mean cross-entropy of all targets that count; guessing among `n` classes gives `n`.

    NaN if no target counts.

    Args:
        class_dim: the dimension of the classes: 1 for logits of shape (items, classes, ...), as
            `cross_entropy` takes them; -1 for (items, positions, classes), as language models return them. By
            default the one that fits the shape of the targets, 1 if both do.
        ignore_index: targets with this number do not count, and neither do those that the loss ignores.

    Raises:
        ValueError: shapes do not fit, or (when the pass ends) targets are outside the classes.
    """

    higher_is_better = False

    @suggest_arguments
    def __init__(self, *, class_dim: Literal[1, -1] | None = None, ignore_index: int | None = -100):
        self.class_dim = class_dim
        super().__init__(ignore_index)

    def update(self, preds: Tensor, targets: Tensor) -> None:
        if self.class_dim is None:
            preds = self.with_classes_second(
                preds, targets, "pass Perplexity(class_dim=-1), otherwise class_dim=1."
            )
        else:
            preds = self._moved(preds, targets)
        counted, targets = self.known(preds, targets)
        self.n_classes = preds.shape[1]
        preds = preds.float() if preds.element_size() < 4 else preds
        losses = F.cross_entropy(preds, targets, reduction="none")
        self.add(torch.where(counted, losses, 0).to(widest(preds)).sum(), counted)

    def _moved(self, preds: Tensor, targets: Tensor) -> Tensor:
        """Scores with the classes moved from the dimension that was passed to dimension 1."""
        shape = preds.shape
        if (shape[:-1] if self.class_dim == -1 else shape[:1] + shape[2:]) != targets.shape:
            raise ValueError(
                f"Perplexity(class_dim={self.class_dim}): preds of shape {tuple(shape)} do not match "
                f"targets of shape {tuple(targets.shape)}. Pass logits with the classes in that "
                f"dimension, or class_dim={-(self.class_dim or 1)}."
            )
        return preds.movedim(-1, 1) if self.class_dim == -1 and preds.ndim > 2 else preds

    def compute(self) -> Any:
        return torch.tensor(self.mean(), dtype=torch.float64).exp()
