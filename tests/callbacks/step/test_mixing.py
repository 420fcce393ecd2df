"""MixUp, CutMix and LabelMix, compared with hand-written training loops."""

from __future__ import annotations

import math
import random
from functools import partial

import pytest
import torch
from ground.mixed import KINDS, images, learner_of, model_of
from resumed import differs
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelTrain,
    CutMix,
    DevicePlacement,
    LabelMix,
    Metrics,
    MixUp,
    Order,
    ValidateEvery,
    ZeroGrad,
    accuracy,
    on,
)
from learner import Data

# The numbers ----------------------------------------------------------------------------------------------


def mixed_up(x, draws):
    shift = draws.randrange(1, len(x)) if draws.random() < 1 else 0
    share = draws.betavariate(0.4, 0.4)
    share = max(share, 1 - share)
    return torch.lerp(x, torch.cat([x[-shift:], x[:-shift]]), 1 - share), shift, share


def cut_mixed(x, draws):
    shift = draws.randrange(1, len(x)) if draws.random() < 1 else 0
    drawn, (height, width) = draws.betavariate(1.0, 1.0), x.shape[-2:]
    half = [int(size * math.sqrt(1 - drawn)) // 2 for size in (height, width)]
    row, column = draws.randrange(height), draws.randrange(width)
    new, other, area = x.clone(), torch.cat([x[-shift:], x[:-shift]]), 0
    for i in range(height):
        for j in range(width):
            if row - half[0] <= i < row + half[0] and column - half[1] <= j < column + half[1]:
                new[..., i, j] = other[..., i, j]
                area += 1
    return new, shift, 1 - area / (height * width)


def label_mixed(x, draws):
    return x, draws.randrange(1, len(x)) if draws.random() < 1 else 0, 0.9


BY_HAND = [(MixUp, mixed_up), (CutMix, cut_mixed), (LabelMix, label_mixed)]


@pytest.mark.parametrize(
    "loss", [F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, label_smoothing=0.1)]
)
@pytest.mark.parametrize(("kind", "mix"), BY_HAND)
def test_the_fit_is_that_of_a_loop_by_hand_bit_for_bit(kind, mix, loss):
    learn = learner_of(kind(seed=3), loss=loss)
    learn.fit(3)
    draws, model = random.Random(3), model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        for x, y in images():
            inputs, shift, share = mix(x, draws)
            preds, others = model(inputs), torch.cat([y[-shift:], y[:-shift]])
            value = share * loss(preds, y)
            if share < 1:
                value = value + (1 - share) * loss(preds, others)
            value.backward()
            losses.append(value.item())
            optimizer.step()
            optimizer.zero_grad()
    assert not differs({**learn.model.state_dict()}, {**model.state_dict()})
    assert list(learn.history.steps["train_loss"]) == losses


def test_the_mixed_loss_is_that_against_mixed_labels():
    @on("after_loss")
    def compare(learn):
        if learn.training:
            mixing = learn.loss_func
            labels = F.one_hot(learn.targets, 3).float()
            mixed = mixing.share * labels + (1 - mixing.share) * labels.roll(mixing.shift, 0)
            assert torch.allclose(learn.loss, F.cross_entropy(learn.preds, mixed))

    learner_of(MixUp(1.0), compare).fit(4)


def test_label_mix_is_on_average_label_smoothing_towards_the_classes_of_the_batch():
    x, y = images(1, 64)[0]
    learn = learner_of(LabelMix(0.3, seed=0), data=Data([(x, y)]))
    learn.optimizer.param_groups[0]["lr"] = 0.0
    learn.model.eval()
    preds = learn.model(x).detach()
    with pytest.warns(UserWarning, match="lr is 0"):
        losses = list(learn.fit(400).steps["train_loss"])
    labels = F.one_hot(y, 3).float()
    # all others alike: the batch's frequencies less the item's own share
    others = (labels.sum(0) - labels) / (len(y) - 1)
    expected = F.cross_entropy(preds, 0.7 * labels + 0.3 * others)
    assert sum(losses) / len(losses) == pytest.approx(expected.item(), rel=2e-3)


def test_a_share_of_the_batches_is_mixed():
    shifts = []
    learn = learner_of(
        MixUp(p=0.3, seed=0), on("after_loss")(lambda learn: shifts.append(learn.loss_func.shift))
    )
    learn.data.valid = None
    learn.fit(100)
    assert sum(map(bool, shifts)) / len(shifts) == pytest.approx(0.3, abs=0.08)
    assert set(shifts) == {0, 1, 2, 3, 4}


