"""Our own metric of language models: how surprised they are."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.measures.classification import known_classes, refuse_foreign
from callbacks.measures.scores import widest


class Perplexity:
    """The mean cross-entropy of all targets that count, as exp(mean); 1 is certainty, `n` a choice among `n`.

    NaN where no target counts.

    Args:
        class_dim: where the classes stand: 1 for logits of shape (items, classes, ...), as `cross_entropy`
            takes them; -1 for (items, positions, classes), as language models give them.
        ignore_index: targets of this number do not count; -100 is also what `cross_entropy` leaves out.

    Raises:
        ValueError: shapes that do not fit, or (when the pass ends) targets beyond the classes.
    """

    higher_is_better = False

    def __init__(self, *, class_dim: Literal[1, -1] = 1, ignore_index: int | None = -100):
        if class_dim not in (1, -1):
            raise ValueError(f"Perplexity(class_dim={class_dim!r}): there are 1 and -1.")
        self.class_dim, self.ignore_index = class_dim, ignore_index
        self.reset()

    def reset(self) -> None:
        self.n_classes = 0
        self.total: Any = 0.0
        self.n_items: Any = 0
        self.n_foreign: Any = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        shape = preds.shape
        if self.class_dim == -1 and preds.dim() > 2 and shape[:-1] == targets.shape:
            preds = preds.movedim(-1, 1)
        elif preds.dim() > 2 and (self.class_dim == -1 or shape[:1] + shape[2:] != targets.shape):
            fits = 1 if self.class_dim == -1 else -1
            raise ValueError(
                f"Perplexity(class_dim={self.class_dim}): preds of shape {tuple(shape)} against targets of "
                f"shape {tuple(targets.shape)}. Give logits with the classes there, or class_dim={fits}."
            )
        counted, targets, n_foreign = known_classes("Perplexity", preds, targets, self.ignore_index)
        self.n_classes = preds.shape[1]
        preds = preds.float() if preds.element_size() < 4 else preds
        losses = F.cross_entropy(preds, targets, reduction="none")
        self.total = self.total + torch.where(counted, losses, 0).to(widest(preds)).sum()
        self.n_items = self.n_items + counted.sum()
        self.n_foreign = self.n_foreign + n_foreign

    def compute(self) -> Any:
        refuse_foreign("Perplexity", int(self.n_foreign), self.n_classes)
        return torch.exp(torch.as_tensor(self.total / self.n_items)) if int(self.n_items) else math.nan
