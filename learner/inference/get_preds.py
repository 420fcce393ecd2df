"""Compute the predictions for all batches of a loader."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from callbacks.history.paths import as_path
from learner.checks.data_checks import n_items_of
from learner.data.leaks import checked
from learner.data.tensors import describe
from learner.inference.gathering import Gathered, file_of, rows_of
from learner.inference.item_losses import ItemLosses
from learner.inference.joining import JoinError
from learner.inference.kept_part import Keep, check_keep, name_of_a_part, part_of
from learner.inference.predictions import loader_or_valid, predicting
from learner.inference.tta import Changes, as_changes, averaged
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner

Returns = Literal["joined", "batches"]


@suggest_keywords
def get_preds(
    learn: FullLearner,
    loader: Any = None,
    *,
    keep: Keep = None,
    returns: Returns = "joined",
    with_inputs: bool = False,
    with_loss: bool = False,
    tta: Any = None,
    to: str | os.PathLike[str] | None = None,
) -> tuple[Any, ...]:
    """Compute predictions for a loader and return them with the targets, on the CPU.

    The predictions of all batches are joined, and so are the targets: tensors along the dimension of the
    items, lists with one entry per item end to end, several outputs (tuples, mappings, data classes) part by
    part. Items of different shapes become a list with one entry per item. See the page "Predictions".

    Args:
        learn: the learner.
        loader: batches; by default the validation data.
        keep: the part of the model's output to keep: its name, such as `"logits"`, its index in a tuple,
            such as `0`, or a function of the output. The rest, such as a cache, is dropped after each batch.
        returns: `"joined"`, or `"batches"` for lists with one entry per batch.
        with_inputs: return the inputs too.
        with_loss: return the loss of each item too, shape (items,), from the loss function with
            `reduction="none"`, or else from each item alone.
        tta: test-time augmentation: a function that returns a changed version of the inputs, or a list of
            them. The result is the mean of the outputs for the inputs themselves and for each version. An
            entry may be a pair of functions; the second one undoes the change in the output.
        to: a file, such as `"preds.npy"`, to which the predictions are written batch by batch, so that only
            one batch at a time is in memory. Next to it, targets are in `preds.targets.npy`, inputs in
            `preds.inputs.npy` and losses in `preds.losses.npy`; if there are several outputs, each has a
            file, such as `preds.mean.npy`. Files get their names when they are complete. The function returns
            arrays that NumPy maps from the files.

    Returns:
        `(preds, targets)`, then the inputs and the losses, as far as they were asked for.

    Raises:
        ValueError: there is no batch, no part with that name, or an output cannot be joined or written; or
            single items have no loss.
        TypeError: an argument is of another type than described, or `tta` is to average whole numbers.
    """
    request = Request(keep, returns, with_inputs, with_loss, as_changes(tta) if tta is not None else (), to)
    request.check()
    loader = loader_or_valid(learn.data, loader)
    with predicting(learn, loader):
        learn.loop.begin_pass(learn, loader, training=False, span="predict")
        request.n_items = n_items_of(loader)
        return collect(learn, checked(iter(learn.data.batches(loader))), request)


@dataclass
class Request:
    """What `get_preds` is to return."""

    keep: Keep
    returns: Returns
    with_inputs: bool
    with_loss: bool
    changes: Changes
    to: str | os.PathLike[str] | None
    n_items: int | None = None  # in the loader, if it is known

    def check(self) -> None:
        """Check the arguments before the pass.

        Raises:
            TypeError, ValueError: one of them cannot be used.
        """
        check_keep(self.keep)
        if self.with_loss and self.changes and self.keep is not None:
            raise ValueError(
                "get_preds(with_loss=True, tta=..., keep=...): the loss needs the mean of the whole output. "
                "Leave keep out, or call get_preds once for the losses."
            )
        if self.to is not None:
            self.to = as_path("get_preds", "to", self.to, "the name of a file, such as 'preds.npy'")
            self._check_file(self.to)

    def _check_file(self, path: Path) -> None:
        if self.returns == "batches":
            raise ValueError("get_preds(to=..., returns='batches'): a file has joined rows; leave one out.")
        if path.suffix != ".npy":
            raise ValueError(f"get_preds(to={str(path)!r}): pass a name that ends in .npy.")
        if path.is_dir():
            raise IsADirectoryError(f"get_preds(to={str(path)!r}): this is a folder; pass a file in it.")

    def place_of(self, name: str) -> Path | None:
        """The file for the predictions, targets, inputs or losses."""
        if self.to is None:
            return None
        return Path(self.to) if name == "preds" else file_of(Path(self.to), name)


def collect(learn: FullLearner, batches: Iterable[Any], request: Request) -> tuple[Any, ...]:
    """Run the model on each batch and gather what was requested.

    Raises:
        ValueError: there is no batch, or something cannot be joined; the message says what to do.
    """
    gathered: dict[str, Gathered] = {}
    losses = ItemLosses(learn) if request.with_loss else None
    try:
        for learn.batch_idx, learn.batch in enumerate(batches):
            parts = parts_of_batch(learn, request, losses)
            n_items = learn.n_items
            for name, part in parts.items():
                if name not in gathered:
                    gathered[name] = begin(learn, name, part, request)
                gathered[name].add(part, n_items)
            # free the output now, so the next one gets its memory, which is in the cache
            parts = part = learn.batch = learn.inputs = learn.targets = learn.preds = None
        if not gathered:
            raise ValueError("the loader has no batches, so there are no predictions.")
        return tuple([each.result() for each in gathered.values()])
    except JoinError as error:
        raise refused(error, learn, request) from error
    finally:
        for each in gathered.values():
            each.discard()


def parts_of_batch(learn: FullLearner, request: Request, losses: ItemLosses | None) -> dict[str, Any]:
    """Run the model on the batch; return what is gathered of it, by name."""
    if request.changes:
        preds = learn.preds = averaged(learn, request.changes, partial(part_of, keep=request.keep))
    else:
        learn.loop.run_model(learn)
        preds = part_of(learn.preds, request.keep)
    found = {"preds": preds, "targets": learn.targets}
    if request.with_inputs:
        is_single = type(learn.inputs) is tuple and len(learn.inputs) == 1
        found["inputs"] = learn.inputs[0] if is_single else learn.inputs
    if losses is not None:
        found["losses"] = losses.of(learn)
    return found


def begin(learn: FullLearner, name: str, part: Any, request: Request) -> Gathered:
    """A place for the parts of all batches; targets that are not rows of numbers stay in memory."""
    path = request.place_of(name)
    if path is not None and not rows_of(part, learn.n_items):
        if name != "targets":
            raise JoinError(
                f"{name} of the first batch, {describe(part)}, cannot be written as one row for each of its "
                f"{learn.n_items} items{rows_hint(part, learn.n_items) if name == 'preds' else ''}"
            )
        path = None
    joins = request.returns == "joined"
    return Gathered(name, learn.n_batches, request.n_items, path=path, joins=joins)


def rows_hint(part: Any, n_items: int) -> str:
    """How to give each item its rows, if a model has joined items and steps."""
    if not isinstance(part, Tensor) or not part.ndim or len(part) % n_items or len(part) <= n_items:
        return ""
    return f" (for rows item by item: keep=lambda output: output.unflatten(0, (-1, {len(part) // n_items})))"


def refused(error: JoinError, learn: FullLearner, request: Request) -> ValueError:
    """The error for outputs that cannot be joined or written, with what to do."""
    if request.to is not None:
        fix = "Leave out to= to keep the predictions in memory"
    else:
        fix = "To get a list with one entry per batch, call get_preds(returns='batches')"
    if str(error).startswith("preds"):
        part = name_of_a_part(part_of(learn.preds, request.keep))
        fix += f", or keep a part of the output, with get_preds(keep={part})"
    return ValueError(f"get_preds: {error}. {fix}.")