def test_several_inputs_and_targets_are_mixed_alike():
    generator = torch.Generator().manual_seed(0)
    batch = [torch.rand(4, 3, generator=generator) for _ in range(4)]

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, first, second):
            return self.layer(first + second)

    def loss(preds, first, second):
        return F.mse_loss(preds, first) + F.l1_loss(preds, second)

    @on("after_loss")
    def compare(learn):
        shift, share = learn.loss_func.shift, learn.loss_func.share
        others = [each.roll(shift, 0) for each in batch]
        for mixed, own, other in zip(learn.inputs, batch[:2], others[:2], strict=True):
            assert torch.allclose(mixed, share * own + (1 - share) * other)
        expected = share * loss(learn.preds, *batch[2:]) + (1 - share) * loss(learn.preds, *others[2:])
        assert torch.equal(learn.loss, expected.detach())
        assert shift
        assert learn.targets[0] is batch[2]

    data = Data([tuple(batch)], n_inputs=2)
    learner_of(MixUp(seed=0), compare, loss=loss, model=Two(), data=data).fit(1)


# What it leaves alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_validation_predictions_data_and_the_global_stream_are_as_without_it(kind):
    batches = images()
    before = [(x.clone(), y.clone()) for x, y in batches]
    learn = learner_of(kind(seed=0), data=Data(batches, images(1)))
    plain = learner_of(data=Data(batches, images(1)))
    draws = [torch.get_rng_state()]
    learn.fit(2)
    draws.append(torch.get_rng_state())
    assert torch.equal(*draws)
    plain.model.load_state_dict(learn.model.state_dict())
    assert learn.validate() == plain.validate()
    assert learn.results["valid_loss"] == learn.validate()["valid_loss"]
    assert torch.equal(learn.predict(batches[0][0]), plain.predict(batches[0][0]))
    assert not differs(batches, before)
    assert learn.loss_func is F.cross_entropy


def test_training_metrics_get_the_own_target_of_each_item():
    seen = []
    learn = learner_of(
        MixUp(),
        Metrics(accuracy, on="both"),
        on("after_batch")(lambda learn: seen.append(learn.targets)),
        defaults=(ZeroGrad,),
    )
    learn.data.valid = None
    learn.fit(1)
    assert not differs(seen, [y for _, y in images()])
    assert "train_accuracy" in learn.results


def test_a_batch_of_one_stays_as_it_is():
    data = [(x[:1], y[:1]) for x, y in images()]
    learn, plain = learner_of(MixUp(), data=Data(data)), learner_of(data=Data(data))
    learn.fit(2)
    plain.fit(2)
    assert not differs({**learn.model.state_dict()}, {**plain.model.state_dict()})


@pytest.mark.parametrize("cancel", [CancelBatch, CancelTrain, CancelEpoch, ZeroDivisionError])
@pytest.mark.parametrize("event", ["after_pred", "before_backward"])
def test_the_loss_of_validation_is_never_mixed_and_the_function_is_restored(cancel, event):
    @on(event)
    def leave(learn):
        if learn.training and learn.batch_idx == 1:
            raise cancel

    learn = learner_of(MixUp(), leave)
    if cancel is ZeroDivisionError:
        with pytest.raises(cancel):
            learn.fit(2)
    else:
        learn.fit(2)
    assert learn.loss_func is F.cross_entropy
    if "valid_loss" in learn.results:
        assert learn.results["valid_loss"] == learn.validate()["valid_loss"]


def test_a_validation_in_mid_epoch_is_not_mixed():
    learn, seen = learner_of(MixUp()), []

    class Look(Callback):
        order = Order.PREPARE

        def after_step(self, learn):
            seen.append(learn.validate()["valid_loss"])
            x, y = images(1)[0]
            with torch.no_grad():
                seen.append(F.cross_entropy(learn.model(x), y).item())

    learn.fit(1, callbacks=[Look(), ValidateEvery("2 steps")])
    assert seen[::2] == seen[1::2]


def test_a_second_pass_over_the_batch_within_a_step_has_the_mixed_loss():
    losses = []

    @on("after_step")
    def again(learn):
        learn.compute_loss()
        losses.append((float(learn.loss), float(learn.loss_grad.detach())))

    learner_of(MixUp(1.0), again).fit(1)
    assert all(first == second for first, second in losses)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(kind):
    """On the meta device every read of a number is an error."""
    learn = learner_of(kind(), DevicePlacement("meta"), model=model_of().to("meta"))
    learn.loop.begin_pass(learn, learn.data.train, training=True)
    learn.loop.run_batches(learn, learn.data.train)
    assert learn.global_step == 3
    assert learn.loss.is_meta
