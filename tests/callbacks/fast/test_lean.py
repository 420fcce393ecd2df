"""LeanStep has the bits of hand-written loops with ordinary steps, and falls back to them where it must."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from kernels import Kernels
from resumed import Crash
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from callbacks import (
    Callback,
    CancelBatch,
    Checkpoint,
    ClosureStep,
    GradientAccumulation,
    GradientClip,
    LeanStep,
    LearnerWarning,
    Metrics,
    MixedPrecision,
    ParamScheduler,
    Recorder,
    TorchScheduler,
    ZeroGrad,
    on,
)
from callbacks.fast import lean_kernels as kernels
from callbacks.fast import lean_proof as proof
from callbacks.schedule.annealers import cos
from learner import Data, Learner

N_EPOCHS, N_BATCHES = 3, 4

SETTINGS = [
    partial(SGD, lr=0.1),
    partial(SGD, lr=0.1, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9),
    partial(SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.01, maximize=True),
    partial(SGD, lr=0.1, momentum=0.9, foreach=True),
    partial(SGD, lr=0.1, momentum=0.9, fused=True),
    *(
        partial(each, **options)
        for each in (Adam, AdamW)
        for options in (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.1},
            {"lr": 0.01, "betas": (0.5, 0.6), "eps": 0.1},
            {"lr": 0.01, "amsgrad": True},
            {"lr": 0.01, "maximize": True, "weight_decay": 0.1, "amsgrad": True},
            {"lr": 0.01, "foreach": True},
            {"lr": 0.01, "fused": True},
        )
    ),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 3), nn.Linear(3, 1)
    )


def learner_of(*callbacks, optimizer=SETTINGS[2], model=None, step=LeanStep, **options) -> Learner:
    options.setdefault("loss_func", F.mse_loss)
    options.setdefault("defaults", (step, Metrics, Recorder))
    model = net() if model is None else model
    torch.manual_seed(1)
    return Learner(model, Data(line_batches(N_BATCHES)), optimizer=optimizer, callbacks=callbacks, **options)


def by_hand(make, model=None, n_epochs=N_EPOCHS):
    model = net() if model is None else model
    torch.manual_seed(1)
    optimizer = make(model.parameters())
    for inputs, targets in n_epochs * line_batches(N_BATCHES):
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def assert_same(one, other) -> None:
    """Of nested states: the same keys, and the same bits."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_fit(*make_callbacks, n_epochs=N_EPOCHS, **options) -> Learner:
    """A fit with LeanStep, without a warning, against one with ZeroGrad and the ordinary step."""
    model = options.pop("model", net)
    ordinary = learner_of(*(make() for make in make_callbacks), step=ZeroGrad, model=model(), **options)
    ordinary.fit(n_epochs)
    learn = learner_of(*(make() for make in make_callbacks), model=model(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(n_epochs)
    assert learn.callbacks[LeanStep].fallback is None
    assert_same(learn.model.state_dict(), ordinary.model.state_dict())
    assert_same(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    assert_same(learn.history["train_loss"], ordinary.history["train_loss"])
    return learn


def assert_falls_back(reason: str, *callbacks, **options) -> Learner:
    """A fit that warns once with this reason, and ends as the ordinary one."""
    ordinary = learner_of(step=ZeroGrad, **copy.deepcopy(options))
    ordinary.fit(N_EPOCHS)
    learn = learner_of(*callbacks, **options)
    with pytest.warns(LearnerWarning, match=reason) as caught:
        learn.fit(N_EPOCHS)
    assert len([each for each in caught if "LeanStep" in str(each.message)]) == 1
    assert_same(learn.model.state_dict(), ordinary.model.state_dict())
    assert_same(learn.optimizer.state_dict(), ordinary.optimizer.state_dict())
    return learn


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


def test_a_hook_that_changes_the_gradient_of_the_loss_in_place_acts_once():
    def loss_func(preds, targets):
        loss = F.mse_loss(preds, targets)
        loss.register_hook(lambda grad: grad.mul_(0.5))
        return loss

    assert_same_fit(loss_func=loss_func)


# Ways back to the ordinary step


class MySGD(SGD):
    pass


def with_own_step(parameters):
    optimizer = SGD(parameters, lr=0.1)
    optimizer.step = partial(SGD.step, optimizer)
    return optimizer


def with_own_zero_grad(parameters):
    optimizer = SGD(parameters, lr=0.1)
    optimizer.zero_grad = partial(SGD.zero_grad, optimizer)
    return optimizer


def with_hook(register):
    def make(parameters):
        optimizer = SGD(parameters, lr=0.1)
        getattr(optimizer, register)(lambda optimizer, args, kwargs: None)
        return optimizer

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (torch.optim.RMSprop, "the optimizer is RMSprop, and LeanStep knows SGD, Adam and AdamW"),
        (MySGD, "the optimizer is MySGD"),
        (partial(SGD, lr=torch.tensor(0.1)), "its lr is a tensor"),
        (partial(Adam, betas=(torch.tensor(0.9), torch.tensor(0.99))), "its betas is a tensor"),
        (with_own_step, "its step was replaced"),
        (with_own_zero_grad, "its zero_grad was replaced"),
        (with_hook("register_step_pre_hook"), "hooks are registered on the step of SGD"),
        (with_hook("register_step_post_hook"), "hooks are registered on the step of SGD"),
    ],
)
def test_what_it_does_not_know_takes_the_ordinary_step(make, reason):
    learn = assert_falls_back(reason, optimizer=make)
    assert reason in learn.callbacks[LeanStep].fallback


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(Adam, capturable=True, foreach=False), "capturable"),
        (partial(SGD, differentiable=True), "leaf"),
    ],
)
def test_an_error_of_the_ordinary_step_is_the_same_one(make, reason):
    learn = learner_of(optimizer=make)
    with pytest.warns(LearnerWarning, match="it was made with"), pytest.raises(Exception, match=reason):
        learn.fit(1)  # on weights that are leaves, and on a CPU


