"""Which weights a model has when: the trained ones or their averages."""

from __future__ import annotations

import pytest
import torch
from ground.watched_weights import Watch, by_hand

from callbacks import (
    EMA,
    Callback,
    CancelEpoch,
    CancelFit,
    CancelValidate,
    Checkpoint,
    EarlyStopping,
    ValidateEvery,
    on,
)

# Which weights a model has when
# -------------------------------------------------------------------------------


def test_training_uses_the_trained_weights_and_everything_else_the_averages(make_learner):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5, warmup=False), watch])
    first = learn.model.weight.detach().clone()
    learn.fit(2)
    steps = watch.seen["after_step"]
    averages = [by_hand([first, *steps[:n]], lambda n: 0.5) for n in (3, 6)]
    for event in ("before_validate", "after_validate", "after_epoch"):
        assert torch.allclose(torch.stack(watch.seen[event]), torch.stack(averages), rtol=1e-6)
    assert torch.equal(torch.stack(watch.seen["before_train"]), torch.stack([first, steps[2]]))


def test_training_is_the_same_with_and_without_it(make_learner):
    plain, learn = (
        make_learner(),
        make_learner(callbacks=[EMA(0.9, at_end="weights"), ValidateEvery("2 steps")]),
    )
    assert plain.fit(3)["train_loss"] == learn.fit(3)["train_loss"]
    assert torch.equal(plain.model.weight, learn.model.weight)


def test_a_validation_in_mid_epoch_has_the_averages_and_leaves_the_weights(make_learner):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5, warmup=False), watch, ValidateEvery("2 steps")])
    learn.fit(1)
    _, second, third = watch.seen["after_step"]
    assert not torch.equal(watch.seen["before_validate"][0], second)
    plain = make_learner()
    plain.fit(1)
    assert torch.equal(plain.model.weight, third)


@pytest.mark.parametrize("cancel", [CancelValidate, CancelEpoch, CancelFit])
@pytest.mark.parametrize("event", ["after_batch", "before_validate", "after_pred"])
def test_a_cancelled_validation_leaves_training_unchanged(make_learner, cancel, event):
    @on(event)
    def leave(learn):
        if not learn.training:
            raise cancel

    learn = make_learner(callbacks=[EMA(0.5, at_end="weights"), leave])
    learn.fit(1 if cancel is CancelFit else 3)
    plain = make_learner()
    plain.fit(1 if cancel is CancelFit else 3)
    assert torch.equal(plain.model.weight, learn.model.weight)


def test_a_training_pass_that_is_cancelled_still_ends_with_the_averages(make_learner):
    @on("before_batch")
    def leave(learn):
        if learn.training and learn.batch_idx == 2:
            raise CancelEpoch

    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5, warmup=False), watch, leave])
    learn.fit(2)
    assert not torch.equal(watch.seen["after_epoch"][0], watch.seen["after_step"][1])
    assert torch.equal(watch.seen["before_train"][1], watch.seen["after_step"][1])


def test_an_error_in_validation_restores_the_trained_weights(make_learner):
    @on("after_batch")
    def fail(learn):
        if not learn.training and learn.epoch == 1:
            raise ZeroDivisionError

    learn, plain = make_learner(callbacks=[EMA(0.5), fail]), make_learner()
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    plain.fit(2)
    assert torch.equal(plain.model.weight, learn.model.weight)


def test_a_validation_whose_error_a_callback_catches_does_not_keep_the_averages_in_the_model(make_learner):
    class Careless(Callback):
        def after_batch(self, learn):
            if learn.training:
                try:
                    learn.validate()
                except ZeroDivisionError:
                    return
            elif learn.batch_idx == 1:
                raise ZeroDivisionError

    plain = make_learner(valid=False)
    plain.fit(2)
    learn = make_learner(callbacks=[EMA(0.5, at_end="weights"), Careless()])
    with pytest.raises(ZeroDivisionError):
        learn.fit(2)
    one = make_learner(valid=False)
    one.fit(1)
    assert torch.equal(one.model.weight, learn.model.weight)


def test_early_stopping_restores_the_averages_that_were_best(make_learner):
    watch = Watch()
    stopping = EarlyStopping(patience=2, mode="max")
    learn = make_learner(callbacks=[EMA(0.5), stopping, watch])
    with pytest.warns(UserWarning, match="better direction"):
        learn.fit(9)
    assert stopping.best_epoch == 0
    assert torch.equal(learn.model.weight, watch.seen["before_validate"][0])


def test_the_file_of_an_epochs_end_holds_the_averages_as_the_models_weights(make_learner, tmp_path):
    watch = Watch()
    learn = make_learner(callbacks=[EMA(0.5), Checkpoint(tmp_path / "run", keep=None), watch])
    learn.fit(2)
    held = torch.load(tmp_path / "run" / "step-000000003.pt", weights_only=True)["model"]["weight"]
    assert torch.equal(held, watch.seen["after_validate"][0])


def test_after_the_fit_the_averages_can_be_used_within_a_block(make_learner):
    learn, other = make_learner(callbacks=[EMA(0.5, at_end="weights")]), make_learner(callbacks=[EMA(0.5)])
    learn.fit(2)
    other.fit(2)
    trained = learn.model.weight.detach().clone()
    with learn.callbacks.ema.averaged(learn):
        assert torch.equal(learn.model.weight, other.model.weight)
        assert learn.validate() == {"valid_loss": other.results["valid_loss"]}
        assert torch.equal(learn.model.weight, other.model.weight)
    assert torch.equal(learn.model.weight, trained)
    assert learn.validate()["valid_loss"] != learn.results["valid_loss"]
    with pytest.raises(ValueError, match="at_end='weights'"):
        other.callbacks.ema.averaged(other)
