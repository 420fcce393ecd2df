"""`Distributed("fsdp")`: each process holds a part of every parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from ranks.sharded_models import learner_of, state_of, whole
from torch import Tensor, nn

from callbacks import Callback, CancelBatch, CancelStep
from callbacks.distributed.distributed import Distributed
from callbacks.guard.stopping import EarlyStopping
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.closures import ClosureStep
from callbacks.step.ema import EMA
from callbacks.step.gradient import GradientClip
from callbacks.step.precision import MixedPrecision
from callbacks.step.swa import SWA
from learner import Data, Learner


class Skip(Callback):
    """Updates the weights once for two batches."""

    def before_step(self, learn: Any) -> None:
        if not learn.batch_idx % 2:
            raise CancelStep


MORE = {
    "nothing": list,
    "clip": lambda: [GradientClip(0.1)],
    "accumulation": lambda: [GradientAccumulation(4)],
    "ema": lambda: [EMA(0.9)],
    "swa": lambda: [SWA(0.3)],
    "skipped": lambda: [Skip(), GradientClip(0.1)],
    "early": lambda: [EarlyStopping("valid_loss", patience=1)],
}


def trained(more: str, n_epochs: int = 3, **settings: Any) -> Any:
    """What a rank ends with, or one process."""
    first = [Distributed("fsdp", **settings)] if torch.distributed.is_initialized() else []
    learn = learner_of(*first, *MORE[more]())
    learn.fit(n_epochs)
    inputs = torch.ones(2, 5)
    return *state_of(learn), learn.predict(inputs)


def trained_with_each() -> dict[str, Any]:
    """What a rank ends with for each name in `MORE`, or the error."""
    found: dict[str, Any] = {}
    for more in MORE:
        # the outer layers have no unit of their own
        settings = {"layers": ["Block"]} if more == "skipped" else {}
        try:
            found[more] = trained(more, **settings)
        except Exception as error:  # noqa: BLE001 - shown by the test
            found[more] = f"{type(error).__name__}: {error}"
    return found


@pytest.fixture(scope="module")
def in_two() -> list[dict[str, Any]]:
    return in_ranks(2, trained_with_each)


@pytest.mark.parametrize("more", MORE)
def test_ranks_end_with_the_weights_and_results_of_one_process(more: str, in_two: Any) -> None:
    expected = trained(more)
    for found in (each[more] for each in in_two):
        assert not isinstance(found, str), found
        weights, losses, preds = found
        for name, each in expected[0].items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=2e-6)
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(preds, expected[2], rtol=0, atol=1e-5)


class Cancel(Callback):
    """Cancels a batch in the middle of the second window."""

    def before_batch(self, learn: Any) -> None:
        if learn.training and learn.batch_idx == 4:
            raise CancelBatch


def accumulated() -> Any:
    """The weights and the clock, without a cancel and with one."""
    first, found = [Distributed("fsdp")] if torch.distributed.is_initialized() else [], []
    for more in ([], [Cancel()]):
        learn = learner_of(*first, GradientAccumulation(3), *more, optimizer=torch.optim.SGD)
        learn.fit(1)
        found.append((whole(learn.model), (learn.n_samples, learn.global_step)))
    return found


def test_accumulated_gradients_count_all_items_and_are_dropped_with_their_window():
    expected = accumulated()
    for found in in_ranks(2, accumulated):
        for (weights, clock), (theirs, own) in zip(found, expected, strict=True):
            assert clock == own
            for name, each in theirs.items():
                torch.testing.assert_close(weights[name], each, rtol=0, atol=2e-6)


class Replace(Callback):
    """Replaces the last layer, or its parameters, in the second epoch."""

    def __init__(self, event: str, whole: bool) -> None:
        super().__init__()
        self.event, self.whole = event, whole

    def before_epoch(self, learn: Any) -> None:
        self.replace(learn, "before_epoch")

    def before_batch(self, learn: Any) -> None:
        self.replace(learn, "before_batch")

    def replace(self, learn: Any, event: str) -> None:
        if (event, learn.epoch, learn.batch_idx) != (self.event, 1, 0):
            return
        if self.whole:
            learn.model[3] = nn.Linear(17, 3)
        else:
            learn.model[3].weight, learn.model[3].bias = nn.Linear(17, 3).parameters()
        learn.optimizer.param_groups[0]["params"] = [*learn.model.parameters()]


def with_another_head(event: str, whole: bool) -> str:
    learn = learner_of(Distributed("fsdp"), Replace(event, whole))
    try:
        learn.fit(3)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("event", "whole"), [("before_epoch", True), ("before_epoch", False), ("before_batch", True)]
)
def test_a_layer_that_is_replaced_after_sharding_is_refused_by_name(event: str, whole: bool) -> None:
    assert all(
        "its trained 3.weight, 3.bias" in each for each in in_ranks(2, with_another_head, event, whole)
    )


def validated(n_valid: int) -> Any:
    """The results of validation data whose last batch has fewer items than there are ranks."""
    first = [Distributed("fsdp")] if torch.distributed.is_initialized() else []
    learn = learner_of(*first)
    inputs, targets = torch.ones(n_valid, 5), torch.zeros(n_valid, dtype=torch.long)
    batches = [(inputs[at : at + 3], targets[at : at + 3]) for at in range(0, n_valid, 3)]
    learn.data = Data(learn.data.train, batches)
    learn.fit(1)
    return learn.history[0]["valid_loss"]


def test_validation_data_that_cannot_be_shared_out_evenly_hangs_no_rank() -> None:
    assert in_ranks(3, validated, 7) == pytest.approx([validated(7)] * 3, rel=1e-5)


def refused(what: str) -> str:
    """The error of a fit that cannot be sharded."""
    optimizers = {"LBFGS": torch.optim.LBFGS, "Adafactor": torch.optim.Adafactor}
    callbacks = {"MixedPrecision": MixedPrecision("fp16"), "LBFGS": ClosureStep()}
    kept = [callbacks[what]] if what in callbacks else []
    learn = learner_of(Distributed("fsdp"), *kept, optimizer=optimizers.get(what, torch.optim.SGD))
    try:
        learn.fit(1)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("what", ["LBFGS", "Adafactor", "MixedPrecision"])
def test_what_cannot_be_sharded_is_refused_by_name(what: str) -> None:
    for message in in_ranks(2, refused, what):
        assert "Distributed('fsdp')" in message
        assert what in message


class Tied(nn.Module):
    """A model whose first and last layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)])
        self.blocks[2].weight = self.blocks[0].weight

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = torch.tanh(block(inputs))
        return inputs


