"""Split items into folds for cross-validation: at random, by class, by group, or as the user says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.core.warning import warn
from learner.data.tensors import describe, is_whole

#: For each fold the indices of the items to train on, and of those to validate on, ascending.
Folds = list[tuple[Tensor, Tensor]]


def make_folds(n_items: int, k: Any, stratify: Any, groups: Any, seed: int) -> Folds:
    """Split items into `k` folds of about the same size; `seed` is for the order in which they are assigned.

    `stratify` has a class for each item, whose shares are about the same in each fold. `groups` has a group
    for each item; items of a group are in one fold.
    """
    if not is_whole(k) or not 2 <= k <= n_items:
        raise ValueError(f"cross_validate(k={k!r}): pass a whole number from 2 to the {n_items} items.")
    if stratify is not None and groups is not None:
        raise ValueError(
            "cross_validate(stratify=..., groups=...): pass one of them; for both, pass "
            "folds=sklearn.model_selection.StratifiedGroupKFold(k).split(x, y, groups)."
        )
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed)).numpy()
    if groups is not None:
        fold_of = by_group(labels_of("groups", groups, n_items), order, k)
    elif stratify is not None:
        fold_of = by_class(labels_of("stratify", stratify, n_items), order, k)
    else:
        fold_of = folds_in_turn(order, k)
    numbers = torch.from_numpy(fold_of)
    return [((numbers != fold).nonzero()[:, 0], (numbers == fold).nonzero()[:, 0]) for fold in range(k)]


def folds_in_turn(order: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """The fold of each item, if items are assigned in turn in this order."""
    fold_of = np.empty(len(order), np.int64)
    fold_of[order] = np.arange(len(order)) % k
    return fold_of


def by_class(labels: np.ndarray[Any, Any], order: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """The fold of each item, where the items of each class are assigned after those of the class before."""
    counts = np.bincount(labels)
    if counts.min() < k:
        warn(
            f"cross_validate(stratify=...): a class has {counts.min()} items, fewer than the {k} folds, "
            "so some folds would have none of it."
        )
    return folds_in_turn(order[np.argsort(labels[order], kind="stable")], k)


def by_group(labels: np.ndarray[Any, Any], order: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """The fold of each item, where each group goes to the smallest fold, the largest groups first."""
    counts = np.bincount(labels)
    if len(counts) < k:
        raise ValueError(f"cross_validate(k={k}): there are only {len(counts)} groups; pass k={len(counts)}.")
    seen = labels[order][np.sort(np.unique(labels[order], return_index=True)[1])]  # in random order
    sizes, fold_of_group = np.zeros(k, np.int64), np.empty(len(counts), np.int64)
    for group in sorted(seen, key=lambda each: -counts[each]):
        fold = fold_of_group[group] = sizes.argmin()
        sizes[fold] += counts[group]
    return fold_of_group[labels]


def labels_of(name: str, labels: Any, n_items: int) -> np.ndarray[Any, Any]:
    """Labels of any kind as whole numbers from 0."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    array = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if array.shape != (n_items,):
        raise ValueError(
            f"cross_validate({name}=...) is {describe(labels)}: pass a label for each of the {n_items} items."
        )
    if array.dtype.kind in "fc" and (array != np.round(array)).any():
        raise TypeError(f"cross_validate({name}=...) has numbers that are not whole: pass classes or names.")
    return np.unique(array, return_inverse=True)[1].reshape(-1)


def as_folds(folds: Any, n_items: int, stratify: Any, groups: Any) -> Folds:
    """The user's folds, or those of a scikit-learn splitter."""
    if hasattr(folds, "split") and not isinstance(folds, (str, bytes, Tensor)):
        plain = [None if each is None else np.asarray(each) for each in (stratify, groups)]
        folds = folds.split(np.zeros((n_items, 1)), *plain)
    if not isinstance(folds, Iterable) or isinstance(folds, (str, bytes)):
        raise TypeError(f"cross_validate(folds={folds!r}): pass pairs (train, valid) of item indices.")
    found = [checked(number, pair, n_items) for number, pair in enumerate(folds)]
    if not found:
        raise ValueError("cross_validate(folds=...) is empty: pass pairs (train, valid) of item indices.")
    return found


def checked(number: int, pair: Any, n_items: int) -> tuple[Tensor, Tensor]:
    """One fold as item indices, ascending."""
    where = f"cross_validate(folds=...): fold {number}"
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{where} is {describe(pair)}: pass a pair (train, valid) of item indices.")
    parts = [as_numbers(each, n_items) for each in pair]
    for part in parts:
        if part is None or not len(part) or part[0] < 0 or part[-1] >= n_items:
            raise ValueError(
                f"{where} is {describe(pair)}: pass item indices from 0 to {n_items - 1}, at least one "
                "to train on and one to validate on."
            )
    train, valid = parts[0], parts[1]
    assert train is not None
    assert valid is not None
    n_both = int(torch.isin(valid, train).sum())
    if n_both:
        raise ValueError(f"{where} validates on {n_both} items that it trains on: remove them from one part.")
    return train, valid


def as_numbers(part: Sequence[int] | Any, n_items: int) -> Tensor | None:
    """Item indices, or a mask of the items, as ascending indices; None if it is something else."""
    found = torch.as_tensor(np.asarray(part))
    if found.dtype is torch.bool and found.shape == (n_items,):
        found = found.nonzero()[:, 0]
    if found.ndim != 1 or found.is_floating_point() or found.dtype is torch.bool:
        return None
    return found.long().sort().values
