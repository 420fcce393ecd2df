"""DevicePlacement sends batches on a stream: an imitated one copies late, so incomplete copies are found."""

from __future__ import annotations

import pytest
import torch
from ground.lanes import SIZE, Noisy, imitated, make, outcome
from torch.utils.data import DataLoader

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelTrain,
    CancelValidate,
    Checkpoint,
)
from callbacks.place.prefetch import AHEAD


@pytest.fixture
def lane(monkeypatch):
    return imitated(monkeypatch)


class At(Callback):
    """A callback that calls a function after a number of batches of training and validation."""

    def __init__(self, n, act):
        super().__init__()
        self.n, self.act, self.seen = n, act, 0

    def after_batch(self, learn):
        self.seen += 1
        if self.seen == self.n:
            self.act(learn)


def raises(error):
    def act(learn):
        raise error

    return act


ENDINGS = {
    "to the end": lambda learn: None,
    "stop": lambda learn: learn.stop("enough"),
    "fit": raises(CancelFit()),
    "epoch": raises(CancelEpoch()),
    "train": raises(CancelTrain()),
    "batch": raises(CancelBatch()),
    "validate": lambda learn: None if learn.training else raises(CancelValidate())(learn),
    "error": raises(RuntimeError("mine")),
    "Ctrl-C": raises(KeyboardInterrupt()),
}


@pytest.mark.parametrize("n", [1, 4, 11, 13, 18])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_leaves_the_same_state_as_without_prefetch_and_fetches_nothing_ahead(
    monkeypatch, ending, n
):
    most = []  # batches on the device at a time, in the first fit

    def run(prefetch):
        data = Noisy()
        stream = (batch for batch in DataLoader(data, SIZE))  # continues from fit to fit
        learn = make(
            At(n, ENDINGS[ending]),
            prefetch=prefetch,
            train=DataLoader(data, SIZE, shuffle=True),
            valid=DataLoader(Noisy(), SIZE),
        )
        try:
            learn.fit(2)
        except (RuntimeError, KeyboardInterrupt) as error:
            learn.error = error
        fetched, shown = data.n_fetched, repr(learn.error)
        most.append(lane.most if prefetch else 0)
        learn.data.train = stream
        learn.data.valid = None
        learn.fit(1)
        return outcome(learn, fetched, shown, data.n_fetched)

    expected = run(prefetch=False)
    lane = imitated(monkeypatch)
    assert run(prefetch=True) == expected
    assert len(lane.owned) == 2 * lane.n_begun  # inputs and targets of every batch were sent on the stream
    assert 1 <= most[1] <= AHEAD + 1
    assert most[1] == AHEAD + 1 or n == 1
    assert lane.n_torn == 0


@pytest.mark.parametrize("at", [1, 6, 11, 12, 16])
def test_an_interrupted_fit_resumes_with_the_same_bits(monkeypatch, tmp_path, at):
    valid = [(torch.ones(2, 3), torch.ones(2, 1))] * 2

    def run(folder, *callbacks, prefetch=True):
        learn = make(
            *callbacks, Checkpoint(tmp_path / folder, every="1 step"), prefetch=prefetch, valid=valid
        )
        learn.fit(3, resume="auto")
        return outcome(learn)

    expected = run("whole", prefetch=False)
    imitated(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run("resumed", At(at, raises(KeyboardInterrupt())))
    imitated(monkeypatch)
    assert run("resumed") == expected


def test_a_ctrl_c_is_kept_with_the_batch_that_it_ended(monkeypatch, tmp_path, lane):
    import signal

    def interrupt(learn):
        signal.raise_signal(signal.SIGINT)

    def run(folder, *callbacks):
        learn = make(*callbacks, Checkpoint(tmp_path / folder, every="100 steps"))
        learn.fit(2, resume="auto")
        return outcome(learn)

    expected = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("resumed", At(7, interrupt))
    assert run("resumed") == expected