def tied(**settings: Any) -> Any:
    first = [Distributed("fsdp", **settings)] if torch.distributed.is_initialized() else []
    torch.manual_seed(0)
    inputs = torch.randn(16, 5)
    data = Data.from_tensors(inputs, inputs, 4, valid=None, seed=0)
    learn = Learner(Tied(), data, nn.functional.mse_loss, torch.optim.SGD, first)
    learn.fit(1)
    return whole(learn.model), learn.model.blocks[2].weight is learn.model.blocks[0].weight


def test_tied_weights_stay_tied() -> None:
    (expected, _), found = tied(), in_ranks(2, tied)
    for weights, is_tied in found:
        assert is_tied
        for name, each in expected.items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=1e-6)


def with_precision() -> Any:
    """The types of parameters and outputs, and the last loss."""
    learn = learner_of(Distributed("fsdp", precision="bf16", layers="Block"))
    learn.fit(1)
    kinds = {str(each.dtype) for each in learn.model.parameters()}
    return kinds, learn.history[0]["train_loss"]


def test_layers_run_in_another_precision() -> None:
    kinds, loss = in_ranks(2, with_precision)[0]
    assert kinds == {"torch.float32"}
    assert loss == pytest.approx(trained("nothing", 1)[1][0][0], rel=0.02)
    assert loss != pytest.approx(trained("nothing", 1)[1][0][0], rel=1e-6)
