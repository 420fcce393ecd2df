"""Problems of the data that are visible without taking a batch, and numbers of items that disagree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from callbacks.place.device import tensors_in
from learner.data.data import Data
from learner.data.items import both_have_time_first, counts_of, lengths_of
from learner.data.loaders import is_one_shot, n_batches_of
from learner.data.tensors import describe
from learner.messages.problems import LearnerWarning
from learner.passes.source import title_of
from learner.state.protocol import FullLearner


def data_problems(data: Data, n_epochs: int, *, may_be_empty: bool = False) -> Iterator[Exception]:
    """Data without batches, data that can be read only once, and doubtful validation data.

    Args:
        data: the data.
        n_epochs: the number of epochs.
        may_be_empty: may it have no batch in this process, because others have some?
    """
    for name, loader in data.loaders.items():
        if loader is not None and n_batches_of(loader) == 0 and not may_be_empty:
            yield no_batch(name, loader)
        elif n_epochs > 1 and is_one_shot(loader):
            yield one_shot(name, loader, n_epochs)
    for loader in data.validations.values():
        yield from validation_problems(data.train, loader)


def validation_problems(train: Any, valid: Any) -> Iterator[Exception]:
    """Validation data that is also the training data, or that is shuffled."""
    if valid is None:
        return
    if valid is train or is_same_data_set(train, valid):
        yield LearnerWarning(
            "training and validation use the same data, so validation shows nothing new: hold data out, as "
            "in Data.from_tensors(..., valid=0.2), or leave valid out."
        )
    elif is_shuffled(valid):
        yield LearnerWarning(
            "the validation data is shuffled, which has no benefit, and predictions have no fixed order: "
            "pass shuffle=False."
        )


def is_same_data_set(train: Any, valid: Any) -> bool:
    """Do both loaders read all of one data set? Samplers of the user may select different items."""
    both = (train, valid)
    if not all(isinstance(loader, DataLoader) for loader in both) or train.dataset is not valid.dataset:
        return False
    return all(type(loader.sampler) in (RandomSampler, SequentialSampler) for loader in both)


def is_shuffled(loader: Any) -> bool:
    """Does a loader shuffle its items?"""
    return getattr(loader, "shuffle", False) is True or isinstance(
        getattr(loader, "sampler", None), RandomSampler
    )


def one_shot(name: str, loader: Any, n_epochs: int) -> Exception:
    """An error: the data lasts one epoch, and the fit has several."""
    return ValueError(
        f"the {title_of(name)} data is {describe(loader)}, which can be read only once, and the fit has "
        f"{n_epochs} epochs: pass the function that makes it, as in Data({name}=function) without calling "
        "it, or a list of its batches."
    )


def no_batch(name: str, loader: Any) -> Exception:
    """An error: the data has no batch; with the reason."""
    sizes = sizes_of(loader)
    given = ", ".join(f"{key}={value}" for key, value in sizes.items())
    n_items = sizes.get("len(dataset)", sizes.get("n_items"))
    if n_items and sizes.get("drop_last"):
        hint = (
            "there are fewer items than one batch takes, and drop_last=True drops them: lower batch_size, or "
            "pass drop_last=False."
        )
    elif n_items:
        hint = "its sampler is empty."
    elif is_one_shot(loader):
        hint = "it can be read only once, and is used up: pass the function that makes it, or a list."
    elif name == "valid":
        hint = "pass data that has items, or valid=None to train without validation."
    else:
        hint = "pass data that has items."
    return ValueError(
        f"the {title_of(name)} data, {describe(loader)}{f' ({given})' if given else ''}, has no batch: {hint}"
    )


def sizes_of(loader: Any) -> dict[str, Any]:
    """The sizes that determine a loader's number of batches, as far as it has them."""
    sizes = {}
    with suppress(AttributeError, TypeError):  # no data set, or one without a length
        sizes["len(dataset)"] = len(loader.dataset)
    return sizes | {
        name: getattr(loader, name)
        for name in ("n_items", "batch_size", "drop_last")
        if hasattr(loader, name)
    }


def n_left_over(loader: Any) -> int | None:
    """The number of items in a smaller last batch; None if there is no such batch or it is unknown."""
    if isinstance(loader, (list, tuple)) and loader:
        first = next(tensors_in(loader[-1]), None)
        return len(first) if first is not None and first.ndim and not first.is_nested else None
    sizes, n_items = sizes_of(loader), n_items_of(loader)
    if n_items is None or not sizes.get("batch_size") or sizes.get("drop_last"):
        return None
    return n_items % sizes["batch_size"] or None


def n_items_of(loader: Any) -> int | None:
    """The number of items of a pass, if it is known; a sampler may draw fewer or more than there are."""
    if isinstance(loader, DataLoader):
        return n_batches_of(loader.sampler)
    sizes = sizes_of(loader)
    return sizes.get("n_items", sizes.get("len(dataset)"))


def item_problems(learn: FullLearner) -> Iterator[Exception]:
    """Inputs, targets and predictions that disagree on the number of items.

    In many correct batches inputs and targets differ in length: nodes of some graphs, a bag of images, both
    halves of pairs. The predictions then have the length of the targets; or of the inputs, if these have
    several rows per item, such as two views of each image.
    """
    if learn.data.count_items is not None:
        return
    n_items, in_inputs = counts_of(learn.inputs, learn.targets)
    if in_inputs is None:
        yield from single_number_problems(learn, n_items)
        return
    in_preds = lengths_of(learn.preds)[0]
    are_views = bool(n_items) and in_inputs > n_items and in_inputs % n_items == 0 and in_inputs in in_preds
    if (n_items in in_preds or are_views) and not both_have_time_first(learn.inputs, learn.targets):
        return
    yield LearnerWarning(
        f"a batch has {in_inputs} items according to its inputs and {n_items} according to its targets "
        f"({describe(learn.batch)}); means and learn.n_samples use {n_items}. To confirm or change the "
        "number, pass Data(..., n_items=lambda batch: ...)."
    )


def single_number_problems(learn: FullLearner, n_items: int) -> Iterator[Exception]:
    """A target that is a single number, while the inputs have rows that the predictions do not have.

    The batch may be one item, such as a set of points. If the predictions have the rows too, the number
    belongs to all items, such as a temperature.
    """
    lengths = lengths_of(learn.preds)[0]
    is_number = isinstance(learn.targets, Tensor) and learn.targets.ndim == 0
    if is_number and n_items > 1 and lengths and all(length % n_items for length in lengths):
        yield LearnerWarning(
            f"the target of a batch is a single number ({describe(learn.batch)}), so means and "
            f"learn.n_samples use {n_items}, the length of its inputs. If a batch is one item, pass "
            "Data(..., n_items=lambda batch: 1); otherwise, confirm with n_items=lambda batch: len(batch[0])."
        )
