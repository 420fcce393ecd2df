"""A loss that is a module belongs to the learner, like the model."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from upper.loss_modules import INPUTS, SGD, TARGETS, Crash, Running, Weighted, make, same, values

from callbacks import (
    Callback,
    Checkpoint,
    DevicePlacement,
    EarlyStopping,
    GradientClip,
    LeanStep,
    LearnerWarning,
    StopOnNaN,
    WholeStep,
)
from learner import Data, Learner
from learner.files import checkpoint_file


class Centres(nn.Module):
    """The distance to a centre, computed by a method other than `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.ones(1, 1))

    def distance(self, preds: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(preds - self.centre, targets)


LOSSES = {
    "a module": Weighted,
    "in a partial": lambda: partial(Weighted()),
    "a method of one": lambda: Centres().distance,
    "with buffers": Running,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_run_that_was_killed_ends_with_the_same_bits_of_the_loss(loss: Any, tmp_path: Path) -> None:
    whole = make(loss())
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(loss(), Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = make(loss(), Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    assert same(values(resumed), values(whole))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_sandbox_and_a_snapshot_restore_the_loss(loss: Any) -> None:
    learn = make(loss())
    learn.fit(1)
    before, snapshot = values(learn), learn.snapshot()
    with learn.sandbox():
        learn.fit(1)
        assert not same(values(learn), before)
    assert same(values(learn), before)
    learn.fit(1)
    learn.restore(snapshot)
    assert same(values(learn), before)


def by_hand(loss: nn.Module, n_epochs: int, max_norm: float | None = None) -> list[Tensor]:
    """The same training in a hand-written loop, on the batches of the learner."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    parameters = [*model.parameters(), *loss.parameters()]
    optimizer = SGD(parameters)
    for _ in range(n_epochs):
        for inputs, targets in zip(INPUTS.split(8), TARGETS.split(8), strict=True):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
    return [*model.state_dict().values(), *loss.state_dict().values()]


def in_order() -> Data:
    return Data(list(zip(INPUTS.split(8), TARGETS.split(8), strict=True)))


@pytest.mark.parametrize("fast", [(), (LeanStep,), (partial(WholeStep, backend="eager"),)])
def test_an_optimizer_that_a_factory_makes_trains_the_loss_and_reports_it(fast: Any, capsys: Any) -> None:
    learn = make(Weighted, *(each() for each in fast))
    learn.data = in_order()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # WholeStep warns that it falls back
        learn.fit(1)
        learn.fit(1)
    assert same(values(learn), by_hand(Weighted(), 2))
    assert capsys.readouterr().out.count("the loss Weighted is trained with the model: loss_func.s") == 1


def test_a_loss_that_changes_its_buffers_trains_in_a_program_with_the_same_numbers() -> None:
    def build(*callbacks: Any) -> Learner:
        learn = make(Running, *callbacks)
        learn.loss_func.drop.p = 0.0
        return learn

    learn, twin = build(WholeStep(backend="eager")), build()
    learn.fit(1)
    twin.fit(1)
    assert same(values(learn), values(twin))


def test_the_gradients_of_the_loss_are_clipped_with_those_of_the_model() -> None:
    learn = make(Weighted, GradientClip(0.1))
    learn.data = in_order()
    learn.fit(2)
    assert same(values(learn), by_hand(Weighted(), 2, max_norm=0.1))


def test_a_ready_optimizer_without_the_parameters_of_the_loss_is_reported() -> None:
    learn = make(Weighted)
    learn.optimizer = SGD(learn.model.parameters())
    with pytest.warns(LearnerWarning, match=r"2 of 3 trainable tensors .* loss_func\.s"):
        learn.fit(1)


def test_a_loss_that_comes_between_epochs_and_is_not_trained_is_reported() -> None:
    class Swap(Callback):
        def after_epoch(self, learn: Any) -> None:
            learn.loss_func = Weighted()

    with pytest.warns(LearnerWarning, match=r"loss_func\.s were added or replaced"):
        make(F.mse_loss, Swap()).fit(2)


def test_a_loss_that_is_part_of_the_model_is_trained_and_saved_once(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.loss = nn.Linear(3, 1), Weighted()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs)

    model = Both()
    learn = Learner(model, Data.from_tensors(INPUTS, TARGETS, 8, seed=0), model.loss, SGD)
    assert len(learn.optimizer.param_groups[0]["params"]) == 3
    contents = torch.load(learn.save(tmp_path / "file.pt"), weights_only=True)
    assert contents["loss_func"] is None
    assert "loss.s" in contents["model"]


def test_a_loss_that_holds_the_model_adds_only_its_own_tensors(tmp_path: Path) -> None:
    class Penalized(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.weight = model, nn.Parameter(torch.zeros(()))

        def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
            return F.mse_loss(preds, targets) + self.weight * self.model.weight.square().sum()  # type: ignore

    model = nn.Linear(3, 1)
    learn = Learner(model, Data.from_tensors(INPUTS, TARGETS, 8, seed=0), Penalized(model), SGD)
    learn.fit(1)
    contents = torch.load(learn.save(tmp_path / "file.pt"), weights_only=True)
    assert list(contents["loss_func"]["tensors"]) == ["weight"]
    assert len(learn.optimizer.param_groups[0]["params"]) == 3


def test_the_best_weights_are_restored_with_the_loss_of_that_epoch() -> None:
    seen: list[tuple[float, float]] = []

    class Look(Callback):
        def after_epoch(self, learn: Any) -> None:
            seen.append((learn.results["valid_loss"], learn.loss_func.s.item()))

    learn = make(Weighted, Look(), EarlyStopping(patience=2), optimizer=partial(torch.optim.SGD, lr=0.4))
    learn.data = Data.from_tensors(INPUTS, TARGETS, 8, valid=0.5, seed=0)
    learn.fit(6)
    assert seen.index(min(seen)) != len(seen) - 1
    assert learn.loss_func.s.item() == min(seen)[1]


def test_a_loss_is_in_evaluation_mode_in_validation_and_keeps_its_own_mode_in_training() -> None:
    modes: list[tuple[bool, bool, bool]] = []

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Dropout().eval()

        def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
            modes.append((preds.requires_grad, self.training, self.frozen.training))
            return F.mse_loss(preds, targets)

    learn = make(Features)
    learn.data = Data.from_tensors(INPUTS, TARGETS, 12, valid=0.5, seed=0)
    learn.fit(2)
    assert set(modes) == {(True, True, False), (False, False, False)}
    assert learn.loss_func.training
    assert not learn.loss_func.frozen.training


def test_a_skipped_bad_batch_does_not_change_the_buffers_of_the_loss() -> None:
    learn, twin = make(Running, StopOnNaN(skip=1)), make(Running)
    batches = list(in_order().train)
    bad = (batches[0][0], batches[0][1] * torch.nan)
    learn.data, twin.data = Data([*batches, bad, bad[:1] + batches[0][1:]]), Data([*batches, batches[0]])
    for each in (learn, twin):
        each.loss_func.drop.p = 0.0
    with pytest.warns(LearnerWarning, match="skipped"):
        learn.fit(1)
    twin.fit(1)
    assert torch.equal(learn.loss_func.mean, twin.loss_func.mean)


def test_the_loss_is_placed_with_the_model() -> None:
    learn = make(Weighted, DevicePlacement("meta"), defaults=())
    learn.loss_func.register_buffer("weights", torch.ones(2))
    learn.callbacks[DevicePlacement].before_fit(learn)
    assert {each.device.type for each in learn.loss_func.state_dict().values()} == {"meta"}


def test_a_snapshot_does_not_overwrite_the_class_weights_of_another_loss() -> None:
    torch.manual_seed(0)
    data = Data.from_tensors(INPUTS, torch.arange(24) % 2, 8, seed=0)
    learn = Learner(nn.Linear(3, 2), data, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), SGD)
    start = learn.snapshot()
    learn.loss_func = nn.CrossEntropyLoss(weight=torch.tensor([5.0, 1.0]))
    learn.restore(start)
    assert learn.loss_func.weight.tolist() == [5.0, 1.0]


def test_a_snapshot_of_another_loss_with_parameters_is_refused() -> None:
    learn = make(Weighted)
    start = learn.snapshot()
    learn.loss_func = Centres().distance
    with pytest.raises(ValueError, match=r"another loss: 2 tensors differ, as loss_func\.s"):
        learn.restore(start)


def test_a_file_from_before_losses_and_attributes_were_kept_still_resumes(tmp_path: Path) -> None:
    whole = make(nn.MSELoss)
    whole.fit(2)
    make(nn.MSELoss, Checkpoint(tmp_path)).fit(1)
    [path] = tmp_path.glob("*.pt")
    contents = torch.load(path, weights_only=True)
    for name in ("loss_func", "learner", "plain", "empty", "gradients_beside"):
        del contents[name]
    checkpoint_file.write(path, contents)
    resumed = make(nn.MSELoss, Checkpoint(tmp_path))
    resumed.fit(2, resume="must")
    assert same(values(resumed), values(whole))
