"""`replay` runs one step again with the same numbers and reports it layer by layer."""

from __future__ import annotations

import math

import pytest
import torch
from boxed import boxed
from torch import nn

from callbacks import Callback, CSVLogger, Order, StopOnNaN, StopOnNaNGradient, on
from callbacks.guard.blackbox import FILE
from learner.files.checkpoint_file import CheckpointError
from learner.recipes.recipe import load_recipe
from learner.recipes.recipe_errors import Mistake
from learner.runs.running import replay_run
from learner.tools.replay import replay


class Watch(Callback):
    """Keep the results of each batch, with its position."""

    order = Order.MEASURE

    def __init__(self):
        super().__init__()
        self.seen = []

    def after_loss(self, learn):
        self.seen.append((learn.batch_idx, learn.epoch, learn.global_step, learn.preds.detach().clone()))


class FailAt(Callback):
    order = Order.DECIDE

    def before_step(self, learn):
        if learn.global_step == 4:
            raise ZeroDivisionError("at step 4")


def failed(folder, callbacks=(), error=ZeroDivisionError, **options):
    """A learner whose fit has failed, and its file."""
    learn = boxed(folder, callbacks=callbacks, **options)
    with pytest.raises(error):
        learn.fit(3)
    return learn, folder / FILE


def test_the_step_is_run_again_with_the_same_weights_batch_and_dropout(tmp_path):
    watch = Watch()
    failed(tmp_path, [watch, FailAt()], dropout=True)
    other = Watch()
    torch.manual_seed(99)
    learn = boxed(tmp_path / "other", callbacks=[other, FailAt()], dropout=True)
    torch.manual_seed(99)
    with pytest.raises(ZeroDivisionError, match="at step 4"):
        replay(learn, tmp_path / FILE)
    assert len(other.seen) == 1
    assert other.seen[0][:3] == watch.seen[-1][:3] == (1, 1, 4)
    assert torch.equal(other.seen[0][3], watch.seen[-1][3])


def test_a_replay_leaves_no_trace_on_the_learner_and_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, path = failed(tmp_path / "box", [FailAt()], dropout=True)
    content = path.read_bytes()
    learn = boxed(tmp_path / "box", callbacks=[FailAt(), CSVLogger("log.csv")], dropout=True)
    callbacks, state = list(learn.callbacks), learn.snapshot()
    with pytest.raises(ZeroDivisionError):
        replay(learn, path)
    assert list(learn.callbacks) == callbacks
    assert learn.error is None
    assert learn.batch is None
    assert not learn.fitting
    assert str(learn.snapshot()) == str(state)
    assert not any(module._forward_hooks for module in learn.model.modules())
    assert path.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["box"]


def test_each_layer_is_reported_and_the_first_bad_one_is_marked(tmp_path, capsys):
    class Divide(nn.Module):
        def forward(self, inputs):
            return inputs / (inputs - inputs.max())

    def make(folder):
        learn = boxed(folder, callbacks=[StopOnNaN()])
        learn.model[1] = Divide()
        return learn

    with pytest.raises(FloatingPointError):
        make(tmp_path).fit(1)
    with pytest.raises(FloatingPointError, match=r"the layer '1' \(Divide\)"):
        replay(make(tmp_path / "other"), tmp_path / FILE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "batch 0 of epoch 0, global step 0, which ended in"
    assert lines[1].startswith("FloatingPointError: the loss is")
    named = [line.split()[0] for line in lines[3:]]
    assert named == ["what", "inputs", "targets", "0", "1", "2", "model", "loss"]
    marked = [line for line in lines if line.endswith("<- the first")]
    assert len(marked) == 1
    assert marked[0].startswith("1 (Divide)")
    assert "8.3%" in marked[0]


def test_bad_gradients_are_reported_from_the_last_layer(tmp_path, capsys):
    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs):
            return inputs.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    def spoilt(preds, targets):
        return (Spoil.apply(preds) - targets).square().mean()

    callbacks = lambda: [StopOnNaNGradient()]  # noqa: E731
    _, path = failed(tmp_path, callbacks(), FloatingPointError, loss_func=spoilt)
    with pytest.raises(FloatingPointError, match="gradients are NaN or infinite"):
        replay(boxed(tmp_path / "other", callbacks=callbacks(), loss_func=spoilt), path)
    assert "gradients not finite, the first ones in '2.bias', '2.weight', '0.bias'" in capsys.readouterr().out


