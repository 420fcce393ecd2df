"""A loader with a wrong length is reported, and what depends on the length uses the actual number."""

from __future__ import annotations

import warnings

import pytest
import torch
from resumed import Interrupt
from tiny import line_batches
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from callbacks import (
    Callback,
    Checkpoint,
    GradientAccumulation,
    LearnerWarning,
    ParamScheduler,
    Progress,
    ShortEpoch,
    StopAfter,
)
from callbacks.schedule.annealers import cos
from learner import Data, TensorLoader


class Claims:
    """A loader that reports one number of batches and yields another."""

    def __init__(self, claim, batches):
        self.claim, self.batches = claim, batches

    def __len__(self):
        return self.claim

    def __iter__(self):
        return iter(self.batches)


class Stream(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter([(each, each) for each in torch.rand(6, 1)])


class Buckets(BatchSampler):
    def __len__(self):
        return 3


class Steps(Callback):
    """A callback that keeps the batch and the rate of each update."""

    def before_fit(self, learn):
        self.batches, self.rates = [], []

    def after_step(self, learn):
        self.batches.append(learn.batch_idx)
        self.rates.append(learn.optimizer.param_groups[0]["lr"])


ROWS = TensorDataset(torch.rand(6, 1), torch.rand(6, 1))
MORE = {
    "a loader": lambda: Claims(3, line_batches(6)),
    "a data set": lambda: DataLoader(Stream(), batch_size=1),
    "a batch sampler": lambda: DataLoader(ROWS, batch_sampler=Buckets(range(6), 1, drop_last=False)),
}


@pytest.mark.filterwarnings("ignore:Length of IterableDataset:UserWarning")
@pytest.mark.parametrize("kind", MORE)
def test_more_batches_than_its_length_are_reported_once(kind, make_learner):
    learn = make_learner(data=Data(MORE[kind]()))
    with pytest.warns(LearnerWarning, match=r"claims to have 3 batches, but yielded 6 in epoch 0") as caught:
        learn.fit(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LearnerWarning)
        learn.fit(1)
    assert len([each for each in caught if each.category is LearnerWarning]) == 1


def test_fewer_batches_than_its_length_are_reported_in_the_first_epoch(make_learner):
    learn = make_learner(data=Data(Claims(6, line_batches(2))))
    with pytest.warns(LearnerWarning, match="claims to have 6 batches, but yielded 2 in epoch 0"):
        learn.fit(1)


def test_validation_data_of_another_length_is_reported(make_learner):
    learn = make_learner(data=Data(line_batches(2), Claims(1, line_batches(2))))
    with pytest.warns(LearnerWarning, match="validation data claims to have 1 batch, but yielded 2"):
        learn.fit(1)


@pytest.mark.parametrize("given", [2, 6])
def test_a_schedule_ends_with_the_fit_whatever_the_reported_length(given, make_learner):
    batches, steps = line_batches(given), Steps()
    scheduler = ParamScheduler({"lr": cos(1.0, 0.0)})
    learn = make_learner(data=Data(Claims(3, batches)), callbacks=[steps, scheduler], lr=1e-3)
    with pytest.warns(LearnerWarning, match=f"3 batches, but yielded {given}"):
        learn.fit(3)
    true = Steps()
    scheduler = ParamScheduler({"lr": cos(1.0, 0.0)})
    make_learner(data=Data(batches), callbacks=[true, scheduler], lr=1e-3).fit(3)
    assert steps.rates[given:] == true.rates[given:]
    assert all(0 <= rate <= 1 for rate in steps.rates)


@pytest.mark.filterwarnings("ignore:the training data claims:callbacks.LearnerWarning")
@pytest.mark.parametrize(
    ("claim", "given", "size"), [(3, 6, 4), (3, 6, 2), (4, 7, 3), (6, 3, 2), (5, 5, 2), (2, 5, 8)]
)
def test_gradients_accumulate_over_the_actual_batches(claim, given, size, make_learner):
    batches = line_batches(given)
    found = []
    for data in (Claims(claim, batches), batches):
        steps = Steps()
        learn = make_learner(data=Data(data), callbacks=[steps, GradientAccumulation(size)])
        learn.fit(2)
        found.append((steps.batches, *map(torch.Tensor.tolist, learn.model.state_dict().values())))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore:the training data claims:callbacks.LearnerWarning")
def test_a_budget_that_ends_with_the_length_is_not_exceeded(make_learner):
    learn = make_learner(
        data=Data(Claims(3, line_batches(6)), line_batches(1)), callbacks=[StopAfter("3 steps")]
    )
    learn.fit(5)
    assert learn.global_step == 3
    assert "valid_loss" in learn.results
    assert learn.stop_reason == "the budget of 3 steps is used up"


@pytest.mark.filterwarnings("ignore:the training data claims:callbacks.LearnerWarning")
def test_a_short_epoch_has_its_length_whatever_the_reported_length(make_learner):
    learn = make_learner(data=Data(Claims(3, line_batches(6))), callbacks=[ShortEpoch(5)])
    learn.fit(2)
    assert learn.global_step == 10


def test_a_length_that_a_sandbox_has_reported_is_not_reported_again(make_learner):
    learn = make_learner(data=Data(Claims(3, line_batches(6))))
    with pytest.warns(LearnerWarning, match="but yielded 6"), learn.sandbox():
        learn.fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(1)


def test_progress_counts_the_actual_batches(make_learner, monkeypatch):
    totals = []

    class Bar:
        def __init__(self, total, begun):
            self.total = total

        def draw(self, n, title, note):
            totals.append((n, self.total))

        def close(self):
            pass

    monkeypatch.setattr("callbacks.record.progress.Bar", Bar)
    monkeypatch.setattr("callbacks.record.progress.can_show_a_bar", lambda: True)
    monkeypatch.setattr("callbacks.record.progress.REFRESH", 0.0)
    learn = make_learner(data=Data(Claims(3, line_batches(6))), callbacks=[Progress])
    with pytest.warns(LearnerWarning, match="yielded 6"):
        learn.fit(2)
    assert totals[-1] == (12, 12)


@pytest.mark.filterwarnings("ignore:a run that is interrupted:callbacks.LearnerWarning")
def test_a_resumed_run_knows_the_true_length(make_learner, tmp_path):
    class Crash(Callback):
        def after_step(self, learn):
            if learn.global_step == 8:
                raise RuntimeError("crash")

    def make(*callbacks):
        scheduler = ParamScheduler({"lr": cos(1.0, 0.0)})
        data = Data(Claims(3, line_batches(6)))
        return make_learner(data=data, callbacks=[scheduler, *callbacks], lr=1e-3)

    whole, rest = Steps(), Steps()
    with pytest.warns(LearnerWarning, match="yielded 6"):
        make(whole).fit(2)
    with pytest.warns(LearnerWarning, match="yielded 6"), pytest.raises(RuntimeError, match="crash"):
        make(Checkpoint(tmp_path / "run", every="1 step")).fit(2, callbacks=[Crash])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the training data", LearnerWarning)
        make(rest, Checkpoint(tmp_path / "run", every="1 step")).fit(2, resume="must")
    assert rest.rates == whole.rates[7:]


QUIET = {
    "a list": lambda: line_batches(3),
    "tensors": lambda: TensorLoader((torch.rand(6, 1), torch.rand(6, 1)), 2),
    "a data loader": lambda: DataLoader(ROWS, 2, shuffle=True),
    "drop_last": lambda: DataLoader(ROWS, 4, drop_last=True),
    "a sampler": lambda: DataLoader(ROWS, 2, sampler=RandomSampler(ROWS, num_samples=4)),
    "a true length": lambda: Claims(3, line_batches(3)),
    "no length": lambda: lambda: iter(line_batches(3)),
}


@pytest.mark.parametrize("kind", QUIET)
def test_a_true_length_is_not_reported(kind, make_learner):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(data=Data(QUIET[kind]())).fit(2)
        make_learner(data=Data(QUIET[kind]()), callbacks=[ShortEpoch(1)]).fit(2)
        make_learner(data=Data(QUIET[kind]()), callbacks=[StopAfter("1 step")]).fit(2)


def test_epochs_of_growing_batches_are_not_mistaken_for_exhausted_data(make_learner):
    class Grow(Callback):
        def before_epoch(self, learn):
            learn.data.train = TensorLoader((torch.rand(8, 1), torch.rand(8, 1)), 2 * 2**learn.epoch)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(callbacks=[Grow]).fit(3)


class Forgetful(Claims):
    """Has a state, but not the position in the pass."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_loader_that_starts_again_after_a_resume_is_reported_as_such(make_learner, tmp_path):
    def made(*callbacks):
        return make_learner(
            data=Data(Forgetful(4, line_batches(4))), callbacks=[*callbacks, Checkpoint(tmp_path, "1 step")]
        )

    made(Interrupt(2)).fit(2)
    with pytest.warns(LearnerWarning, match=r"all 4 batches .* 2 of them had .* Forgetful\.state_dict must"):
        made().fit(2, resume="must")
