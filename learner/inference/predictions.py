"""Measure and predict without training: on a loader, or on a batch of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from callbacks.place.device import is_leaf, map_tensors
from learner.data.data import Data, InputsOnly
from learner.data.leaks import checked
from learner.data.loaders import check_batches
from learner.data.tensors import as_tensors, describe, is_array
from learner.engine import fits
from learner.inference.joining import JoinError, join
from learner.messages.keywords import suggest_keywords
from learner.state import optimizer_modes, snapshots
from learner.state.protocol import FullLearner

Keep = str | Callable[[Any], Any] | None
Returns = Literal["joined", "batches"]


@suggest_keywords
def validate(learn: FullLearner, loader: Any = None) -> dict[str, Any]:
    """Measure the loss and the metrics on a loader, by default the validation data.

    The weights, the clock and `learn.results` do not change.

    Returns:
        The numbers by name, such as `{"valid_loss": 0.3, "valid_accuracy": 0.9}`.
    """
    loader = loader_or_valid(learn.data, loader)
    with optimizer_modes.in_eval_mode(learn), fits.aside(learn):
        learn.loop.validate(learn, loader)
        return dict(learn.results)


def predict(learn: FullLearner, inputs: Any) -> Any:
    """Compute the model's output for a batch of inputs, in evaluation mode.

    Args:
        learn: the learner.
        inputs: a tensor or NumPy array of shape (items, ...), a tuple of them for a model with several
            inputs, or a mapping for a model that takes keywords.

    Returns:
        The model's output, on the CPU, without gradients.
    """
    with predicting(learn):
        learn.batch = as_batch(inputs, learn.data)
        learn.loop.run_model(learn)
        return to_cpu(learn.preds)


@suggest_keywords
def get_preds(
    learn: FullLearner, loader: Any = None, *, keep: Keep = None, returns: Returns = "joined"
) -> tuple[Any, Any]:
    """Compute predictions for a loader and return them with the targets, on the CPU.

    The predictions of all batches are joined, and so are the targets: tensors along the dimension of the
    items, lists with one entry per item end to end, several outputs (tuples, mappings, data classes) part by
    part. Items of different shapes become a list with one entry per item. See the page "Predictions".

    Args:
        learn: the learner.
        loader: batches; by default the validation data.
        keep: the name of the part of the model's output to keep, such as `"logits"`, or a function of the
            output. The rest, such as a cache, is dropped after each batch.
        returns: `"joined"`, or `"batches"` for lists with one entry per batch.

    Raises:
        ValueError: there is no batch, no part with that name, or an output cannot be joined.
    """
    check_request(keep, returns)
    loader = loader_or_valid(learn.data, loader)
    with predicting(learn, loader):
        learn.loop.begin_pass(learn, loader, training=False, span="predict")
        return collect(learn, checked(iter(learn.data.batches(loader))), keep, returns)


@contextmanager
def predicting(learn: FullLearner, loader: Any = None) -> Iterator[None]:
    """Run batches in evaluation mode, without gradients; then restore modes, loop state and random states."""
    with (
        optimizer_modes.in_eval_mode(learn),
        fits.aside(learn),
        torch.no_grad(),
        snapshots.keep_random_states(loader),
    ):
        yield


def loader_or_valid(data: Data, loader: Any) -> Any:
    """The loader that was passed, or the validation data.

    Raises:
        TypeError: it is not a loader.
        ValueError: no loader was passed, and there is no validation data.
    """
    if loader is None and data.valid is None:
        raise ValueError(
            "there is no validation data: pass a loader, as in learn.validate(learn.data.train), or pass "
            "validation data to Data(train, valid)."
        )
    if loader is None:
        return data.valid
    check_batches("the loader", loader)
    return loader


def as_batch(inputs: Any, data: Data) -> InputsOnly:
    """Inputs as a batch without targets.

    Raises:
        TypeError, ValueError: they are neither tensors nor a mapping, or not as many as the model takes.
    """
    if isinstance(inputs, Mapping):
        return InputsOnly({key: item for key, item in inputs.items() if key not in data.target_keys})
    if not (is_array(inputs) or isinstance(inputs, (tuple, list))):
        raise TypeError(
            f"predict got {describe(inputs)}: pass a tensor of shape (items, ...), a tuple of tensors, or a "
            "mapping. For the batches of a loader call learn.get_preds(loader)."
        )
    tensors, n_inputs = as_tensors(inputs)
    if n_inputs != data.n_inputs and data.custom_split is None:
        raise ValueError(
            f"predict got {describe(inputs)}, so {n_inputs} inputs, but the model takes {data.n_inputs} "
            f"(Data(n_inputs={data.n_inputs})): pass the inputs without targets."
        )
    return InputsOnly(tensors)


def to_cpu(output: Any) -> Any:
    """An output with all its tensors on the CPU, without their graphs."""
    return map_tensors(output, lambda leaf: (leaf.detach() if isinstance(leaf, Tensor) else leaf).to("cpu"))


def copied(output: Any) -> Any:
    """An output with copies of all its tensors and arrays on the CPU, without their graphs."""

    def copy_of(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf.to("cpu")

    return map_tensors(output, copy_of, lambda item: isinstance(item, np.ndarray) or is_leaf(item))


def collect(learn: FullLearner, batches: Iterable[Any], keep: Keep, returns: Returns) -> tuple[Any, Any]:
    """Run the model on each batch, and join the outputs and the targets."""
    preds, targets, sizes = [], [], []
    for learn.batch_idx, learn.batch in enumerate(batches):
        learn.loop.run_model(learn)
        # copies, because a model or a loader may write the next batch to the same memory
        preds.append(copied(part_of(learn.preds, keep)))
        targets.append(copied(learn.targets))
        sizes.append(learn.n_items)
        if len(sizes) == 1 and returns == "joined":
            join_both(preds, targets, sizes)  # raise an error now if the outputs cannot be joined
    if not sizes:
        raise ValueError("the loader has no batches, so there are no predictions.")
    return (preds, targets) if returns == "batches" else join_both(preds, targets, sizes)


def join_both(preds: list[Any], targets: list[Any], sizes: list[int]) -> tuple[Any, Any]:
    """Predictions and targets, each joined over the batches.

    Raises:
        ValueError: the predictions or the targets cannot be joined; the message says what to do.
    """
    try:
        return join(preds, sizes, "preds"), join(targets, sizes, "targets")
    except JoinError as error:
        fix = "To get a list with one entry per batch, call get_preds(returns='batches')"
        if str(error).startswith("preds"):
            fix += f", or keep a part of the output, with get_preds(keep={name_of_a_part(preds[0])})"
        raise ValueError(f"get_preds: {error}. {fix}.") from error


def name_of_a_part(output: Any) -> str:
    """A value of `keep` for this output, for a message."""
    if type(output) in (tuple, list):
        return "lambda output: output[0]"
    names = [name for name, item in parts_of(output).items() if isinstance(item, Tensor)]
    meant = "logits" if "logits" in names else next(iter(names), None)
    return "lambda output: ..." if meant is None else repr(meant)


def parts_of(output: Any) -> dict[Any, Any]:
    """The parts of an output by name; empty if they have no names."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return output._asdict()
    return dict(getattr(output, "__dict__", {})) if not isinstance(output, Tensor) else {}


def check_request(keep: Any, returns: Any) -> None:
    """Check the arguments of `get_preds` before the pass."""
    if keep is not None and not isinstance(keep, str) and not callable(keep):
        raise TypeError(
            f"get_preds(keep={keep!r}): pass the name of a part of the output, such as 'logits', or a "
            "function of the output, such as lambda output: output[0]."
        )
    if returns not in ("joined", "batches"):
        raise ValueError(f"get_preds(returns={returns!r}): choose 'joined' or 'batches'.")


def part_of(output: Any, keep: Keep) -> Any:
    """The part of an output that `keep` selects.

    Raises:
        ValueError: the output has no part with that name.
    """
    if keep is None:
        return output
    if callable(keep):
        return keep(output)
    if isinstance(output, Mapping) and keep in output:
        return output[keep]
    if not isinstance(output, (Tensor, Mapping)) and hasattr(output, keep):
        return getattr(output, keep)
    names = ", ".join(map(repr, parts_of(output)))
    raise ValueError(
        f"get_preds(keep={keep!r}): the model's output is {describe(output)}, which has no {keep!r}. "
        + (
            f"It has: {names}."
            if names
            else "Pass a function of the output, such as keep=lambda output: output[0]."
        )
    )
