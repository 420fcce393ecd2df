"""A run that is interrupted and resumed has the results of an uninterrupted run, bit for bit."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from resumed import N_BATCHES, Accumulate, Crash, Noisy, differs, in_memory, make, outcome, shuffled
from torch.utils.data import DataLoader

from callbacks import Callback, Checkpoint, LearnerWarning, Order, on
from learner import Data

N_EPOCHS = 4


def run_interrupted(folder: Path, at: int | None, n_epochs: int = N_EPOCHS, **options):
    """Fit until an error, then resume with a new learner."""
    if at is not None:
        with pytest.raises(ZeroDivisionError):
            make(folder, **options).fit(n_epochs, callbacks=[Crash(at)])
    learn = make(folder, **options)
    learn.fit(n_epochs, resume="auto")
    return learn


def whole(n_epochs: int = N_EPOCHS, **options):
    learn = make(**options)
    learn.fit(n_epochs)
    return outcome(learn)


@pytest.mark.parametrize("at", [1, 5, 6, 7, 9, 14, 20, 27, 32])
def test_epoch_checkpoints_resume_with_the_same_bits(tmp_path, at):
    learn = run_interrupted(tmp_path / "run", at, every="1 epoch")
    assert differs(outcome(learn), whole()) == []


@pytest.mark.parametrize("data", [shuffled, in_memory, partial(shuffled, generator=torch.Generator())])
@pytest.mark.parametrize("at", [1, 3, 6, 7, 8, 16])
def test_step_checkpoints_in_mid_epoch_resume_with_the_same_bits(tmp_path, at, data):
    """With random augmentation; `seen` shows that no sample is repeated or missed."""
    if isinstance(data, partial):
        data.keywords["generator"].manual_seed(7)
    learn = run_interrupted(tmp_path / "run", at, data=data)
    if isinstance(data, partial):
        data.keywords["generator"].manual_seed(7)
    assert differs(outcome(learn), whole(data=data)) == []


def test_items_that_were_seen_are_not_fetched_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        make(tmp_path).fit(1, callbacks=[Crash(4)])
    learn = make(tmp_path)
    learn.fit(1, resume="must")
    assert len(learn.data.train.dataset.asked) == len(Noisy()) - 4 * 4


@pytest.mark.parametrize("at", [3, 10])
def test_augmentation_in_workers_resumes_with_the_same_bits(tmp_path, at):
    data = partial(shuffled, num_workers=2)
    learn = run_interrupted(tmp_path / "run", at, data=data, n_epochs=2)
    assert differs(outcome(learn), whole(n_epochs=2, data=data)) == []


def test_data_that_cannot_be_resumed_exactly_raises_one_warning_at_the_first_save(tmp_path):
    data = partial(shuffled, num_workers=1, persistent_workers=True)
    with pytest.warns(LearnerWarning, match="persistent_workers") as caught:
        make(tmp_path, data=data).fit(2)
    assert len([each for each in caught if "persistent" in str(each.message)]) == 1


@pytest.mark.parametrize("event", ["after_batch", "after_epoch", "after_fit", "cleanup_fit"])
def test_a_run_interrupted_at_its_end_resumes_what_is_left(tmp_path, event):
    @on(event, order=Order.SAVE)
    def crash(learn):
        if learn.epoch == 1 and learn.batch_idx == 0 and (not learn.training or event != "after_batch"):
            raise ZeroDivisionError

    data = Data.from_tensors(
        torch.rand(4, 3), torch.rand(4, 1), 4, valid=(torch.rand(4, 3), torch.rand(4, 1))
    )
    learn = make(tmp_path, data=lambda: data)
    with pytest.raises(ZeroDivisionError):
        learn.fit(2, callbacks=[crash])
    learn = make(tmp_path, data=lambda: data)
    learn.fit(2, resume="must")
    assert (len(learn.history), learn.global_step) == (2, 2)


def test_a_finished_run_is_not_trained_again_and_reports_that(tmp_path, capsys):
    learn = make(tmp_path, data=in_memory)
    learn.fit(2)
    then = outcome(learn)

    @on("before_epoch")
    def refuse(learn):
        raise AssertionError("trained again")

    again = make(tmp_path, data=in_memory)
    again.fit(2, resume="auto", callbacks=[refuse])
    assert "already finished (epoch 2 of 2)" in capsys.readouterr().out
    assert differs(outcome(again), then) == []


def test_a_run_that_stopped_early_is_finished_with_the_best_weights(tmp_path, capsys):
    learn = make(tmp_path)
    learn.fit(30)
    assert learn.stop_reason is not None
    then = outcome(learn)
    again = make(tmp_path)
    again.fit(30, resume="must")
    assert "already finished: stopped in epoch" in capsys.readouterr().out
    assert differs(outcome(again), then) == []


def test_without_a_checkpoint_a_run_starts_and_reports_that(tmp_path, capsys):
    make(tmp_path / "new").fit(1, resume="auto")
    assert f"no run to resume in {tmp_path / 'new'}: a new run starts" in capsys.readouterr().out


def test_must_refuses_to_start_without_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        make(tmp_path / "new").fit(1, resume="must")


def test_resume_needs_a_callback_that_saves(learn):
    with pytest.raises(ValueError, match=r"callbacks=\[Checkpoint\("):
        learn.fit(1, resume="auto")


def test_must_refuses_a_second_fit_when_the_first_has_ended(tmp_path):
    learn = make(tmp_path, data=in_memory)
    learn.fit(1)
    with pytest.raises(ValueError, match="this fit is new"):
        learn.fit(1, resume="must")


def test_of_two_callbacks_that_save_the_newest_file_is_used(tmp_path):
    def learner():
        often = Checkpoint(tmp_path / "often", "1 step", name="often")
        return make(tmp_path / "seldom", every="1 epoch", callbacks=(often,))

    with pytest.raises(ZeroDivisionError):
        learner().fit(N_EPOCHS, callbacks=[Crash(20)])
    learn = learner()
    learn.fit(N_EPOCHS, resume="must")
    found = outcome(learn)
    assert differs(found, whole()) == []


def test_a_misspelt_resume_is_refused(learn):
    with pytest.raises(ValueError, match="choose 'auto'"):
        learn.fit(1, resume="yes")


@pytest.mark.parametrize("every", ["1 step", "2 epochs", "0.001 seconds"])
def test_saving_does_not_change_the_run(tmp_path, every):
    learn = make(tmp_path, every=every)
    learn.fit(N_EPOCHS)
    assert differs(outcome(learn), whole()) == []


@pytest.mark.parametrize("every", ["1 step", "0.000001 seconds"])
@pytest.mark.parametrize("at", [1, 2, 5, 9, 18])
def test_accumulated_gradients_are_saved(tmp_path, at, every):
    learn = run_interrupted(tmp_path / "run", at, every=every, callbacks=(Accumulate(),))
    assert differs(outcome(learn), whole(callbacks=(Accumulate(),))) == []


def test_a_step_interval_saves_only_after_complete_updates(tmp_path):
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, callbacks=(Accumulate(),)).fit(1, callbacks=[Crash(3)])
    learn = make(tmp_path, callbacks=(Accumulate(),))
    learn.load(tmp_path / "step-000000001.pt")
    assert learn.global_step == 1
    assert all(each.grad is None for each in learn.model.parameters())


@pytest.mark.parametrize("at", [3, 11])
def test_history_and_rates_have_no_gap(tmp_path, at):
    learn = run_interrupted(tmp_path / "run", at)
    assert [row["epoch"] for row in learn.history] == list(range(len(learn.history)))
    assert len(learn.history.steps["lr"]) == learn.global_step == N_BATCHES * len(learn.history)
    assert list(learn.history.steps["lr"]) == whole()["steps"]["lr"]


def test_a_run_that_is_resumed_three_times_has_the_same_bits(tmp_path):
    for at in (4, 5, 1, 9):
        with pytest.raises(ZeroDivisionError):
            make(tmp_path).fit(N_EPOCHS, callbacks=[Crash(at)], resume="auto")
    learn = make(tmp_path)
    learn.fit(N_EPOCHS, resume="must")
    assert differs(outcome(learn), whole()) == []


def test_saving_by_time_is_exact(tmp_path):
    learn = run_interrupted(tmp_path / "run", 15, every="0.005 seconds")
    assert differs(outcome(learn), whole()) == []


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
    with pytest.warns(LearnerWarning, match="planned for 1 epochs and is now to have 3"):
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
