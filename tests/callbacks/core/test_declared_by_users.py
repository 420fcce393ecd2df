"""A callback of a user's own that declares a capability is treated as one of ours that has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiled_steps import learner_of
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Callback,
    GradientAccumulation,
    LearnerWarning,
    Order,
    ScalarLogger,
    StopOnNaN,
    WholeStep,
)
from learner import Data, Learner
from learner.cli import main

# only_observes


class Watches(Callback):
    """Keeps the loss in a way that might also change it, and opens a context around the forward pass."""

    order = Order.TRANSFORM
    surrounds = ("forward",)

    def __init__(self):
        super().__init__()
        self.losses, self.n_batches = [], 0

    def before_batch(self, learn):
        self.n_batches += 1

    def after_loss(self, learn):
        self.losses.append(learn.loss.data)


class Observes(Watches):
    only_observes = True


def test_a_compiled_step_runs_beside_a_callback_that_only_observes():
    learn = learner_of(Observes())
    learn.fit(1)
    assert learn.callbacks[WholeStep].fallback is None
    assert learn.callbacks[Observes].losses


def test_a_compiled_step_refuses_a_callback_that_does_not_say_so():
    with pytest.raises(ValueError, match="Watches surrounds 'forward'"):
        learner_of(Watches()).fit(1)


def test_a_search_for_a_rate_leaves_out_a_callback_that_only_observes(make_learner):
    learn = make_learner(callbacks=[Watches(), Observes()])
    learn.lr_find(n_steps=20, stop_factor=None)
    assert learn.callbacks.watches.n_batches >= 20
    assert learn.callbacks.observes.n_batches == 0


class MoreThan(StopOnNaN):
    """A subclass that does more than stop."""

    def after_pred(self, learn):
        learn.preds = learn.preds * 2


def test_a_subclass_of_a_callback_that_only_observes_may_change_the_training():
    assert StopOnNaN.only_observes
    assert not MoreThan.only_observes
    with pytest.raises(ValueError, match="MoreThan has changed the predictions"):
        learner_of(MoreThan()).fit(1)


MODULE = """
import torch
from pathlib import Path
from torch import nn
from callbacks import Callback
from learner import Data

def data():
    inputs = torch.linspace(-1, 1, 24).reshape(12, 2)
    return Data.from_tensors(inputs, inputs.sum(1, keepdim=True), batch_size=3, valid=0.25, seed=0)

def Net():
    return nn.Linear(2, 1)

class Counts(Callback):
    only_observes = True
    writes_to = ("log",)

    def __init__(self):
        super().__init__()
        self.log, self.n = "counts.txt", 0

    def after_batch(self, learn):
        self.n += 1

    def after_fit(self, learn):
        Path(self.log).write_text(str(self.n))
"""

RECIPE = """
seed: 0
data: {use: "parts.py:data"}
model: {use: "parts.py:Net"}
loss: mse
optimizer: {use: SGD, lr: 0.1}
callbacks: {Progress: null, Counts: {use: "parts.py:Counts"}}
fit: {epochs: 1}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(MODULE, encoding="utf-8")
    Path("small.yaml").write_text(RECIPE, encoding="utf-8")
    return "small.yaml"


def test_a_script_leaves_out_a_callback_that_only_observes(recipe, capsys):
    assert main(["to-script", recipe]) == 0
    assert "left out, because it does not change the training: Counts" in capsys.readouterr().out


# writes_to


def test_a_run_keeps_the_files_of_a_callback_that_names_its_own_attribute(recipe, capsys):
    assert main(["run", recipe]) == 0
    assert not Path("counts.txt").exists()
    (file,) = Path("runs").rglob("counts.txt")
    assert file.read_text() == "4"  # batches of training and validation


class Notes(Callback):
    writes_to = ("notes",)

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def before_fit(self, learn):
        self.notes.write_text("started", encoding="utf-8")


def test_a_tracker_gets_the_file_of_a_callback_that_names_its_own_attribute(make_learner, tmp_path):
    files = []
    logger = ScalarLogger(lambda values, step: None, file=files.append)
    make_learner(callbacks=[Notes(tmp_path / "notes.txt"), logger]).fit(1)
    assert str(tmp_path / "notes.txt") in files


