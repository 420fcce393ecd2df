"""What is wrong with data, seen without asking for a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from callbacks.place.device import tensors_in
from learner.data.data import Data
from learner.data.items import both_have_time_first, counted, lengths_of
from learner.data.loaders import is_one_shot, n_batches_of
from learner.data.tensors import describe
from learner.messages.problems import LearnerWarning
from learner.state.protocol import FullLearner

TITLES = {"train": "training", "valid": "validation"}


def data_faults(data: Data, n_epochs: int) -> Iterator[Exception]:
    """No batches, batches that can be gone through only once, validation that looks like a mistake."""
    for name, loader in (("train", data.train), ("valid", data.valid)):
        if loader is not None and n_batches_of(loader) == 0:
            yield no_batch(name, loader)
        elif n_epochs > 1 and is_one_shot(loader):
            yield one_shot(name, loader, n_epochs)
    yield from validation_faults(data.train, data.valid)


def validation_faults(train: Any, valid: Any) -> Iterator[Exception]:
    """Validation on the training data, or in random order."""
    if valid is None:
        return
    if valid is train or is_same_data_set(train, valid):
        yield LearnerWarning(
            "training and validation use the same data, so validation tells nothing new: hold data out, as "
            "in Data.from_tensors(..., valid=0.2), or leave valid out."
        )
    elif is_shuffled(valid):
        yield LearnerWarning(
            "the validation data is shuffled, which gains nothing and puts predictions in no fixed order: "
            "pass shuffle=False."
        )


def is_same_data_set(train: Any, valid: Any) -> bool:
    """Do both go through the whole of one data set? Samplers of the user's own may choose apart."""
    both = (train, valid)
    if not all(isinstance(loader, DataLoader) for loader in both) or train.dataset is not valid.dataset:
        return False
    return all(type(loader.sampler) in (RandomSampler, SequentialSampler) for loader in both)


def is_shuffled(loader: Any) -> bool:
    """Does a loader draw its order at random?"""
    return getattr(loader, "shuffle", False) is True or isinstance(
        getattr(loader, "sampler", None), RandomSampler
    )


def one_shot(name: str, loader: Any, n_epochs: int) -> Exception:
    """Batches for one epoch, where more are asked for."""
    return ValueError(
        f"the {TITLES[name]} data is {describe(loader)}, which can be gone through only once, and the fit "
        f"has {n_epochs} epochs: pass the function that makes it, as Data({name}=function) without calling "
        "it, or a list of its batches."
    )


def no_batch(name: str, loader: Any) -> Exception:
    """Data without a batch, with what its emptiness comes from."""
    sizes = sizes_of(loader)
    given = ", ".join(f"{key}={value}" for key, value in sizes.items())
    n_items = sizes.get("len(dataset)", sizes.get("n_items"))
    if n_items and sizes.get("drop_last"):
        cure = (
            "all items make less than one batch, and drop_last=True leaves it out: lower batch_size, or pass "
        )
        cure += "drop_last=False."
    elif n_items:
        cure = "its sampler gives no items."
    elif is_one_shot(loader):
        cure = "it can be gone through only once, and has been: pass the function that makes it, or a list."
    elif name == "valid":
        cure = "pass some, or valid=None to train without."
    else:
        cure = "pass data that has items."
    return ValueError(
        f"the {TITLES[name]} data, {describe(loader)}{f' ({given})' if given else ''}, gives no batch: {cure}"
    )


def sizes_of(loader: Any) -> dict[str, Any]:
    """What a loader's number of batches comes from, as far as it tells."""
    sizes = {}
    with suppress(AttributeError, TypeError):  # no data set, or one without a length
        sizes["len(dataset)"] = len(loader.dataset)
    return sizes | {
        name: getattr(loader, name)
        for name in ("n_items", "batch_size", "drop_last")
        if hasattr(loader, name)
    }


def n_left_over(loader: Any) -> int | None:
    """Number of items in a smaller last batch; None if there is no such batch or it is unknown."""
    if isinstance(loader, (list, tuple)) and loader:
        first = next(tensors_in(loader[-1]), None)
        return len(first) if first is not None and first.ndim and not first.is_nested else None
    sizes = sizes_of(loader)
    sampler = getattr(loader, "sampler", None)
    n_items = sizes.get("n_items", sizes.get("len(dataset)"))
    if isinstance(loader, DataLoader):
        n_items = n_batches_of(sampler)  # a sampler may choose some of the items
    if n_items is None or not sizes.get("batch_size") or sizes.get("drop_last"):
        return None
    return n_items % sizes["batch_size"] or None


def item_faults(learn: FullLearner) -> Iterator[Exception]:
    """Report inputs, targets and predictions that disagree on the number of items.

    Many right batches have inputs of another length than their targets: nodes of some graphs, a bag of
    pictures, both halves of pairs. The predictions then have the length of the targets.
    """
    n_items, in_inputs = counted(learn.inputs, learn.targets)
    if in_inputs is None or learn.data.count_items is not None:
        return
    if n_items in lengths_of(learn.preds)[0] and not both_have_time_first(learn.inputs, learn.targets):
        return
    yield LearnerWarning(
        f"a batch has {in_inputs} items by its inputs and {n_items} by its targets "
        f"({describe(learn.batch)}); it counts as {n_items}, in means and in learn.n_samples. If that is "
        "right, or another number is, pass it: Data(..., n_items=lambda batch: ...)."
    )
