"""A custom optimizer that stores its state in eight bits works with everything."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import (
    Checkpoint,
    GradientAccumulation,
    LeanStep,
    LearnerWarning,
    Metrics,
    Recorder,
    ZeroGrad,
    on,
)
from learner import Data, Learner
from learner.tools.live_bytes import LiveBytes

BLOCK = 64
QUIET = (ZeroGrad, Metrics, Recorder)


class Momentum8bit(torch.optim.Optimizer):
    """SGD with momentum in eight-bit integers, in blocks of 64 with one scale per block.

    After Dettmers et al. 2022, arXiv:2110.02861, with even steps.
    """

    def __init__(self, params, lr=0.05, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for each in group["params"]:
                if each.grad is None:
                    continue
                state = self.state[each]
                momentum = each.grad.clone()
                if state:
                    momentum += group["momentum"] * dequantized(state["codes"], state["scales"], each)
                state["codes"], state["scales"] = quantized(momentum)
                each.sub_(dequantized(state["codes"], state["scales"], each), alpha=group["lr"])


def quantized(numbers: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(numbers.flatten(), (0, -numbers.numel() % BLOCK)).view(-1, BLOCK)
    scales = (padded.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    return (padded / scales).round().to(torch.int8), scales.squeeze(1)


def dequantized(codes: Tensor, scales: Tensor, like: Tensor) -> Tensor:
    return (codes * scales[:, None]).flatten()[: like.numel()].view_as(like)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


def batches() -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(1))
    return [(each, each.sum(1, keepdim=True)) for each in inputs]


def make(*callbacks, optimizer=Momentum8bit) -> Learner:
    return Learner(net(), Data(batches()), F.mse_loss, optimizer, callbacks, defaults=QUIET)


def plain_loop(n_epochs: int) -> nn.Module:
    model = net()
    optimizer = Momentum8bit(model.parameters())
    for _ in range(n_epochs):
        for inputs, targets in batches():
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_fit_equals_a_plain_loop():
    learn = make()
    learn.fit(3)
    assert_same(learn.model, plain_loop(3))
    kinds = {each.dtype for state in learn.optimizer.state.values() for each in state.values()}
    assert kinds == {torch.int8, torch.float32}


def fail_after(n_steps: int):
    @on("after_step")
    def fail(learn):
        if learn.global_step > n_steps:
            raise ZeroDivisionError

    return fail


@pytest.mark.parametrize("n_steps", [2, 4, 7])
def test_a_resumed_fit_has_the_same_bits(tmp_path, n_steps):
    """The state is read from the file in eight bits; torch itself would convert it to float32."""
    with pytest.raises(ZeroDivisionError):
        make(Checkpoint(tmp_path / "run", "1 step"), fail_after(n_steps)).fit(3)
    learn = make(Checkpoint(tmp_path / "run", "1 step"))
    learn.fit(3, resume="must")
    assert_same(learn.model, plain_loop(3))
    assert {state["codes"].dtype for state in learn.optimizer.state.values()} == {torch.int8}


def test_a_snapshot_and_a_sandbox_restore_it():
    learn = make()
    learn.fit(1)
    snapshot = learn.snapshot()
    learn.fit(1)
    learn.restore(snapshot)
    learn.lr_find(n_steps=10)
    learn.find_batch_size(n_steps=1)
    learn.fit(2)
    assert_same(learn.model, plain_loop(3))


def test_lean_step_takes_its_ordinary_step_and_reports_why():
    learn = make(LeanStep())
    with pytest.warns(LearnerWarning, match="Momentum8bit"):
        learn.fit(3)
    assert_same(learn.model, plain_loop(3))


def test_its_state_takes_little_memory():
    def held(optimizer) -> int:
        learn = make(optimizer=optimizer)
        with LiveBytes() as gauge:
            learn.fit(1)
            learn.batch = learn.inputs = learn.targets = learn.preds = None
            learn.loss_grad = None
            learn.loop.note_loss(learn)
            return gauge.now

    full = held(partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    assert held(Momentum8bit) < 0.3 * full


def test_gradients_accumulate_as_for_any_other_optimizer():
    learn = make(GradientAccumulation(2))
    learn.fit(2)
    assert learn.global_step == 4


def test_one_of_bitsandbytes_trains_and_resumes_with_the_same_bits(tmp_path):
    optimizers = pytest.importorskip("bitsandbytes.optim")
    adam = partial(optimizers.AdamW8bit, lr=1e-3, min_8bit_size=16)
    whole = make(optimizer=adam)
    whole.fit(3)
    assert {state["state1"].dtype for state in whole.optimizer.state.values()} >= {torch.uint8}
    with pytest.raises(ZeroDivisionError):
        make(Checkpoint(tmp_path / "run", "1 step"), fail_after(7), optimizer=adam).fit(3)
    resumed = make(Checkpoint(tmp_path / "run", "1 step"), optimizer=adam)
    resumed.fit(3, resume="must")
    assert_same(resumed.model, whole.model)
