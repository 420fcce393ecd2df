"""Runs that are resumed with a difference: more epochs, another folder, only the weights."""

from __future__ import annotations

import shutil

import pytest
import torch
from resumed import Accumulate, Crash, Noisy, differs, in_memory, make, outcome
from torch.utils.data import DataLoader
from upper.interrupted import N_EPOCHS, run_interrupted, whole

from callbacks import Callback, Checkpoint, LearnerWarning, Order, on
from learner import Data


def test_of_two_fits_of_a_script_the_interrupted_one_resumes(tmp_path, capsys):
    def script(folder, at=None):
        learn = make(folder, callbacks=())
        learn.fit(1, resume="auto" if folder else "never")
        learn.fit(2, resume="auto" if folder else "never", callbacks=[Crash(at)] if at else [])
        return learn

    expected = outcome(script(None))
    with pytest.raises(ZeroDivisionError):
        script(tmp_path, 10)
    learn = script(tmp_path)
    assert differs(outcome(learn), expected) == []
    assert "fit 0 of this run is done: " in capsys.readouterr().out


def test_more_epochs_continue_from_the_end(tmp_path):
    make(tmp_path, data=in_memory).fit(1)
    learn = make(tmp_path, data=in_memory)
    with pytest.warns(LearnerWarning, match="planned for 1 epochs and now has 3"):
        learn.fit(3, resume="auto")
    assert differs(outcome(learn), whole(3, data=in_memory)) == []


def test_a_fit_that_was_cancelled_is_finished(tmp_path, capsys):
    from callbacks import CancelFit

    @on("after_batch")
    def cancel(learn):
        if learn.global_step == 2:
            raise CancelFit

    make(tmp_path, data=in_memory).fit(3, callbacks=[cancel])
    learn = make(tmp_path, data=in_memory)
    learn.fit(3, resume="must")
    assert learn.global_step == 2
    assert "already finished" in capsys.readouterr().out


def test_a_fit_stopped_in_mid_epoch_and_then_interrupted_does_not_train_further(tmp_path):
    @on("after_batch", order=Order.DECIDE)
    def decide(learn):
        if learn.global_step == 3 and learn.training:
            learn.stop("enough")

    @on("after_train", order=Order.SAVE)
    def crash(learn):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(tmp_path, data=in_memory, callbacks=(decide,)).fit(2, callbacks=[crash])
    learn = make(tmp_path, data=in_memory)
    learn.fit(2, resume="must")
    assert (learn.global_step, learn.stop_reason, len(learn.history)) == (3, "enough", 1)


def test_an_interrupted_learner_resumes_in_the_same_process(tmp_path):
    learn = make(tmp_path)
    with pytest.raises(ZeroDivisionError):
        learn.fit(N_EPOCHS, callbacks=[Crash(9)])
    learn.fit(N_EPOCHS, resume="auto")
    assert differs(outcome(learn), whole()) == []


def test_validation_in_mid_epoch_does_not_change_the_training_pass(tmp_path):
    class Look(Callback):
        def after_batch(self, learn):
            if learn.training:
                learn.validate()

    learn = run_interrupted(tmp_path / "run", 9, callbacks=(Look(),))
    assert differs(outcome(learn), whole(callbacks=(Look(),))) == []


def test_a_file_saved_by_hand_restores_everything(tmp_path):
    learn = make(data=in_memory)
    learn.fit(2)
    path = learn.save(tmp_path / "mine.pt")
    then = outcome(learn)
    again = make(data=in_memory, seed=5)
    again.load(path)
    now = outcome(again)
    del then["clock"], now["clock"]
    del then["stopped"], now["stopped"]
    assert differs(now, then) == []


def test_only_the_weights_can_be_loaded_into_another_composition(tmp_path):
    learn = make(data=in_memory)
    learn.fit(1)
    path = learn.save(tmp_path / "mine.pt")
    again = make(data=in_memory, seed=5, callbacks=(Accumulate(),))
    again.load(path, only="model")
    assert differs(dict(again.model.state_dict()), dict(learn.model.state_dict())) == []
    assert again.global_step == 0
    weights = torch.load(path, weights_only=True)["model"]
    assert torch.equal(weights["0.weight"], learn.model[0].weight)


def test_a_generator_of_the_data_set_is_resumed(tmp_path):
    import numpy

    class Own(Noisy):
        def __init__(self):
            super().__init__()
            self.rng = numpy.random.default_rng(3)

        def __getitem__(self, index):
            inputs, targets = super().__getitem__(index)
            return inputs + float(self.rng.random()), targets

    def data():
        return Data(DataLoader(Own(), batch_size=4, shuffle=True))

    options = {"data": data}
    plain = make(None, **options)
    plain.remove_callbacks(plain.callbacks.early_stopping)

    def run(folder, **fit):
        learn = make(folder, **options)
        learn.remove_callbacks(learn.callbacks.early_stopping)
        learn.fit(2, **fit)
        return learn

    plain.fit(2)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, callbacks=[Crash(8)])
    learn = run(tmp_path, resume="must")
    assert differs(learn.callbacks.seen.seen, plain.callbacks.seen.seen) == []


def test_a_moved_run_resumes_in_its_new_folder(tmp_path):
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "here").fit(N_EPOCHS, callbacks=[Crash(9)])
    shutil.move(tmp_path / "here", tmp_path / "an other, überlong " / "there")
    learn = make(tmp_path / "an other, überlong " / "there")
    learn.fit(N_EPOCHS, resume="must")
    assert differs(outcome(learn), whole()) == []
    assert Checkpoint in learn.callbacks
