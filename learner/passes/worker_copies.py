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
N_OF_ITEM = 256  # numbers of each item that are compared in any order
N_ITEMS = 1_000_000  # items that are compared in any order, with 8 bytes each
FEWEST = 4  # items of a worker: fewer may be equal by chance
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
    """Yield the batches, and compare the first two of each worker; then all items, in any order."""
    facts, items = list[Facts](), list[Tensor]()
    for batch in islice(batches, 2 * loader.num_workers):
        tensors = plain_tensors(batch)
        facts.append(list(map(facts_of, tensors)))
        items.append(marks_of(tensors))
        yield batch
    if are_copies(facts, loader.num_workers):
        reason = "the first batches of its workers are equal"
        report_problems([copies_warning(loader, title, reason)])
        yield from batches
        return
    n_items = sum(map(len, items))
    for batch in batches:
        if n_items <= N_ITEMS:
            items.append(marks_of(plain_tensors(batch)))
            n_items += len(items[-1])
        yield batch
    if n_items <= N_ITEMS and are_shuffled_copies(items, loader.num_workers):
        reason = "its workers yield the same items in different orders"
        report_problems([copies_warning(loader, title, reason)])


def plain_tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch whose numbers can be listed."""
    return [each for each in tensors_in(batch) if is_plain(each)]


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


def marks_of(tensors: list[Tensor]) -> Tensor:
    """A number for each item of a batch that differs if the item does, shape (items,)."""
    n_items = next((len(each) for each in tensors if each.ndim), 0)
    found = torch.zeros(n_items, dtype=torch.float64)
    for each in tensors:
        if each.ndim and len(each) == n_items > 0 and not each.is_complex():
            numbers = each.detach().reshape(n_items, -1)
            numbers = numbers[:, :: max(1, numbers.shape[1] // N_OF_ITEM)].cpu().double().nan_to_num()
            found += (numbers * torch.arange(1, numbers.shape[1] + 1).sin()).sum(1)
    return found


def are_shuffled_copies(items: list[Tensor], n_workers: int) -> bool:
    """Do all workers, which take turns, yield the same items, and do most of these differ from each other?"""
    own = [torch.cat([*items[n::n_workers], torch.zeros(0)]).sort().values for n in range(n_workers)]
    if len(own[0]) < FEWEST or 2 * len(own[0].unique()) < len(own[0]):
        return False
    # batches of other lengths may add up an item's numbers in another order
    return all(len(each) == len(own[0]) and torch.allclose(each, own[0], 1e-9, 1e-12) for each in own)


def copies_warning(loader: Any, title: str, reason: str) -> LearnerWarning:
    """A warning that each item comes once from every worker."""
    return LearnerWarning(
        f"the {title} data, {describe_loader(loader)}, yields each item {loader.num_workers} times per pass: "
        f"{reason}, since each iterates over all of them. Divide the items in the data set's "
        "__iter__ with torch.utils.data.get_worker_info(), or pass num_workers=1."
    )
