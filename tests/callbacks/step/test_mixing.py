"""MixUp, CutMix and LabelMix, compared with hand-written training loops."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import pytest
import torch
from resumed import Crash, differs
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelTrain,
    Checkpoint,
    CutMix,
    DevicePlacement,
    LabelMix,
    Metrics,
    MixUp,
    Order,
    Recorder,
    ValidateEvery,
    When,
    ZeroGrad,
    accuracy,
    on,
)
from learner import Data, Learner

KINDS = [MixUp, CutMix, LabelMix]


def pictures(n_batches: int = 3, batch_size: int = 5) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(n_batches, batch_size, 2, 6, 8, generator=generator)
    classes = torch.randint(3, (n_batches, batch_size), generator=generator)
    return list(zip(inputs, classes, strict=True))


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 3))


def learner_of(*callbacks: Any, loss: Any = F.cross_entropy, data: Any = None, **options: Any) -> Any:
    options.setdefault("defaults", (ZeroGrad, Metrics, Recorder))
    model = options.pop("model", None) or model_of()
    data = data or Data(pictures(), pictures(1))
    return Learner(model, data, loss, partial(torch.optim.SGD, lr=0.1), callbacks, **options)


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
        for x, y in pictures():
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


def test_label_mix_is_label_smoothing_towards_the_batchs_classes_on_the_mean():
    x, y = pictures(1, 64)[0]
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
    batches = pictures()
    before = [(x.clone(), y.clone()) for x, y in batches]
    learn = learner_of(kind(seed=0), data=Data(batches, pictures(1)))
    plain = learner_of(data=Data(batches, pictures(1)))
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


def test_training_metrics_see_each_items_own_target():
    seen = []
    learn = learner_of(
        MixUp(),
        Metrics(accuracy, on="both"),
        on("after_batch")(lambda learn: seen.append(learn.targets)),
        defaults=(ZeroGrad,),
    )
    learn.data.valid = None
    learn.fit(1)
    assert not differs(seen, [y for _, y in pictures()])
    assert "train_accuracy" in learn.results


def test_a_batch_of_one_stays_as_it_is():
    data = [(x[:1], y[:1]) for x, y in pictures()]
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
            x, y = pictures(1)[0]
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


# Interrupted and resumed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 3])
def test_an_interrupted_fit_resumes_with_the_same_bits(kind, seed, tmp_path):
    def made(folder):
        return learner_of(kind(seed=seed), Checkpoint(tmp_path / folder, "1 step"))

    whole = made("whole")
    whole.fit(3)
    with pytest.raises(ZeroDivisionError):
        made("resumed").fit(3, callbacks=[Crash(6)])
    learn = made("resumed")
    torch.manual_seed(9)
    learn.fit(3, resume="must")
    assert not differs({**learn.model.state_dict()}, {**whole.model.state_dict()})
    assert list(learn.history.steps["train_loss"]) == list(whole.history.steps["train_loss"])


def test_without_a_seed_the_numbers_come_from_torchs_and_continue_from_fit_to_fit():
    one, other, third = learner_of(MixUp()), learner_of(MixUp()), learner_of(MixUp())
    torch.manual_seed(1)
    one.fit(2)
    torch.manual_seed(1)
    other.fit(1)
    other.fit(1)
    torch.manual_seed(2)
    third.fit(2)
    losses = [list(each.history.steps["train_loss"]) for each in (one, other, third)]
    assert losses[0] == losses[1] != losses[2]


# What it refuses ------------------------------------------------------------------------------------------


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return type("Output", (), {"loss": self.layer(x).mean()})()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_computes_its_loss_is_refused_at_the_start(kind):
    learn = learner_of(kind(), loss=None, model=WithLoss())
    with pytest.raises(ValueError, match=rf"{kind.__name__}: loss_func is None.*Learner\(\.\.\., loss_func="):
        learn.fit(1)


def test_a_loss_that_is_computed_otherwise_is_refused():
    class Own(Learner):
        def compute_loss(self):
            self.loss_grad = F.cross_entropy(self.preds, self.targets)

    learn = Own(
        model_of(),
        Data(pictures()),
        F.cross_entropy,
        partial(torch.optim.SGD, lr=0.1),
        [MixUp()],
        defaults=(ZeroGrad,),
    )
    before = {name: each.clone() for name, each in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"computed without learn\.loss_func"):
        learn.fit(1)
    assert not differs({**learn.model.state_dict()}, before)


@pytest.mark.parametrize(
    ("kind", "x", "y", "words"),
    [
        (
            MixUp,
            torch.zeros(4, 3, dtype=torch.int64),
            torch.zeros(4, 3),
            "input 0 is a tensor of shape .4, 3. and int64",
        ),
        (MixUp, torch.zeros(4, 3), None, "targets are None"),
        (MixUp, torch.zeros(4, 3), torch.zeros(2, 3), "targets are a tensor of shape .2, 3."),
        (LabelMix, torch.zeros(4, 3), torch.tensor(0.0), "targets are a tensor of shape .."),
        (LabelMix, torch.zeros(4, 3), {"boxes": torch.zeros(4)}, "targets are a dict"),
        (CutMix, torch.zeros(4, 3), torch.zeros(4, 3), "one tensor of shape .items, ..., height, width."),
        (CutMix, torch.zeros(4, 1, 3, 3), torch.zeros(4, 3, 3), "a value for each pixel"),
    ],
)
def test_what_cannot_be_mixed_is_refused_at_the_first_batch(kind, x, y, words):
    class Anything(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.weight * x.float()

    data = Data([{"x": x, "y": y}], split=lambda batch: (batch["x"], batch["y"]))
    learn = learner_of(kind(), loss=lambda preds, y: preds.mean(), model=Anything(), data=data)
    with pytest.raises(TypeError, match=words):
        learn.fit(1)


@pytest.mark.parametrize(
    "callbacks",
    [
        [MixUp(), CutMix()],
        [MixUp(), LabelMix()],
        [MixUp(), MixUp(name="again")],
        [When(MixUp(), until="1 epoch"), CutMix()],
    ],
)
def test_two_that_mix_are_refused_with_both_names(callbacks):
    with pytest.raises(ValueError, match=r"both mix the batch.*When\(MixUp\(\), until='5 epochs'\)"):
        learner_of(*callbacks).fit(1)


def test_one_after_the_other_they_go_and_at_one_time_they_do_not():
    seen = []
    callbacks = [When(MixUp(seed=0), until="1 epoch"), When(CutMix(seed=1), start="1 epoch")]
    learn = learner_of(*callbacks, on("after_loss")(lambda learn: seen.append(learn.loss_func.shift > 0)))
    learn.data.valid = None
    learn.fit(2)
    assert len(seen) == 6
    assert all(seen)
    with pytest.raises(ValueError, match="another callback mixes in epoch 0"):
        learner_of(When(MixUp(), every="1 step"), When(CutMix(), every="2 steps")).fit(1)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (MixUp, {"alpha": 0}),
        (MixUp, {"alpha": math.inf}),
        (MixUp, {"alpha": "1"}),
        (CutMix, {"alpha": -1}),
        (MixUp, {"p": 0}),
        (CutMix, {"p": 1.1}),
        (LabelMix, {"amount": 0}),
        (LabelMix, {"amount": 1}),
        (MixUp, {"seed": -1}),
        (CutMix, {"seed": 0.5}),
        (LabelMix, {"seed": True}),
    ],
)
def test_a_wrong_setting_is_refused(kind, wrong):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\({next(iter(wrong))}="):
        kind(**wrong)
