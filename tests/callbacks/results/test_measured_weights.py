"""The best weights are those with which the result was measured."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import (
    EMA,
    Callback,
    CancelStep,
    Checkpoint,
    EarlyStopping,
    GradientAccumulation,
    LeanStep,
    Metrics,
    Order,
    Progress,
    Recorder,
    WholeStep,
    ZeroGrad,
    on,
)
from learner import Data, Learner

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
RATE = 0.55  # with a momentum of 0.9 the loss goes up and down


def make(*callbacks, n_batches=1, model=None, valid=None, metrics=None, **settings):
    torch.manual_seed(0)
    batches = list(zip(X.chunk(n_batches), Y.chunk(n_batches), strict=True))
    sgd = partial(torch.optim.SGD, lr=RATE, momentum=0.9)
    defaults = (ZeroGrad, metrics or Metrics, Recorder)
    settings.setdefault("defaults", defaults)
    return Learner(model or nn.Linear(3, 1), Data(batches, valid), F.mse_loss, sgd, callbacks, **settings)


class Weights(Callback):
    """A callback that keeps the weights at the start and the end of each training pass."""

    order = Order.SAVE

    def __init__(self):
        super().__init__()
        self.before, self.after = [], []

    def before_train(self, learn):
        self.before.append(copy_of(learn.model))

    def after_train(self, learn):
        self.after.append(copy_of(learn.model))


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def are_equal(model, weights):
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def loss_of(model):
    return F.mse_loss(model(X), Y).item()


@pytest.mark.parametrize("n_epochs", [3, 30])
@pytest.mark.parametrize("step", [None, LeanStep, WholeStep])
def test_with_one_batch_per_epoch_the_restored_weights_have_the_best_loss(step, n_epochs):
    stop = EarlyStopping("train_loss", patience=4)
    learn = make(stop, *([step()] if step else []))
    learn.fit(n_epochs)
    assert loss_of(learn.model) == pytest.approx(stop.best, rel=1e-6)


@pytest.mark.parametrize("monitor", ["train_loss", "train_error", "grad_norm"])
def test_every_result_of_the_training_pass_is_of_the_weights_before_its_update(monitor):
    class Norm(Callback):
        measures = {"grad_norm": "min"}  # noqa: RUF012

        def after_backward(self, learn):
            self.norm = float(learn.model.weight.grad.norm())

        def after_train(self, learn):
            learn.results["grad_norm"] = self.norm

    def error(preds, targets):
        return (preds - targets).abs().mean()

    error.higher_is_better = False
    stop, weights = EarlyStopping(monitor, patience=30), Weights()
    learn = make(stop, weights, Norm(), metrics=Metrics(error, on="both"), valid=[(X, Y)])
    learn.fit(6)
    assert are_equal(learn.model, weights.before[stop.best_epoch])


def test_losses_of_accumulated_gradients_were_measured_before_the_update():
    stop, weights = EarlyStopping("train_loss", patience=30), Weights()
    learn = make(stop, weights, GradientAccumulation(3), n_batches=3)
    learn.fit(6)
    assert are_equal(learn.model, weights.before[stop.best_epoch])


def test_where_batches_follow_the_one_update_the_weights_at_the_end_are_restored():
    class FirstBatchOnly(Callback):
        order = Order.GRADIENT

        def before_step(self, learn):
            if learn.batch_idx:
                raise CancelStep

    weights = Weights()
    stopping = EarlyStopping("train_loss", patience=9)
    learn = make(FirstBatchOnly(), stopping, weights, n_batches=3)
    learn.fit(9)
    assert stopping.best_epoch < 8
    assert are_equal(learn.model, weights.after[stopping.best_epoch])
    assert stopping.best_moment == " at its end"


def test_with_several_updates_the_weights_at_the_end_of_the_best_epoch_are_restored():
    stop, weights = EarlyStopping("train_loss", patience=30), Weights()
    learn = make(stop, weights, n_batches=3)
    learn.fit(6)
    assert stop.best_epoch < 5
    assert are_equal(learn.model, weights.after[stop.best_epoch])


def test_a_result_of_validation_is_of_the_weights_at_the_end_of_its_epoch():
    stop, weights = EarlyStopping("valid_loss", patience=30), Weights()
    learn = make(stop, weights, valid=[(X, Y)])
    learn.fit(6)
    assert are_equal(learn.model, weights.after[stop.best_epoch])
    assert loss_of(learn.model) == pytest.approx(stop.best, rel=1e-6)


def test_buffers_come_with_the_weights_that_were_measured():
    stop, weights = EarlyStopping("train_loss", patience=30), Weights()
    learn = make(stop, weights, model=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    learn.fit(4)
    assert are_equal(learn.model, weights.before[stop.best_epoch])


def test_with_averages_the_measured_trained_weights_are_restored():
    stop, weights = EarlyStopping("train_loss", patience=30), Weights()
    learn = make(EMA(0.5), stop, weights)
    learn.fit(6)
    assert are_equal(learn.model, weights.before[stop.best_epoch])


def test_a_run_that_is_resumed_restores_the_same_weights(tmp_path):
    def run(folder, *callbacks, resume="never"):
        stop = EarlyStopping("train_loss", patience=30)
        learn = make(stop, Checkpoint(tmp_path / folder, "1 step"), *callbacks, n_batches=3)
        learn.add_callbacks(GradientAccumulation(3))
        learn.fit(4, resume=resume)
        return learn.model

    @on("after_batch", order=Order.PREPARE)
    def interrupt(learn):
        if (learn.epoch, learn.batch_idx) == (1, 1):
            learn.interrupted = "interrupted by a test"

    whole = run("whole")
    run("resumed", interrupt)
    assert are_equal(run("resumed", resume="must"), copy_of(whole))


@pytest.mark.parametrize("n_batches", [1, 3])
def test_the_file_of_the_best_epoch_has_the_weights_that_early_stopping_restores(tmp_path, n_batches):
    saving, stop = Checkpoint(tmp_path, best="train_loss", keep=1), EarlyStopping("train_loss", patience=30)
    weights = Weights()
    learn = make(saving, stop, weights, n_batches=n_batches)
    learn.fit(6)
    (path,) = tmp_path.glob("best-*.pt")
    step = stop.best_epoch * n_batches + (n_batches if n_batches > 1 else 0)
    assert path.name == f"best-{step:09}.pt"
    other = make(n_batches=n_batches)
    other.load(path, only="model")
    assert are_equal(other.model, copy_of(learn.model))


def test_a_run_is_not_resumed_from_weights_before_an_update(tmp_path):
    def run(n_epochs, resume="never"):
        learn = make(Checkpoint(tmp_path, best="train_loss", keep=2))
        learn.fit(n_epochs, resume=resume)
        return learn

    run(2)
    (best,) = tmp_path.glob("best-*.pt")
    for path in tmp_path.glob("step-*.pt"):
        path.unlink()
    with pytest.raises(ValueError, match="there is no checkpoint"):
        run(4, resume="must")
    assert best.exists()


# What is printed


def printed(capsys, *callbacks, n_epochs, **settings):
    make(*callbacks, defaults=(ZeroGrad, Metrics, Recorder, Progress), **settings).fit(n_epochs)
    return [line for line in capsys.readouterr().out.splitlines() if "restored" in line]


def test_a_fit_that_reaches_its_last_epoch_reports_that_the_best_weights_are_restored(capsys):
    stop = EarlyStopping("train_loss", patience=30)
    (line,) = printed(capsys, stop, n_epochs=4)
    assert line == (
        f"restored the weights of epoch {stop.best_epoch} before its update, the best by train_loss: "
        f"{stop.best:.6g}"
    )
    (line,) = printed(capsys, EarlyStopping("train_loss", patience=30), n_epochs=6, n_batches=3)
    assert "at its end, the best by" in line


def test_a_stop_is_printed_once(capsys):
    (line,) = printed(capsys, EarlyStopping("train_loss", patience=2), n_epochs=30)
    assert "stopped in epoch" in line
    assert "whose weights before its update are restored" in line


def test_nothing_is_printed_where_the_last_weights_are_the_best(capsys):
    stop = EarlyStopping("valid_loss", patience=30)
    assert not printed(capsys, stop, n_epochs=1, valid=[(X, Y)])
    make(EarlyStopping("train_loss", patience=30)).fit(4)  # without Progress
    assert capsys.readouterr().out == ""


def test_after_ctrl_c_the_model_keeps_the_last_weights():
    @on("after_step")
    def interrupt(learn):
        if learn.epoch == 3:
            learn.interrupted = "interrupted by a test"

    weights = Weights()
    learn = make(EarlyStopping("train_loss", patience=30), weights, interrupt)
    learn.fit(9)
    assert are_equal(learn.model, weights.after[-1])