# saves_checkpoints


class Saves(Callback):
    """Saves after each epoch, under the names of `Checkpoint`."""

    order = Order.SAVE
    saves_checkpoints = True

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def after_epoch(self, learn):
        learn.save(self.folder / f"step-{learn.global_step:09}.pt", at="epoch")


class Crash(Callback):
    order = Order.SAVE

    def after_epoch(self, learn):
        if learn.epoch == 1:
            raise ZeroDivisionError


def test_a_run_resumes_from_the_files_of_a_users_own_callback(make_learner, tmp_path):
    whole = make_learner()
    whole.fit(3)
    with pytest.raises(ZeroDivisionError):
        make_learner(callbacks=[Saves(tmp_path), Crash()]).fit(3)
    learn = make_learner(callbacks=[Saves(tmp_path)])
    learn.fit(3, resume="must")
    assert learn.n_fits == 1
    assert all(map(torch.equal, learn.model.parameters(), whole.model.parameters()))


class Trains(Callback):
    """Holds an optimizer whose state is not saved."""

    def __init__(self, parameters):
        super().__init__()
        self.other = torch.optim.AdamW(parameters)


def test_an_optimizer_that_is_not_saved_is_reported_beside_a_users_own_saving_callback(tmp_path):
    model = nn.Linear(1, 1)
    data = Data.from_tensors(torch.rand(8, 1), torch.rand(8, 1), batch_size=4)
    callbacks = [Saves(tmp_path), Trains([model.bias])]
    learn = Learner(model, data, F.mse_loss, torch.optim.SGD([model.weight], lr=0.1), callbacks)
    with pytest.warns(LearnerWarning, match=r"Trains\.other is an optimizer whose state is not saved"):
        learn.fit(1)


# acts_outside


class Sends(Callback):
    """Sends numbers in the phase `DECIDE`."""

    order = Order.DECIDE
    acts_outside = True
    sent: list = []  # noqa: RUF012

    def after_batch(self, learn):
        self.sent.append(learn.loss_value)


def test_a_trial_leaves_out_a_callback_that_acts_outside(make_learner):
    learn = make_learner(callbacks=[Sends()])
    Sends.sent.clear()
    cost = learn.cost(n_steps=20)
    assert Sends.sent == []
    assert "sends, because it writes files or sends numbers" in str(cost).replace("\n", " ")


# computes_gradients, matches_loop


class StepsTwice(Callback):
    order = Order.GRADIENT
    computes_gradients = True

    def step(self, learn):
        learn.optimizer.step()
        learn.again()
        learn.optimizer.step()


def test_accumulated_gradients_are_refused_beside_a_step_that_computes_gradients_again(make_learner):
    learn = make_learner(callbacks=[StepsTwice(), GradientAccumulation(2)])
    with pytest.raises(ValueError, match="StepsTwice computes those of the last batch again"):
        learn.fit(1)


class Plain(Callback):
    matches_loop = True

    def step(self, learn):
        learn.optimizer.step()


def test_a_missing_closure_is_reported_with_the_callback_that_replaces_the_step(make_learner):
    learn = make_learner(callbacks=[Plain()], optimizer=torch.optim.LBFGS)
    with pytest.raises(TypeError, match=r"callbacks=\[ClosureStep\(\)\]\), instead of Plain"):
        learn.fit(1)


@pytest.mark.parametrize(
    ("attribute", "value", "form"),
    [
        ("direction", "down", "'min', 'max' or None"),
        ("writes_to", "path", "a tuple of attributes' names"),
        ("computes_gradients", 1, "True or False"),
        ("only_observes", "yes", "True or False"),
        ("acts_outside", None, "True or False"),
    ],
)
def test_a_capability_in_another_form_is_refused_when_the_class_is_defined(attribute, value, form):
    with pytest.raises(TypeError, match=rf"Mine\.{attribute} = .*: write it as {form}"):
        type("Mine", (Callback,), {attribute: value})
