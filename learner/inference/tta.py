"""Test-time augmentation: the mean of the predictions for several versions of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from callbacks.place.device import map_tensors, tensors_in
from learner.data.data import InputsOnly
from learner.data.tensors import describe
from learner.state.protocol import FullLearner

Change = Callable[[Any], Any]
Changes = Sequence[tuple[Change, Change | None]]


def as_changes(tta: Any) -> Changes:
    """The functions of `tta` as pairs: one that changes the inputs, and one for the output, or None."""
    given = [tta] if callable(tta) else tta
    hint = "pass a function of the inputs, such as lambda x: x.flip(-1), or a list of functions"
    if not isinstance(given, (list, tuple)) or not given:
        raise TypeError(f"get_preds(tta={tta!r}): {hint}.")
    pairs = [(each, None) if callable(each) else each for each in given]
    for pair in pairs:
        is_pair = isinstance(pair, tuple) and len(pair) == 2
        if not is_pair or not callable(pair[0]) or not (pair[1] is None or callable(pair[1])):
            raise TypeError(
                f"get_preds(tta=...) contains {describe(pair)}: {hint}. An entry may be a pair of functions, "
                "for the inputs and for the output, such as (flip, flip) for masks."
            )
    return pairs


def averaged(learn: FullLearner, changes: Changes, keep: Callable[[Any], Any]) -> Any:
    """Run the model on the batch and on its changed versions; returns the mean output."""
    learn.loop.run_model(learn)
    batch, given, output = learn.batch, (learn.inputs, learn.targets), keep(learn.preds)  # on the device
    totals: list[Tensor] = []
    add(totals, output)
    for change, undo in changes:
        learn.batch = changed(learn, batch, change)
        learn.loop.run_model(learn)
        version = keep(learn.preds)
        add(totals, version if undo is None else undo(version))
    learn.batch, (learn.inputs, learn.targets) = batch, given
    means = iter([total / (len(changes) + 1) for total in totals])
    return map_tensors(output, lambda _: next(means), lambda _: False)


def changed(learn: FullLearner, batch: Any, change: Change) -> InputsOnly:
    """The batch with changed inputs, before callbacks change them."""
    inputs, targets = learn.data.split(batch)
    is_single = type(inputs) is tuple and len(inputs) == 1
    found = change(inputs[0] if is_single else inputs)
    return InputsOnly((found,) if is_single else found, targets)


def add(totals: list[Tensor], output: Any) -> None:
    """Add the tensors of an output to those of the versions before."""
    found = list(tensors_in(output))
    if not found or not all(each.is_floating_point() or each.is_complex() for each in found):
        raise TypeError(
            f"get_preds(tta=...) averages the outputs, but the output is {describe(output)}: let the model "
            "return scores, or select them with keep=."
        )
    if totals and [each.shape for each in totals] != [each.shape for each in found]:
        raise ValueError(
            f"get_preds(tta=...): the output of a changed batch is {describe(output)}, and that of the "
            f"batch itself has the shapes {[tuple(each.shape) for each in totals]}. To undo a change in the "
            "output, pass a pair of functions: (for the inputs, for the output)."
        )
    if not totals:
        totals += [each.clone() for each in found]
        return
    for total, each in zip(totals, found, strict=True):
        total += each
