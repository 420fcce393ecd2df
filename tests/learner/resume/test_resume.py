"""A run that is interrupted and resumed has the results of an uninterrupted run, bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from resumed import N_BATCHES, Accumulate, Crash, Noisy, differs, in_memory, make, outcome, shuffled
from torch.utils.data import DataLoader
from upper.interrupted import N_EPOCHS, run_interrupted, whole

from callbacks import Checkpoint, LearnerWarning, Order, on
from learner import Data


@pytest.mark.parametrize("at", [1, 5, 6, 7, 9, 14, 20, 27, 32])
def test_epoch_checkpoints_resume_with_the_same_bits(tmp_path, at):
    learn = run_interrupted(tmp_path / "run", at, every="1 epoch")
    assert differs(outcome(learn), whole()) == []


@pytest.mark.parametrize("data", [shuffled, in_memory, partial(shuffled, generator=torch.Generator())])
@pytest.mark.parametrize("at", [1, 3, 6, 7, 8, 16])
def test_step_checkpoints_in_mid_epoch_resume_with_the_same_bits(tmp_path, at, data):
    """The data is augmented at random; `seen` shows that no sample is repeated or missed."""
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


def test_persistent_workers_of_training_and_validation_raise_one_warning_together(tmp_path):
    options = {"num_workers": 1, "persistent_workers": True}
    data = Data(shuffled(**options).train, DataLoader(Noisy(), 8, **options))
    learn = make(tmp_path, data=lambda: data)
    with pytest.warns(LearnerWarning, match="The train and valid data: .* persistent") as caught:
        learn.fit(1)
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
    with pytest.raises(ValueError, match="must be 'auto', 'must' or 'never'"):
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
