"""`learn.without`: a callback that is removed for the length of a block."""

from __future__ import annotations

import pytest

from callbacks import (
    EarlyStopping,
    Order,
    Progress,
    Recorder,
    ShortEpoch,
    on,
)
from learner import Learner

# Without --------------------------------------------------------------------------------------------------


def names(learn: Learner) -> list[str]:
    return [callback.name for callback in learn.callbacks]


@pytest.mark.parametrize("meant", ["name", "class", "itself"])
def test_a_callback_is_removed_within_the_block_and_returns_to_its_place(make_learner, meant):
    first, second, third = (on("after_batch", name=name)(lambda learn: None) for name in "abc")
    learn = make_learner(callbacks=[first, second, third])
    before = names(learn)
    with learn.without({"name": "b", "class": type(second), "itself": second}[meant]) as same:
        assert same is learn
        assert "b" not in learn.callbacks
    assert names(learn) == before


def test_what_is_added_in_the_block_stays_and_what_is_removed_stays_away(make_learner):
    one, other = ShortEpoch(1), EarlyStopping("train_loss")
    learn = make_learner(callbacks=[one])
    with learn.without(Recorder):
        learn.add_callbacks(other)
        learn.remove_callbacks(one)
    assert names(learn) == ["zero_grad", "metrics", "recorder", "early_stopping"]


def test_a_fit_without_a_callback_resumes_without_it(make_learner):
    learn = make_learner(callbacks=[ShortEpoch(1)])
    with learn.without("short_epoch"):
        learn.fit(1)
    learn.fit(1)
    assert learn.global_step == 4


def test_in_mid_fit_the_state_is_restored(make_learner):
    @on("after_epoch", order=Order.SAVE)
    def look_aside(learn):
        with learn.without(EarlyStopping):
            pass
        waits.append(learn.callbacks[EarlyStopping].wait)

    waits = []
    stopping = EarlyStopping("train_loss", patience=9, min_delta=9)
    learn = make_learner(callbacks=[stopping, look_aside])
    learn.fit(4)
    assert waits == [0, 1, 2, 3]


def test_an_error_in_the_block_brings_them_back(make_learner):
    learn = make_learner()
    before = names(learn)
    with pytest.raises(ZeroDivisionError), learn.without(Recorder):
        raise ZeroDivisionError
    assert names(learn) == before


def test_a_missing_callback_is_reported(make_learner):
    learn = make_learner()
    with pytest.raises(KeyError, match="Did you mean 'recorder'"), learn.without("recorders"):
        pass
    with (
        pytest.raises(KeyError, match="there is no callback Progress"),
        learn.without(Progress),
    ):
        pass