def test_a_hook_that_all_optimizers_share_is_called():
    calls = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: calls.append(1))
    try:
        assert_falls_back("hooks are registered")
    finally:
        handle.remove()
    assert len(calls) == 2 * N_EPOCHS * N_BATCHES


def test_a_hook_that_comes_in_mid_fit_is_called_from_then_on():
    calls = []

    @on("before_step")
    def register(learn):
        if learn.global_step == 5:
            learn.optimizer.register_step_post_hook(lambda optimizer, args, kwargs: calls.append(1))

    assert_falls_back("hooks are registered", register)
    assert len(calls) == N_EPOCHS * N_BATCHES - 5


def test_a_rate_that_becomes_a_tensor_in_mid_fit_takes_the_ordinary_step():
    @on("before_step")
    def change(learn):
        learn.optimizer.param_groups[0]["lr"] = torch.tensor(0.1, dtype=torch.float64)

    learn = learner_of(change)
    with pytest.warns(LearnerWarning, match="its lr is a tensor"):
        learn.fit(1)


def test_sparse_gradients_take_the_ordinary_step():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(2, 1, sparse=True)

        def forward(self, inputs):
            return self.table((inputs[:, 0] > 0.5).long())

    ordinary = learner_of(step=ZeroGrad, model=Embedded(), optimizer=SETTINGS[0])
    ordinary.fit(2)
    learn = learner_of(model=Embedded(), optimizer=SETTINGS[0])
    with pytest.warns(LearnerWarning, match="a gradient is sparse"):
        learn.fit(2)
    assert_same(learn.model.state_dict(), ordinary.model.state_dict())


def test_complex_parameters_take_the_ordinary_step():
    model = net()
    model.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    assert_falls_back("a parameter is complex", model=model)


def test_a_kernel_that_is_missing_or_takes_other_arguments_is_reported_and_not_used(
    monkeypatch,
):
    monkeypatch.delattr(torch, "_foreach_mul_")
    assert_falls_back("take other arguments in torch .*_foreach_mul_")


@pytest.mark.parametrize("make", [SETTINGS[2], SETTINGS[9]], ids=str)
def test_a_kernel_that_gives_other_numbers_fails_the_proof_and_changes_nothing(make, monkeypatch):
    real = torch._foreach_mul_
    monkeypatch.setattr(torch, "_foreach_mul_", lambda tensors, value: real(tensors, value * 1.0001))
    assert_falls_back("differ from those of the ordinary step", optimizer=make)


def test_a_wrong_kernel_is_found_in_each_group_of_a_large_model_too(monkeypatch):
    monkeypatch.setattr(proof, "FEW", 1)
    test_a_kernel_that_gives_other_numbers_fails_the_proof_and_changes_nothing(SETTINGS[2], monkeypatch)


def test_a_missing_engine_is_reported_and_the_fit_is_the_ordinary_one(monkeypatch):
    monkeypatch.setattr(torch.autograd, "Variable", SimpleNamespace())
    assert_falls_back("ordinary loss.backward.*has no engine")


def test_an_engine_that_gives_other_gradients_is_not_taken(monkeypatch):
    def run_backward(losses, ones, *rest):
        (2 * losses[0]).backward()

    engine = SimpleNamespace(run_backward=run_backward)
    monkeypatch.setattr(torch.autograd, "Variable", SimpleNamespace(_execution_engine=engine))
    with pytest.raises(proof.Unfit, match=r"not \[8, 12\]"):
        proof.find_engine()


def test_each_fit_looks_again():
    learn = learner_of()
    handle = learn.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: None)
    with pytest.warns(LearnerWarning, match="hooks"):
        learn.fit(1)
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)
    assert learn.callbacks[LeanStep].fallback is None


def test_gradients_that_are_nan_are_equal_in_the_proof():
    learn = learner_of(loss_func=lambda preds, targets: F.mse_loss(preds, targets) * float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)
    assert learn.callbacks[LeanStep].fallback is None


@pytest.mark.parametrize("other", [ZeroGrad, ClosureStep])
def test_a_second_callback_that_overrides_step_is_refused(other):
    with pytest.raises(ValueError, match="two callbacks implement"):
        learner_of(LeanStep(), other())


def test_the_ordinary_step_is_not_called(monkeypatch):
    @on("before_train")
    def forbid(learn):
        monkeypatch.setattr(torch.autograd.profiler, "record_function", None)  # the wrappers begin with it

    learn = learner_of(forbid)
    learn.fit(1)
    assert learn.global_step == N_BATCHES


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
