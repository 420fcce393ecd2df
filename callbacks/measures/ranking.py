"""Metrics of order: do relevant items come before the others?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.core.missing_names import suggest_arguments
from callbacks.core.settings import check_count
from callbacks.measures.scores import widest
from callbacks.measures.sums import Sums


class AUROC(Sums):
    """Area under the ROC curve: how often an item of class 1 has a higher score than one of class 0.

    Exact, even with ties, which count half. It keeps all scores of a pass, about 5 bytes per item. Targets
    are 0 and 1. Preds are scores of the same shape, such as logits or probabilities, or of shape (items, 2)
    for both classes, whose difference is the score. NaN if a class is absent, or a score is NaN.

    Raises:
        ValueError: shapes do not fit, or (when the pass ends) targets are not 0 or 1.

    Source: Mann & Whitney 1947; Hanley & McNeil 1982.
    """

    higher_is_better = True
    added = ("scores", "targets", "n_foreign")

    def reset(self) -> None:
        self.scores: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.n_foreign: Any = 0

    def update(self, preds: Tensor, targets: Tensor) -> None:
        if preds.dim() == 2 and preds.shape == (*targets.shape, 2):
            preds = preds.to(widest(preds)).diff(dim=1).squeeze(1)
        if preds.shape != targets.shape:
            raise ValueError(
                f"AUROC: preds of shape {tuple(preds.shape)} do not match targets of shape "
                f"{tuple(targets.shape)}. Pass scores of the same shape, such as preds.squeeze(-1), or of "
                "shape (items, 2). For more classes, use torchmetrics.classification.MulticlassAUROC."
            )
        self.scores.append(preds.flatten().clone())
        self.targets.append(targets.flatten() == 1)
        self.n_foreign = self.n_foreign + ((targets != 0) & (targets != 1)).sum()

    def compute(self) -> float:
        if n_foreign := int(self.n_foreign):
            raise ValueError(
                f"AUROC: {n_foreign} targets of the pass are neither 0 nor 1. Convert the targets to 0 and 1."
            )
        if not self.scores:
            return math.nan
        scores, targets = torch.cat(self.scores), torch.cat(self.targets)
        scores = scores.float() if scores.element_size() < 4 else scores
        positives, negatives = scores[targets], scores[~targets].sort().values
        n_pairs = len(positives) * len(negatives)
        if not n_pairs or scores.isnan().any():
            return math.nan
        # below, and below or tied: the sum counts a win twice and a tie once, in whole numbers
        wins = sum(torch.searchsorted(negatives, positives, right=right).sum() for right in (False, True))
        return int(wins) / (2 * n_pairs)


class RowMean(Sums):
    """A mean over rows, for `MeanReciprocalRank` and `NDCG`, with the number of invalid targets."""

    higher_is_better = True
    added = ("total", "n_rows", "n_foreign")
    total: Any = 0.0
    n_rows: int = 0
    n_foreign: Any = 0

    def add(self, values: Tensor, n_foreign: Tensor) -> None:
        """Add the rows of a batch."""
        self.total = self.total + values.sum()
        self.n_rows += len(values)
        self.n_foreign = self.n_foreign + n_foreign

    def mean(self, title: str) -> Any:
        """The mean over all rows; raises an error for invalid targets."""
        if n_foreign := int(self.n_foreign):
            raise ValueError(
                f"{title}: {n_foreign} targets of the pass are relevances below 0 or NaN, or indices of "
                "items that do not exist. Pass relevances of 0 or more, or indices below the number of "
                "scores in a row."
            )
        return self.total / self.n_rows if self.n_rows else math.nan


class MeanReciprocalRank(RowMean):
    """Mean over rows of 1 / rank of the first relevant item; a row without relevant items counts as 0.

    Preds are scores of shape (rows, items); targets are the index of the one relevant item of each row,
    shape (rows,), or relevances of the preds' own shape, where above 0 means relevant. Among equal scores,
    items that are not relevant come first, so a model that gives all items one score gains nothing; NaN comes
    last. NaN if there was no row.

    Raises:
        ValueError: shapes do not fit, or (when the pass ends) relevances are below 0 or items do not exist.
    """

    def update(self, preds: Tensor, targets: Tensor) -> None:
        scores, relevances, n_foreign = rankings("MeanReciprocalRank", preds, targets)
        relevant = relevances > 0
        best = scores.masked_fill(~relevant, -math.inf).amax(1, keepdim=True)
        rank = 1 + (~relevant & (scores >= best)).sum(1)
        self.add(torch.where(relevant.any(1), 1 / rank.to(relevances.dtype), 0), n_foreign)

    def compute(self) -> Any:
        return self.mean("MeanReciprocalRank")


class NDCG(RowMean):
    """Normalized discounted cumulative gain, the mean over rows; a row without relevant items counts as 0.

    The gain of an item is its relevance, discounted by log2(1 + rank); the sum is divided by that of the best
    order. Tied scores get the mean over their orders; NaN comes last. Preds are scores of shape (rows,
    items); targets are relevances of that shape, 0 or more, or the index of the one relevant item of each
    row. The result is called `ndcg_at_10` for `k=10`. NaN if there was no row.

    Args:
        k: only the first `k` places count; None for all.

    Raises:
        ValueError: `k` is not a whole number from 1, shapes do not fit, or (when the pass ends) relevances
            are below 0 or items do not exist.

    Source: Järvelin & Kekäläinen 2002; ties as McSherry & Najork 2008, section 2.6.
    """

    @suggest_arguments
    def __init__(self, k: int | None = None):
        if k is not None:
            check_count("NDCG", "k", k, 1)
        self.k, self.name = k, "ndcg" if k is None else f"ndcg_at_{k}"
        super().__init__()

    def update(self, preds: Tensor, targets: Tensor) -> None:
        scores, relevances, n_foreign = rankings(self.name, preds, targets)
        discounts = self._discounts(scores.shape[1])
        summed = torch.cat((torch.zeros(1, dtype=torch.float64), discounts.cumsum(0)))
        # computed on the CPU, where a running sum has one order; not blocking, so nothing waits
        discounts, summed = (each.to(relevances, non_blocking=True) for each in (discounts, summed))
        ordered = (-scores).sort(1).values
        above = torch.searchsorted(ordered, -scores)
        above_or_tied = torch.searchsorted(ordered, -scores, right=True)
        gained = relevances * (summed[above_or_tied] - summed[above]) / (above_or_tied - above)
        best = (relevances.sort(1, descending=True).values * discounts).sum(1)
        self.add(torch.where(best > 0, gained.sum(1) / best, 0), n_foreign)

    def compute(self) -> Any:
        return self.mean(self.name)

    def _discounts(self, n_places: int) -> Tensor:
        places = torch.arange(n_places, dtype=torch.float64)
        return torch.where(places < (self.k or n_places), 1 / torch.log2(places + 2), 0)


def rankings(title: str, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores without NaN, relevances, both (rows, items), and the number of invalid targets."""
    by_number = preds.shape[:1] == targets.shape and not targets.is_floating_point()
    if preds.dim() != 2 or not preds.shape[1] or not (by_number or preds.shape == targets.shape):
        raise ValueError(
            f"{title}: preds of shape {tuple(preds.shape)} do not match targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype}. Pass scores of shape (rows, items), and either "
            "relevances of that shape or the index of the relevant item, shape (rows,). For rows of "
            "different lengths, use torchmetrics.retrieval."
        )
    scores = preds.float() if preds.element_size() < 4 or not preds.is_floating_point() else preds
    scores = torch.where(scores.isnan(), -math.inf, scores).contiguous()
    dtype = widest(preds)
    if not by_number:
        return scores, targets.to(dtype), (~(targets >= 0)).sum()
    numbers = torch.arange(preds.shape[1], device=preds.device)
    foreign = (targets < 0) | (targets >= preds.shape[1])
    return scores, (numbers == targets.unsqueeze(1)).to(dtype), foreign.sum()
