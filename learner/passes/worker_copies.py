"""Find workers of a loader that all yield the same items of an iterable data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from callbacks.core.contract import LearnerWarning
from callbacks.place.device import tensors_in
from learner.data.loaders import describe_loader
from learner.messages.problems import report_problems

N_NUMBERS = 4096  # of each tensor that are compared
Facts = list[tuple[torch.Size, bytes, bool]]


def may_be_copies(loader: Any) -> bool:
    """Do several workers each iterate over a copy of the data set, and take turns?"""
    is_torchs_own = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    return bool(
        is_torchs_own
        and isinstance(loader.dataset, IterableDataset)
        and loader.num_workers > 1
        and loader.in_order
    )


def compared(loader: Any, batches: Iterator[Any], title: str) -> Iterator[Any]:
    """Yield the batches, and compare the first ones of the workers: two of each."""
    facts = list[Facts]()
    for batch in islice(batches, 2 * loader.num_workers):
        facts.append([facts_of(each) for each in tensors_in(batch) if is_plain(each)])
        yield batch
    if are_copies(facts, loader.num_workers):
        report_problems([copies_warning(loader, title)])
    yield from batches


def is_plain(tensor: Tensor) -> bool:
    """Can its numbers be listed?"""
    return tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_quantized)


def facts_of(tensor: Tensor) -> tuple[torch.Size, bytes, bool]:
    """The shape and the first numbers of a tensor, and whether these differ."""
    numbers = tensor.detach().reshape(-1)[:N_NUMBERS].cpu().contiguous()
    return tensor.shape, numbers.view(torch.uint8).numpy().tobytes(), bool((numbers != numbers[:1]).any())


def are_copies(facts: list[Facts], n_workers: int) -> bool:
    """Are the first batches of all workers equal, though the batches of a worker differ?"""
    first, second = facts[:n_workers], facts[n_workers:]
    if len(first) < n_workers or not any(differs for _, _, differs in first[0]):
        return False
    are_equal = all(each == first[0] for each in first) and all(each == second[0] for each in second)
    return are_equal and (not second or second[0] != first[0])


def copies_warning(loader: Any, title: str) -> LearnerWarning:
    """A warning that each item comes once from every worker."""
    return LearnerWarning(
        f"the {title} data, {describe_loader(loader)}, yields each item {loader.num_workers} times per pass: "
        "the first batches of its workers are equal, since each iterates over all items. Divide the items in "
        "the data set's __iter__ with torch.utils.data.get_worker_info(), or pass num_workers=1."
    )
