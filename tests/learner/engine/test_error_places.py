"""The place of an error is state of the loop: the names of the user's functions change nothing."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny import line_batches, notes
from torch import nn

from callbacks import (
    Callback,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    Checkpoint,
    Order,
    When,
    on,
)
from learner import Data, Learner

# data whose draws cannot be tracked is saved with a warning
pytestmark = pytest.mark.filterwarnings("ignore:a run that")


def numbered(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


def failing_source(name: str, error: BaseException, at: int = 2):
    """A generator function whose helper, of a given name, fails at a batch."""
    body = f"""
def {name}(number):
    if number == at:
        raise error
    return batches[number]

def train():
    yield from ({name}(number) for number in range(len(batches)))
"""
    names = {"at": at, "error": error, "batches": line_batches(4)}
    exec(body, names)
    return names["train"]


@pytest.mark.parametrize("name", ["fetch", "_batch", "_run_model", "_fire", "_train", "after_batch"])
def test_the_name_of_a_data_function_changes_neither_the_note_nor_what_is_saved(make_learner, tmp_path, name):
    data = Data(failing_source(name, OSError("drive gone")))
    learn = make_learner(data=data, callbacks=[Checkpoint(tmp_path / "run")])
    with pytest.raises(OSError, match="drive gone") as caught:
        learn.fit(1)
    assert numbered(tmp_path / "run") == ["step-000000002.pt"]
    place = "at epoch 0/1, fetching batch 2/?, train, global step 2"
    assert notes(caught.value).endswith(place)
    resumed = make_learner(data=data, callbacks=[Checkpoint(tmp_path / "run")])
    with pytest.raises(OSError, match="drive gone") as caught:
        resumed.fit(1, resume="must")
    assert notes(caught.value).endswith(place)


def test_a_loader_that_cannot_start_fails_at_its_first_batch(make_learner):
    class Unreadable:
        def __iter__(self):
            raise OSError("no such drive")

    with pytest.raises(OSError, match="no such drive") as caught:
        make_learner(data=Data(Unreadable())).fit(1)
    assert notes(caught.value).endswith("at epoch 0/1, fetching batch 0/?, train, global step 0")


@pytest.mark.parametrize(
    ("kind", "name"), [(CancelTrain, "train"), (CancelValidate, "validate"), (CancelFit, None)]
)
def test_an_error_after_a_cancelled_pass_is_not_in_its_batch(make_learner, kind, name):
    @on("after_loss")
    def cancel(learn):
        if name != "validate" or not learn.training:
            raise kind

    @on(f"after_{name or 'fit'}")
    def fail(learn):
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late") as caught:
        make_learner(callbacks=[cancel, fail]).fit(1)
    done = 3 if name == "validate" else 0
    place = f"at epoch 0/1, {name}, global step {done}" if name else "at epoch 0/1, global step 0"
    assert notes(caught.value).endswith(place)


@pytest.mark.parametrize("hook", ["after_epoch", "after_fit"])
def test_an_error_after_the_last_pass_names_no_pass(make_learner, hook):
    @on(hook)
    def fail(learn):
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late") as caught:
        make_learner(callbacks=[fail]).fit(1)
    assert "valid" not in notes(caught.value)


@pytest.mark.parametrize("name", ["_batches", "compute_loss", "backward", "_validate"])
def test_the_name_of_a_function_of_the_model_changes_nothing(make_learner, name):
    class Model(nn.Linear):
        def forward(self, inputs):
            return getattr(self, name)(inputs)

    def fail(self, inputs):
        raise ValueError("in the model")

    setattr(Model, name, fail)
    with pytest.raises(ValueError, match="in the model") as caught:
        make_learner(model=Model(1, 1)).fit(1)
    assert "batch 0/3, train" in notes(caught.value)
    assert "in the loss" not in notes(caught.value)
    assert "fetching" not in notes(caught.value)


def test_an_error_raised_in_a_hook_and_again_while_fetching_has_the_last_place(make_learner, tmp_path):
    error = OSError("twice")

    class Careful(Callback):
        def after_batch(self, learn):
            with contextlib.suppress(OSError):
                learn.validate([None])

        def before_validate(self, learn):
            raise error

    data = Data(failing_source("fetch", error))
    learn = make_learner(data=data, callbacks=[Careful(), Checkpoint(tmp_path / "run")])
    with pytest.raises(OSError, match="twice") as caught:
        learn.fit(1)
    assert numbered(tmp_path / "run") == ["step-000000002.pt"]
    assert notes(caught.value).endswith("at epoch 0/1, fetching batch 2/?, train, global step 2")


def test_an_error_caught_by_a_hook_does_not_change_the_place_of_the_next_one(make_learner):
    class Careful(Callback):
        def after_batch(self, learn):
            if learn.training:
                with contextlib.suppress(ZeroDivisionError):
                    learn.update()

    @on("before_step")
    def divide(learn):
        if learn.stop_reason is None and learn.global_step % 2:
            raise ZeroDivisionError

    class Model(nn.Linear):
        def forward(self, inputs):
            if learn.batch_idx == 1:
                raise ValueError("of the model")
            return super().forward(inputs)

    learn = make_learner(model=Model(1, 1), callbacks=[Careful(), divide])
    with pytest.raises(ValueError, match="of the model") as caught:
        learn.fit(1)
    assert "in callback" not in notes(caught.value)


def test_a_cancel_that_was_caught_leaves_no_trace_in_a_later_error(make_learner):
    @on("before_step")
    def skip(learn):
        raise CancelStep if learn.batch_idx == 0 else CancelTrain

    @on("after_train")
    def fail(learn):
        raise ValueError("later")

    with pytest.raises(ValueError, match="later") as caught:
        make_learner(callbacks=[skip, fail]).fit(1)
    assert notes(caught.value).splitlines() == [
        "in callback fail.after_train",
        "at epoch 0/1, train, global step 0",
    ]


def test_an_error_in_a_validation_by_a_hook_names_both_places(make_learner):
    class Watch(Callback):
        def after_batch(self, learn):
            if learn.training:
                learn.validate([(torch.ones(2, 1), torch.ones(2, 1)), "nothing"])

    with pytest.raises(TypeError) as caught:
        make_learner(callbacks=[Watch()]).fit(1)
    text = notes(caught.value)
    assert "batch 1/2, validate" in text
    assert "in callback Watch.after_batch" in text
    assert "batch 0/3, train" in text


def test_an_error_of_a_wrapped_callback_names_the_wrapper(make_learner):
    class Broken(Callback):
        def after_loss(self, learn):
            raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        make_learner(callbacks=[When(Broken(), start="1 step")]).fit(1)
    assert ".after_loss" in notes(caught.value)
    assert "batch 1/3, train" in notes(caught.value)


@pytest.mark.parametrize("operation", ["forward", "compute_loss", "backward", "step"])
def test_an_error_in_an_operation_of_a_subclass_names_the_batch(make_learner, operation):
    def fail(self):
        raise ValueError("mine")

    kind = type("Mine", (Learner,), {operation: fail})
    learn = kind(nn.Linear(1, 1), Data(line_batches(2)), nn.functional.mse_loss, make_learner().optimizer)
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="mine") as caught:
        learn.fit(1)
    assert "at epoch 0/1, batch 0/2, train, global step 0" in notes(caught.value)


def test_an_error_while_validation_data_is_fetched_is_saved_and_resumed(make_learner, tmp_path):
    class Valid:
        fails = True

        def __len__(self):
            return 2

        def __iter__(self):
            first, second = line_batches(2)
            yield first
            if self.fails:
                raise OSError("drive gone")
            yield second

    def make():
        return make_learner(data=Data(line_batches(2), Valid()), callbacks=[Checkpoint(tmp_path / "run")])

    with pytest.raises(OSError, match="drive gone") as caught:
        make().fit(1)
    assert notes(caught.value).endswith("fetching batch 1/2, validate, global step 2")
    Valid.fails = False
    learn, whole = make(), make_learner(data=Data(line_batches(2), line_batches(2)))
    learn.fit(1, resume="must")
    whole.fit(1)
    assert learn.history["valid_loss"] == whole.history["valid_loss"]


def test_an_error_in_predict_names_predict(make_learner):
    with pytest.raises(RuntimeError) as caught:
        make_learner().predict(torch.ones(2, 7))
    assert ", predict, " in notes(caught.value)
    assert ", train, " not in notes(caught.value)


def test_a_callback_that_catches_and_raises_again_is_named(make_learner):
    class Again(Callback):
        order = Order.SAVE

        def after_batch(self, learn):
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as caught:
        make_learner(callbacks=[Again()]).fit(1)
    assert "in callback Again.after_batch" in notes(caught.value)