def test_a_step_that_succeeds_on_replay_is_reported(tmp_path, capsys):
    _, path = failed(tmp_path, [FailAt()])
    replay(boxed(tmp_path / "other"), path)
    out = capsys.readouterr().out
    assert "all gradients are finite" in out
    assert "The step raised no error this time." in out


def test_an_error_after_the_update_is_reported_with_a_warning_about_the_weights(tmp_path, capsys):
    @on("after_step")
    def fail(learn):
        raise ZeroDivisionError

    _, path = failed(tmp_path, [fail])
    with pytest.raises(ZeroDivisionError):
        replay(boxed(tmp_path / "other", callbacks=[fail]), path)
    assert "the weights are not those of the step's start" in capsys.readouterr().out


def objects_as_batch(learn):
    """Replace the batches by objects and a function that splits them."""

    class Pair:
        def __init__(self, pair):
            self.pair = pair

    learn.data.train, learn.data.valid = [Pair(pair) for pair in learn.data.train], None
    learn.data.split = lambda batch: ((batch.pair[0],), batch.pair[1])
    return learn


def test_a_batch_that_cannot_be_saved_is_replayed_by_its_inputs_and_targets(tmp_path, capsys):
    watch, other = Watch(), Watch()
    learn = objects_as_batch(boxed(tmp_path, callbacks=[watch, FailAt()]))
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    learn = objects_as_batch(boxed(tmp_path / "other", callbacks=[other, FailAt()]))
    split = learn.data.split
    with pytest.raises(ZeroDivisionError):
        replay(learn, tmp_path / FILE)
    assert torch.equal(other.seen[0][3], watch.seen[-1][3])
    assert learn.data.split is split
    assert "not saved: batch is of type" in capsys.readouterr().out


def test_a_step_whose_inputs_are_lost_too_cannot_be_replayed(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, holder):
            return self.linear(holder.inputs)

    class Held:
        def __init__(self, inputs):
            self.inputs = inputs

    learn = boxed(tmp_path, callbacks=[FailAt()])
    learn.data.train, learn.data.valid = (
        [(Held(inputs), targets) for inputs, targets in learn.data.train],
        None,
    )
    learn.model = Holder()
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    with pytest.raises(ValueError, match="its batch could not be saved in the file: batch"):
        replay(learn, tmp_path / FILE)


def test_a_file_of_another_model_or_kind_is_refused(tmp_path):
    learn, path = failed(tmp_path, [FailAt()])
    other = boxed(tmp_path / "other", dropout=True)
    with pytest.raises(ValueError, match="the snapshot is from another model"):
        replay(other, path)
    with pytest.raises(CheckpointError, match="does not contain a step"):
        replay(learn, learn.save(tmp_path / "checkpoint.pt"))


def test_a_folder_without_a_step_or_a_recipe_is_refused(tmp_path):
    with pytest.raises(Mistake, match=r"contains no blackbox\.pt"):
        replay_run(tmp_path)
    failed(tmp_path / "below", [FailAt()])
    with pytest.raises(Mistake, match=r"contains no recipe\.yaml"):
        replay_run(tmp_path)


RECIPE = """\
recipe: a rate that is far too high
seed: 1
data: {use: diabetes}
model: {use: "models.py:Line"}
loss: mse
optimizer: {use: SGD, lr: 1e+30}
callbacks: {BlackBox: {folder: kept}, Progress: null}
fit: {epochs: 5}
"""
MODEL = """\
from torch import nn


class Line(nn.Linear):
    def __init__(self):
        super().__init__(10, 1)
"""


def test_the_step_of_a_recipe_is_replayed_from_its_folder_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "models.py").write_text(MODEL)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    learn = recipe.build()
    with pytest.raises(FloatingPointError) as first, recipe.importable():
        learn.fit(5)
    monkeypatch.chdir("/")
    with pytest.raises(FloatingPointError) as again:
        replay_run(tmp_path)
    assert str(again.value).partition(" (lr")[0] == str(first.value).partition(" (lr")[0]
    assert "model (Line)" in capsys.readouterr().out
