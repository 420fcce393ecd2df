"""Optuna prunes a fit: run for real, with a journal file as storage."""

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from torch import nn

from callbacks import Callback, Checkpoint, OptunaPruning

optuna.logging.set_verbosity(optuna.logging.ERROR)


class PruneFrom(optuna.pruners.BasePruner):
    """A callback that prunes at a step."""

    def __init__(self, step: int):
        self.step = step

    def prune(self, study, trial):
        return trial.last_step is not None and trial.last_step >= self.step


class Scripted(Callback):
    """A callback that writes the given results, one per epoch."""

    def __init__(self, values):
        super().__init__(name="scripted")
        self.values, self.measures = values, {"score": "max"}

    def after_train(self, learn):
        if self.values[learn.epoch] is not None:
            learn.results["score"] = self.values[learn.epoch]


def one_trial(run, **options) -> optuna.trial.FrozenTrial:
    """The one trial of a study whose objective is `run`."""
    study = optuna.create_study(**options)
    study.optimize(run, n_trials=1)
    return study.trials[0]


def test_a_study_with_a_journal_file_sees_values_and_pruned_trials(make_learner, tmp_path):
    def storage():
        return JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))

    histories = []

    def objective(trial):
        learn = make_learner(lr=trial.suggest_float("lr", 1e-6, 1.0), callbacks=[OptunaPruning(trial)])
        histories.append(learn.history)
        return learn.fit(4)[-1]["valid_loss"]

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1)
    study = optuna.create_study(storage=storage(), study_name="s", pruner=pruner)
    for lr in (0.1, 1e-5, 0.2):
        study.enqueue_trial({"lr": lr})
    study.optimize(objective, n_trials=3)

    found = optuna.load_study(study_name="s", storage=storage()).trials
    assert [trial.state for trial in found] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    for trial, history in zip(found, histories, strict=True):
        assert trial.intermediate_values == dict(enumerate(history["valid_loss"]))
    assert len(histories[1]) == 2
    assert histories[1].stops[0][1].startswith("Optuna prunes the trial: valid_loss is ")


def test_the_fit_raises_and_all_is_cleaned_up(make_learner, tmp_path):
    ended = []

    class Listen(Callback):
        def after_epoch(self, learn):
            ended.append("epoch")

        def after_fit(self, learn):
            ended.append("fit")

    def objective(trial):
        learn = make_learner(callbacks=[OptunaPruning(trial), Listen(), Checkpoint(tmp_path / "run")])
        with pytest.raises(optuna.TrialPruned, match=r"valid_loss is 0\.\d+ after 2 epochs"):
            learn.fit(5)
        assert ended == ["epoch", "epoch", "fit"]
        assert (tmp_path / "run" / "step-000000006.pt").is_file()  # the last epoch is saved
        again = make_learner(callbacks=[OptunaPruning(trial), Checkpoint(tmp_path / "run")])
        again.fit(5, resume="auto")

    assert one_trial(objective, pruner=PruneFrom(1)).state is TrialState.PRUNED


def test_a_second_fit_continues_the_steps(make_learner):
    def objective(trial):
        learn = make_learner(callbacks=[OptunaPruning(trial, "train_loss")])
        learn.fit(2)
        learn.fit(2)
        return 0.0

    assert list(one_trial(objective).intermediate_values) == [0, 1, 2, 3]


def test_an_epoch_without_the_result_reports_nothing_and_nan_is_reported(make_learner):
    def objective(trial):
        callbacks = [Scripted([1.0, None, math.nan]), OptunaPruning(trial, "score")]
        make_learner(callbacks=callbacks).fit(3)
        return 0.0

    found = one_trial(objective, direction="maximize").intermediate_values
    assert list(found) == [0, 2]
    assert math.isnan(found[2])


def test_a_study_that_goes_the_other_way_is_refused(make_learner):
    study = optuna.create_study(direction="maximize")
    learn = make_learner(callbacks=[OptunaPruning(study.ask())])
    with pytest.raises(
        ValueError, match=r"direction is 'min', but the study is set to maximize.*direction='minim"
    ):
        learn.fit(1)


def test_a_study_of_two_objectives_is_refused(make_learner):
    study = optuna.create_study(directions=["minimize", "maximize"])
    learn = make_learner(callbacks=[OptunaPruning(study.ask())])
    with pytest.raises(ValueError, match="2 objectives"):
        learn.fit(1)


def test_an_invalid_trial_and_a_missing_result_are_refused(make_learner):
    with pytest.raises(TypeError, match="pass the trial"):
        OptunaPruning(nn.Linear(1, 1))
    learn = make_learner(callbacks=[OptunaPruning(optuna.trial.FixedTrial({}), "valid_los")])
    with pytest.raises(ValueError, match="Did you mean 'valid_loss'"):
        learn.fit(1)
    learn = make_learner(callbacks=[Scripted(["bad"]), OptunaPruning(optuna.trial.FixedTrial({}), "score")])
    with pytest.raises(ValueError, match="the result is 'bad', not a number"):
        learn.fit(1)


def test_without_optuna_the_error_shows_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r"plainlearner\[optuna\]"):
        OptunaPruning(None)
