"""Lazy modules, and buffers without a value, train, save, resume and are restored like others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed import Interrupt
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import EMA, Callback, Checkpoint, EarlyStopping
from learner import Data, Learner

ADAM = partial(torch.optim.Adam, lr=0.01)


def linear() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(4, 1))


def pictures() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.LazyConv2d(2, 2),
        nn.LazyInstanceNorm2d(affine=True),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


class Sum(nn.Module):
    """A model with a sum over all batches in a buffer, which is None before the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 1)
        self.register_buffer("sum", None)

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.layer(inputs)
        if self.training:
            self.sum = out.detach() + (0 if self.sum is None else self.sum.mean())
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {"linear": linear, "pictures": pictures, "a buffer": Sum}


class Crash(Callback):
    def after_step(self, learn: Any) -> None:
        if learn.global_step == 5:
            raise SystemExit


def make(model: Callable[[], nn.Module], *callbacks: Any, ready: bool = False) -> Learner:
    torch.manual_seed(0)
    made = model()
    inputs = torch.randn(22, 12, generator=torch.Generator().manual_seed(0))
    data = Data.from_tensors(
        inputs, inputs.sum(1, keepdim=True), 8, valid=(inputs[:4], inputs[:4, :1]), seed=0
    )
    return Learner(made, data, F.mse_loss, ADAM(made.parameters()) if ready else ADAM, callbacks)


def same(one: Learner, other: Learner) -> bool:
    states = [each.model.state_dict() for each in (one, other)]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_run_that_was_killed_ends_with_the_same_bits(model: Any, ready: bool, tmp_path: Path) -> None:
    whole = make(model, ready=ready)
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(model, Checkpoint(tmp_path, "2 steps"), Crash(), ready=ready).fit(3)
    resumed = make(model, Checkpoint(tmp_path, "2 steps"), ready=ready)
    resumed.fit(3, resume="must")
    assert same(resumed, whole)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_sandbox_before_the_first_batch_leaves_no_trace(model: Any) -> None:
    learn, twin = make(model), make(model)
    with learn.sandbox():
        learn.fit(1)
    for each in (learn, twin):
        torch.manual_seed(1)  # initializes the parameters at the first batch
        each.fit(2)
    assert same(learn, twin)


@pytest.mark.parametrize("look", [lambda learn: learn.lr_find(n_steps=10), lambda learn: learn.check()])
def test_inspecting_a_lazy_model_leaves_it_lazy(look: Any, capsys: Any) -> None:
    learn, twin = make(linear), make(linear)
    look(learn)
    assert type(learn.model[0]) is nn.LazyLinear
    for each in (learn, twin):
        torch.manual_seed(1)
        each.fit(1)
    assert same(learn, twin)
    assert type(learn.model[0]) is nn.Linear
    assert learn.model[0].in_features == 12


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_snapshot_from_before_the_first_batch_can_be_restored_more_than_once(model: Any) -> None:
    learn = make(model)
    start, twin = learn.snapshot(), make(model)
    twin.fit(2)
    for _ in range(2):
        learn.restore(start)
        learn.fit(2)
        assert same(learn, twin)


