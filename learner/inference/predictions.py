"""Measure and predict without training: on a loader, or on a batch of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from learner.data.data import Data
from learner.data.loaders import check_batches, check_pass_name
from learner.engine import fits
from learner.inference.given_inputs import as_inputs, noted
from learner.inference.one_item import to_cpu, without_batch
from learner.messages.keywords import suggest_keywords
from learner.state import optimizer_modes, snapshots
from learner.state.protocol import FullLearner


@suggest_keywords
def validate(
    learn: FullLearner, loader: Any = None, *, name: str = "valid", together: bool = False
) -> dict[str, Any]:
    """Measure the loss and the metrics on a loader, by default the validation data.

    The weights, the counters and `learn.results` do not change.

    Args:
        learn: the learner.
        loader: batches; by default the validation data, all of them if `Data(valid={...})` has several.
        name: the first word of the names of the results, such as `"test"` for `test_loss`. Without a loader,
            a name in `Data(valid={...})` selects that data, and `"test"` the data of `Data(test=...)`.
        together: in a fit in several processes, share the data with the others, as in the validation of an
            epoch; every process must then call this. Otherwise this process measures all of it.

    Returns:
        The numbers by name, such as `{"valid_loss": 0.3, "valid_accuracy": 0.9}`.

    Raises:
        TypeError, ValueError: there is no such data, or the name cannot be used.
    """
    check_pass_name(f"validate(name={name!r})", name)
    passes = {name: loader_or_valid(learn.data, named_data(learn.data, name) if loader is None else loader)}
    if loader is None and name == "valid":
        passes = learn.data.validations
    modes, kept = optimizer_modes.in_eval_mode(learn), learn.ranks.kept_batch()
    with modes, kept, fits.aside(learn, together=together):
        for each, batches in passes.items():
            learn.loop.validate(learn, batches, each)
        return dict(learn.results)


@suggest_keywords
def test(learn: FullLearner, loader: Any = None) -> dict[str, Any]:  # noqa: PT028 - pytest does not collect it
    """Measure the loss and the metrics on test data: `learn.validate(loader, name="test")`.

    Args:
        learn: the learner.
        loader: batches; by default those of `Data(test=...)`.

    Returns:
        The numbers by name, such as `{"test_loss": 0.3, "test_accuracy": 0.9}`.

    Raises:
        TypeError, ValueError: `loader` is not a loader; or none was passed, and `Data` has no test data.
    """
    loader = learn.data.test if loader is None else loader
    if loader is None:
        raise ValueError(
            "there is no test data: pass a loader, as in learn.test(loader), or Data(..., test=loader)."
        )
    return validate(learn, loader, name="test")


@suggest_keywords
def predict(learn: FullLearner, inputs: Any) -> Any:
    """Compute the model's output for a batch of inputs or for one item, in evaluation mode.

    One item has one dimension less than a training batch and fits its items; everything else is a batch. For
    a model that was trained on batches of shape (items, 4), an input of shape (4,) is one item. If there has
    been no training batch yet, one batch of the data is examined, if that leaves no trace.

    Args:
        learn: the learner.
        inputs: a tensor or NumPy array of shape (items, ...), or a list of numbers; a tuple of them for a
            model with several inputs, or a mapping for a model that takes keywords.

    Returns:
        The model's output, on the CPU, without gradients; for one item without the dimension of the items.

    Raises:
        TypeError: `inputs` are of another kind, such as a loader; `get_preds` takes loaders.
    """
    with predicting(learn):
        learn.batch, is_one = as_inputs(inputs, learn)
        with noted(learn.batch, learn):
            learn.loop.run_model(learn)
        return without_batch(learn.preds) if is_one else to_cpu(learn.preds)


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


def named_data(data: Data, name: str) -> Any:
    """The data of this name; None if there is none, and a single validation is to be called so.

    Raises:
        ValueError: there are several validations, and none of this name.
    """
    known = {**({} if data.test is None else {"test": data.test}), **data.validations}
    if data.more_valid and name not in known:
        raise ValueError(
            f"validate(name={name!r}): the data has {', '.join(map(repr, known))}. Pass one of these names, "
            f"or a loader, as in learn.validate(loader, name={name!r})."
        )
    return known.get(name)


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
