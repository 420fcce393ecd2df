"""What every callback must do. Introspection finds the callbacks, so none can be left out."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_callbacks import CALLBACKS, MAKERS, model_for
from tiny import line_batches
from torch.nn import functional as F

import callbacks
from callbacks import Callback, Callbacks, Metrics, Recorder, ZeroGrad, on
from learner import Data, Learner
from learner.engine.composition import DEFAULT_CALLBACKS


@pytest.fixture(params=sorted(CALLBACKS))
def make_callback(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Callback]:
    return lambda: MAKERS.get(request.param, lambda folder: CALLBACKS[request.param]())(tmp_path)


def learner_with(callback: Callback, **options) -> Any:
    torch.manual_seed(0)
    defaults = [each for each in (ZeroGrad, Metrics, Recorder) if not isinstance(callback, each)]
    model = options.pop("model", None) or model_for(callback)
    data = options.pop("data", None) or Data(line_batches(2), line_batches(1))
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Learner(model, data, F.mse_loss, optimizer, [callback], defaults=defaults, **options)


def test_every_default_is_public():
    assert {each.__name__ for each in DEFAULT_CALLBACKS} <= set(CALLBACKS)


def test_two_fits_in_a_row_train_both_times(make_callback):
    learn = learner_with(make_callback())
    learn.fit(2)
    learn.fit(2)
    assert learn.global_step == 8


def test_an_exception_in_the_middle_leaves_the_learner_unchanged(make_callback):
    @on("before_step")
    def fail(learn):
        if learn.global_step == 3:
            raise ZeroDivisionError

    learn = learner_with(make_callback())
    learn.fit(1)
    before = traces_of(learn)
    with pytest.raises(ZeroDivisionError):
        learn.fit(2, callbacks=[fail])
    assert traces_of(learn) == before
    learn.fit(1)


def traces_of(learn: Learner) -> dict[str, object]:
    """What a callback could have changed and not restored."""
    modules = list(learn.model.modules())
    return {
        "attributes": sorted(vars(learn)),
        "model": learn.model,
        "loss_func": learn.loss_func,
        "optimizer": learn.optimizer,
        "groups": [
            {k: v for k, v in group.items() if k != "params"} for group in learn.optimizer.param_groups
        ],
        "operations": {
            name: getattr(method, "__qualname__", method) for name, method in learn.loop.do.items()
        },
        "callbacks": [callback.name for callback in learn.callbacks],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in modules],
        "modes": [module.training for module in modules],
        "trainable": [parameter.requires_grad for parameter in learn.model.parameters()],
        "gradients": [parameter.grad for parameter in learn.model.parameters()],
        "grad mode": torch.is_grad_enabled(),
    }


def test_cleanup_is_idempotent_and_works_without_a_fit(make_callback):
    callback = make_callback()
    learn = learner_with(callback)
    callback.cleanup_fit(learn)
    learn.fit(1)
    callback.cleanup_fit(learn)
    callback.cleanup_fit(learn)


def test_validate_and_predict_work_without_a_fit(make_callback):
    learn = learner_with(make_callback())
    learn.validate()
    assert learn.predict(torch.rand(3, 1)).shape == (3, 1)


def test_the_declared_state_survives_a_snapshot(make_callback):
    learn = learner_with(make_callback())
    callback = next(each for each in learn.callbacks if type(each).__name__ in CALLBACKS)
    learn.fit(1)
    then, snapshot = copy.deepcopy(callback.state_dict()), learn.snapshot()
    learn.fit(2)
    learn.restore(snapshot)
    assert set(callback.state_dict()) <= set(callback.state)
    assert str(callback.state_dict()) == str(then)


def test_a_resumed_fit_ends_with_the_same_state(make_callback, tmp_path):
    def make(folder: str) -> Any:
        learn = learner_with(make_callback())
        if callbacks.Checkpoint not in learn.callbacks:
            learn.add_callbacks(callbacks.Checkpoint(tmp_path / folder, "1 step"))
        return learn

    whole = make("whole")
    whole.fit(3)
    for n_batches in (1, 5, 7):  # of 9; the fifth is the last one before a validation
        for written in ("run", "resumed"):  # `run` by Checkpoint itself
            shutil.rmtree(tmp_path / written, ignore_errors=True)
        (tmp_path / "log.csv").unlink(missing_ok=True)
        with pytest.raises(ZeroDivisionError):
            make("resumed").fit(3, callbacks=[Interrupt(n_batches)])
        learn = make("resumed")
        learn.fit(3, resume="auto")
        assert_same(learn, whole, f"interrupted after {n_batches} batches")
        if (tmp_path / "log.csv").is_file():
            lines = (tmp_path / "log.csv").read_text().splitlines()
            assert [line.partition(",")[0] for line in lines] == ["epoch", "0", "1", "2"], n_batches


class Interrupt(Callback):
    """Raise an error after a number of batches."""

    order = callbacks.Order.SAVE

    def __init__(self, n_batches: int):
        super().__init__()
        self.n_left = n_batches

    def after_batch(self, learn):
        self.n_left -= 1
        if self.n_left == 0:
            raise ZeroDivisionError


def assert_same(learn: Learner, whole: Learner, case: str) -> None:
    """The state of callbacks, the settings, the history and the weights are equal."""
    for one, other in zip(learn.callbacks, whole.callbacks, strict=True):
        assert str(one.state_dict()) == str(other.state_dict()), case
    assert traces_of(learn)["groups"] == traces_of(whole)["groups"], case
    assert learn.history["train_loss"] == whole.history["train_loss"], case
    assert list(learn.history.steps["train_loss"]) == list(whole.history.steps["train_loss"]), case
    assert torch.equal(learn.model.weight, whole.model.weight), case


def test_no_callback_keeps_the_learner(make_callback):
    """Reference counting alone frees the learner: nothing that it refers to refers back."""
    callback = make_callback()
    learn = learner_with(callback)
    learn.fit(1)
    learn.validate()
    gc.disable()
    try:
        freed = weakref.ref(learn)
        del learn
        assert freed() is None
    finally:
        gc.enable()


def test_every_callback_has_a_docstring(make_callback):
    docstring = type(make_callback()).__doc__
    assert docstring
    assert docstring.strip().splitlines()[0].endswith((".", ":"))


def test_every_callback_can_be_copied_and_shown(make_callback):
    callback = make_callback()
    assert repr(copy.deepcopy(callback)).startswith(type(callback).__name__)
    assert Callbacks([callback])