@pytest.mark.parametrize("only", [None, "model"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_file_sets_the_shapes_of_an_untrained_model(model: Any, only: Any, tmp_path: Path) -> None:
    learn = make(model)
    learn.fit(1)
    other = make(model)
    other.load(learn.save(tmp_path / "file.pt"), only=only)
    assert same(other, learn)
    inputs = torch.ones(2, 12)
    assert torch.equal(other.predict(inputs), learn.predict(inputs))


def test_a_file_from_before_the_first_batch_fits_a_lazy_model_but_not_a_trained_one(tmp_path: Path) -> None:
    learn = make(linear)
    path = learn.save(tmp_path / "file.pt")
    make(linear).load(path)
    learn.fit(1)
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet, \(4, 12\) float32"):
        learn.load(path)


def test_a_lazy_model_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    learn = make(linear)
    learn.fit(1)
    other = make(lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"3\.weight \(1, 4\) float32, \(2, 4\) float32"):
        other.load(learn.save(tmp_path / "file.pt"))
    assert type(other.model[0]) is nn.LazyLinear


def test_averages_and_best_weights_start_with_the_first_batch(tmp_path: Path) -> None:
    whole = make(linear, EMA(0.5), EarlyStopping(patience=9))
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(linear, EMA(0.5), EarlyStopping(patience=9), Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = make(linear, EMA(0.5), EarlyStopping(patience=9), Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    assert same(resumed, whole)


def test_a_lazy_loss_and_a_lazy_network_of_a_callback_resume(tmp_path: Path) -> None:
    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.LazyLinear(1)

        def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
            return F.mse_loss(self.scale(preds), targets)

    class Critic(Callback):
        state = ("critic",)

        def __init__(self) -> None:
            super().__init__()
            self.critic = nn.LazyLinear(1)

        def after_pred(self, learn: Any) -> None:
            learn.preds = learn.preds + self.critic(learn.inputs[0]).detach()

    def build(*callbacks: Any) -> Learner:
        learn = make(linear, Critic(), *callbacks)
        return Learner(learn.model, learn.data, Distance(), ADAM, [Critic(), *callbacks])

    def weights(learn: Learner) -> list[Tensor]:
        critic: Any = learn.callbacks.critic
        return [*learn.model.parameters(), *learn.loss_func.parameters(), critic.critic.weight]

    whole = build()
    whole.fit(3)
    with pytest.raises(SystemExit):
        build(Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = build(Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    assert all(map(torch.equal, weights(resumed), weights(whole)))


# Buffers that get their shape in the first batch


class Observer(nn.Linear):
    """Notes the largest input of each channel, as observers for quantization do, and loads its own state."""

    def __init__(self):
        super().__init__(3, 1)
        self.register_buffer("largest", torch.zeros(1))

    def forward(self, inputs):
        found = inputs.detach().abs().amax(0)
        found = torch.maximum(self.largest, found)  # one value, or as many as there are channels
        self.largest.resize_(found.shape).copy_(found)
        return super().forward(inputs) * self.largest.max()

    def _load_from_state_dict(self, state_dict, prefix, *others):
        self.largest.resize_(state_dict[f"{prefix}largest"].shape)
        super()._load_from_state_dict(state_dict, prefix, *others)


class Memory(nn.Linear):
    """Keeps what it has seen in a buffer that is empty at first."""

    def __init__(self):
        super().__init__(3, 1)
        self.register_buffer("seen", torch.empty(0, 3))

    def forward(self, inputs):
        if self.training:
            self.seen = torch.cat([self.seen, inputs.detach()])[-10:]
        return super().forward(inputs - self.seen.mean(0))


@pytest.mark.parametrize("kind", [Observer, Memory])
def test_a_run_resumes_whose_buffers_get_their_shape_in_the_first_batch(kind, tmp_path):
    def make(*callbacks):
        torch.manual_seed(0)
        inputs = torch.rand(16, 3)
        data = Data.from_tensors(inputs, inputs.sum(1, keepdim=True), 4, seed=0)
        return Learner(kind(), data, F.mse_loss, partial(torch.optim.SGD, lr=0.1), callbacks)

    whole = make()
    whole.fit(3)
    make(Checkpoint(tmp_path), Interrupt(6)).fit(3)
    resumed = make(Checkpoint(tmp_path))
    resumed.fit(3, resume="must")
    assert all(map(torch.equal, resumed.model.state_dict().values(), whole.model.state_dict().values()))


def test_statistics_of_another_number_of_channels_are_still_refused(tmp_path):
    def make(n_channels):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(n_channels, affine=False))
        return Learner(model, (torch.rand(4, 3), torch.rand(4, 3)), F.mse_loss, torch.optim.SGD)

    path = make(3).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"1\.running_mean \(3,\) float32, \(1,\)"):
        make(1).load(path)
