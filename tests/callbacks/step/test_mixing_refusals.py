"""MixUp, CutMix and LabelMix: interrupted fits, and what is refused."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from ground.mixed import KINDS, images, learner_of, model_of
from resumed import Crash, differs
from torch import nn
from torch.nn import functional as F

from callbacks import (
    Checkpoint,
    CutMix,
    LabelMix,
    MixUp,
    When,
    ZeroGrad,
    on,
)
from learner import Data, Learner

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
        Data(images()),
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
def test_two_callbacks_that_mix_are_refused_with_both_names(callbacks):
    with pytest.raises(ValueError, match=r"both mix the batch.*When\(MixUp\(\), until='5 epochs'\)"):
        learner_of(*callbacks).fit(1)


def test_callbacks_that_mix_may_follow_each_other_but_not_overlap():
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
