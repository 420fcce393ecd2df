"""LeanStep has the bits of hand-written loops with ordinary steps, and falls back to them if necessary."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ground.lean_steps import N_BATCHES, N_EPOCHS, SETTINGS, assert_same, assert_same_fit, learner_of, net
from kernels import Kernels
from resumed import Crash
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam, lr_scheduler

from callbacks import (
    Callback,
    CancelBatch,
    Checkpoint,
    GradientAccumulation,
    GradientClip,
    LeanStep,
    MixedPrecision,
    ParamScheduler,
    TorchScheduler,
    ZeroGrad,
    on,
)
from callbacks.fast import lean_kernels as kernels
from callbacks.schedule.annealers import cos


def by_hand(make, model=None, n_epochs=N_EPOCHS):
    model = net() if model is None else model
    torch.manual_seed(1)
    optimizer = make(model.parameters())
    for inputs, targets in n_epochs * line_batches(N_BATCHES):
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("n_together", [kernels.N_TOGETHER, 5])
@pytest.mark.parametrize("make", SETTINGS, ids=str)
def test_a_fit_ends_with_the_bits_of_a_loop_by_hand(make, n_together, monkeypatch):
    monkeypatch.setattr(kernels, "N_TOGETHER", n_together)
    learn = learner_of(optimizer=make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(N_EPOCHS)
    model, optimizer = by_hand(make)
    assert learn.callbacks[LeanStep].fallback is None
    assert_same(learn.model.state_dict(), model.state_dict())
    assert_same(learn.optimizer.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("make", [SETTINGS[0], SETTINGS[4], SETTINGS[9], SETTINGS[17]], ids=str)
def test_groups_dtypes_and_parameters_without_gradients_do_not_matter(make):
    def model():
        found = net().double()
        found[4].requires_grad_(False)
        found.unused = nn.Parameter(torch.ones(2))
        found.forward = lambda inputs: found[5](found[4](found[0](inputs.double()).tanh())).float()
        return found

    assert_same_fit(model=model, optimizer=partial(in_two_groups, make=make))


def in_two_groups(parameters, make):
    parameters = list(parameters)
    return make([{"params": parameters[:3], "lr": 0.02}, {"params": parameters[3:]}])


@pytest.mark.parametrize("make", [SETTINGS[4], SETTINGS[16]], ids=str)
def test_with_schedules_clipping_accumulation_and_half_precision_it_is_the_ordinary_fit(make):
    assert_same_fit(lambda: ParamScheduler({"lr": cos(0.1, 0.0)}), optimizer=make)
    assert_same_fit(
        lambda: TorchScheduler(partial(lr_scheduler.ExponentialLR, gamma=0.5), every="1 step"), optimizer=make
    )
    assert_same_fit(lambda: GradientClip(0.1), lambda: GradientAccumulation(3), optimizer=make)
    assert_same_fit(lambda: MixedPrecision("bf16"), optimizer=make)
    assert_same_fit(lambda: MixedPrecision("fp16"), optimizer=make)


@pytest.mark.parametrize("step", [LeanStep, ZeroGrad])
def test_the_count_of_a_fused_optimizer_is_not_read(step):
    counted = Kernels()
    learn = learner_of(optimizer=partial(Adam, lr=0.01, fused=True), defaults=(step,))
    with counted:
        learn.fit(2)
    assert counted.n["_fused_adam_"] == learn.global_step
    assert counted.n["_local_scalar_dense"] == 0  # on a GPU the count is there, so a read would wait


def test_a_scheduler_of_torch_that_sees_the_first_step_does_not_warn():
    seen = []

    @on("after_step")
    def look(learn):
        seen.append(learn.optimizer.step._wrapped_by_lr_sched)

    scheduler = partial(TorchScheduler, partial(lr_scheduler.StepLR, step_size=1), every="1 step")
    assert_same_fit(scheduler, lambda: look, n_epochs=1)
    assert seen == 2 * N_BATCHES * [True]


@pytest.mark.parametrize("make", [SETTINGS[2], SETTINGS[9]], ids=str)
def test_groups_and_layers_that_come_in_mid_fit_are_stepped(make):
    class Unfreeze(Callback):
        def before_fit(self, learn):
            learn.model[0].requires_grad_(False)

        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.model[0].requires_grad_(True)  # has been in the optimizer all the time
            if learn.epoch == 2:
                learn.model[5].requires_grad_(True)
                learn.optimizer.add_param_group({"params": list(learn.model[5].parameters()), "lr": 0.3})

    def model():
        found = net()
        found[5].requires_grad_(False)
        return found

    before = net().state_dict()
    learn = assert_same_fit(Unfreeze, model=model, optimizer=make)
    assert not any(torch.equal(before[name], learn.model.state_dict()[name]) for name in ("0.bias", "5.bias"))


def test_a_cancelled_batch_leaves_no_gradients():
    class Skip(Callback):
        def after_backward(self, learn):
            if learn.batch_idx == 1:
                raise CancelBatch

    learn = assert_same_fit(Skip)
    assert all(each.grad is None for each in learn.model.parameters())


def test_another_optimizer_in_mid_fit_is_used():
    class Swap(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.optimizer = Adam(learn.model.parameters())

    learn = assert_same_fit(Swap)
    assert type(learn.optimizer) is Adam


@pytest.mark.parametrize("make", [SETTINGS[2], SETTINGS[12]], ids=str)
@pytest.mark.parametrize("steps", [(LeanStep, LeanStep), (LeanStep, ZeroGrad), (ZeroGrad, LeanStep)])
def test_an_interrupted_fit_resumes_with_it_or_without(tmp_path, make, steps):
    whole = learner_of(step=ZeroGrad, optimizer=make)
    whole.fit(N_EPOCHS)
    checkpoint = partial(Checkpoint, tmp_path, "1 step")
    with pytest.raises(ZeroDivisionError):
        learner_of(checkpoint(), Crash(6), step=steps[0], optimizer=make).fit(N_EPOCHS)
    learn = learner_of(checkpoint(), step=steps[1], optimizer=make)
    learn.fit(N_EPOCHS, resume="auto", allow="callbacks")
    assert_same(learn.model.state_dict(), whole.model.state_dict())
    assert_same(learn.optimizer.state_dict(), whole.optimizer.state_dict())


@pytest.mark.parametrize("make", [SETTINGS[2], SETTINGS[9]], ids=str)
def test_a_restored_snapshot_continues_in_mid_fit(make):
    class Back(Callback):
        def after_batch(self, learn):
            if learn.global_step == 5:
                self.snapshot = learn.snapshot()
            if learn.global_step == 7 and learn.epoch == 1:
                learn.restore(self.snapshot)
                learn.epoch = 1

    assert_same_fit(Back, optimizer=make)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [SETTINGS[5], SETTINGS[9]], ids=str)
def test_weights_of_other_precision_are_stepped_with_the_same_bits(make, dtype):
    def model():
        found = nn.Linear(1, 1, dtype=dtype)
        nn.init.ones_(found.weight)
        nn.init.ones_(found.bias)
        return found

    def loss_func(preds, targets):
        return F.mse_loss(preds.float(), targets)

    @on("before_batch")
    def cast(learn):
        learn.inputs = (learn.inputs[0].to(dtype),)

    assert_same_fit(lambda: cast, model=model, loss_func=loss_func, optimizer=make)


def test_checks_and_the_search_for_a_rate_work_with_it(capsys):
    learn = learner_of()
    before = copy.deepcopy(learn.model.state_dict())
    learn.check()
    learn.lr_find(n_steps=10)
    assert_same(learn.model.state_dict(), before)
    learn.explain()
    assert "LeanStep" in capsys.readouterr().out


# The gradient of the loss


def test_a_loss_of_one_number_in_a_row_is_differentiated_as_usual():
    assert_same_fit(loss_func=lambda preds, targets: F.mse_loss(preds, targets)[None])


def test_a_loss_in_double_precision_is_differentiated_as_usual():
    assert_same_fit(loss_func=lambda preds, targets: F.mse_loss(preds.double(), targets.double()))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(2, requires_grad=True) * 2, "implicitly created only for scalar outputs"),
        (torch.ones(()), "does not require grad"),
        (torch.ones((), requires_grad=True) * 1j, "only for real scalar outputs"),
    ],
)
def test_a_loss_that_cannot_be_differentiated_is_the_ordinary_error(loss, message):
    callback, learn = LeanStep(), SimpleNamespace(loss_grad=loss)
    callback.before_fit(learn)
    with pytest.raises(RuntimeError, match=message):
        callback.backward(learn)


NO_COMPILER = """
import sys, torch
from callbacks import LeanStep
from learner import Learner
data, model = (torch.rand(8, 1), torch.rand(8, 1)), torch.nn.Linear(1, 1)
learn = Learner(model, data, torch.nn.functional.mse_loss, torch.optim.SGD, [LeanStep])
learn.optimizer.zero_grad()
for name in [each for each in sys.modules if each.startswith("torch._dynamo")]:
    del sys.modules[name]
learn.fit(1)
print([each for each in sys.modules if each.startswith("torch._dynamo")])
"""


def test_it_imports_no_compiler():
    done = subprocess.run([sys.executable, "-c", NO_COMPILER], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
