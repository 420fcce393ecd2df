"""Predictions: inputs as a batch, outputs on the CPU, a pass over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    """Measure on a loader, by default the validation data, without touching weights, clock or results.

    Returns:
        The numbers by name, as `{"valid_loss": 0.3, "valid_accuracy": 0.9}`.
    """
    loader = loader_or_valid(learn.data, loader)
    with optimizer_modes.in_eval_mode(learn), fits.aside(learn):
        learn.loop.validate(learn, loader)
        return dict(learn.results)


def predict(learn: FullLearner, inputs: Any) -> Any:
    """The model's output for a batch of inputs, in evaluation mode.

    Args:
        learn: the learner.
        inputs: a tensor or NumPy array of shape (items, ...), a tuple of such for a model of several
            inputs, or a mapping for one that takes keywords.

    Returns:
        What the model gives, on the CPU, without gradients.
    """
    with optimizer_modes.in_eval_mode(learn), fits.aside(learn), torch.no_grad(), snapshots.undrawn():
        learn.batch = as_batch(inputs, learn.data)
        learn.loop.run_model(learn)
        return to_cpu(learn.preds)


@suggest_keywords
def get_preds(
    learn: FullLearner, loader: Any = None, *, keep: Keep = None, returns: Returns = "joined"
) -> tuple[Any, Any]:
    """Predictions and targets over a loader, on the CPU, each joined over the batches.

    Tensors are joined along the dimension of the items, and lists with one entry per item end to end.
    Several outputs (tuples, mappings, data classes) are joined part by part. Items of several shapes
    become a list with one entry per item. The page "Predictions" says more.

    Args:
        learn: the learner.
        loader: batches; by default the validation data.
        keep: the name of the part of the model's output to keep, as `"logits"`, or a function of the
            output. The rest, as a cache, is dropped after each batch.
        returns: `"joined"`, or `"batches"` for a list with one entry per batch.

    Raises:
        ValueError: there is no batch, no part of that name, or an output cannot be joined.
    """
    check_request(keep, returns)
    loader = loader_or_valid(learn.data, loader)
    with optimizer_modes.in_eval_mode(learn), fits.aside(learn), torch.no_grad(), snapshots.undrawn(loader):
        learn.loop.begin_pass(learn, loader, training=False, span="predict")
        return collect(learn, checked(iter(learn.data.batches(loader))), keep, returns)


def loader_or_valid(data: Data, loader: Any) -> Any:
    """The loader given, or the validation data.

    Raises:
        TypeError: it gives no batches.
        ValueError: none was given and there is no validation data.
    """
    if loader is None and data.valid is None:
        raise ValueError(
            "there is no validation data: pass a loader, as in learn.validate(learn.data.train), or give "
            "Data a valid."
        )
    if loader is None:
        return data.valid
    check_batches("the loader", loader)
    return loader


def as_batch(inputs: Any, data: Data) -> InputsOnly:
    """Inputs as a batch without targets.

    Raises:
        TypeError, ValueError: neither tensors nor a mapping, or another number of them than the model takes.
    """
    if isinstance(inputs, Mapping):
        return InputsOnly({key: item for key, item in inputs.items() if key not in data.target_keys})
    if not (is_array(inputs) or isinstance(inputs, (tuple, list))):
        raise TypeError(
            f"predict was given {describe(inputs)}: pass a tensor of shape (items, ...), a tuple of such, or "
            "a mapping; over a loader it is learn.get_preds(loader)."
        )
    tensors, n_inputs = as_tensors(inputs)
    if n_inputs != data.n_inputs and data.custom_split is None:
        raise ValueError(
            f"predict was given {describe(inputs)}, so {n_inputs} inputs, but the model takes "
            f"{data.n_inputs} (Data(n_inputs={data.n_inputs})): leave targets out."
        )
    return InputsOnly(tensors)


def to_cpu(output: Any) -> Any:
    """Every tensor of an output on the CPU, without its graph."""
    return map_tensors(output, lambda leaf: (leaf.detach() if isinstance(leaf, Tensor) else leaf).to("cpu"))


def copied(output: Any) -> Any:
    """Every tensor and array of an output on the CPU as a copy, without its graph."""

    def copy_of(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf.to("cpu")

    return map_tensors(output, copy_of, lambda item: isinstance(item, np.ndarray) or is_leaf(item))


def collect(learn: FullLearner, batches: Iterable[Any], keep: Keep, returns: Returns) -> tuple[Any, Any]:
    """Run the model on each batch and join the outputs, and the targets."""
    preds, targets, sizes = [], [], []
    for learn.batch_idx, learn.batch in enumerate(batches):
        learn.loop.run_model(learn)
        # copies, as a model or a loader may write its next batch to the same memory
        preds.append(copied(kept(learn.preds, keep)))
        targets.append(copied(learn.targets))
        sizes.append(learn.n_items)
        if len(sizes) == 1 and returns == "joined":
            join_both(preds, targets, sizes)  # refuses what cannot be joined before the pass goes on
    if not sizes:
        raise ValueError("the loader gave no batch, so there are no predictions.")
    return (preds, targets) if returns == "batches" else join_both(preds, targets, sizes)


def join_both(preds: list[Any], targets: list[Any], sizes: list[int]) -> tuple[Any, Any]:
    """Predictions and targets, each joined over the batches.

    Raises:
        ValueError: one of them cannot be joined; the message says what to do.
    """
    try:
        return join(preds, sizes, "preds"), join(targets, sizes, "targets")
    except JoinError as error:
        cure = "To get a list with one entry per batch, call get_preds(returns='batches')"
        if str(error).startswith("preds"):
            cure += f", or keep a part of the output, with get_preds(keep={name_of_a_part(preds[0])})"
        raise ValueError(f"get_preds: {error}. {cure}.") from error


def name_of_a_part(output: Any) -> str:
    """The values that `keep` may have for this output."""
    if type(output) in (tuple, list):
        return "lambda output: output[0]"
    names = [name for name, item in parts_of(output).items() if isinstance(item, Tensor)]
    meant = "logits" if "logits" in names else next(iter(names), None)
    return "lambda output: ..." if meant is None else repr(meant)


def parts_of(output: Any) -> dict[Any, Any]:
    """The parts of an output by name, if it has any."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return output._asdict()
    return dict(getattr(output, "__dict__", {})) if not isinstance(output, Tensor) else {}


def check_request(keep: Any, returns: Any) -> None:
    """Refuse what `get_preds` cannot do, before the pass."""
    if keep is not None and not isinstance(keep, str) and not callable(keep):
        raise TypeError(
            f"get_preds(keep={keep!r}): pass the name of a part of the output, as 'logits', or a function of "
            "the output, as lambda output: output[0]."
        )
    if returns not in ("joined", "batches"):
        raise ValueError(f"get_preds(returns={returns!r}): choose 'joined' or 'batches'.")


def kept(output: Any, keep: Keep) -> Any:
    """The part of an output that was requested.

    Raises:
        ValueError: it has no part of that name.
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
        + (f"It has: {names}." if names else "Pass a function of it, as keep=lambda output: output[0].")
    )
