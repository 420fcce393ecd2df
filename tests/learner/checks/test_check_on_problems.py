"""`learn.check()` on broken learners: it runs, reports the problem, and leaves no trace."""

from __future__ import annotations

import re

import pytest
import torch
from examined import SGD, checksum, learner_of
from torch import nn
from torch.nn import functional as F

from callbacks import CancelBatch, on
from learner import Data, Learner, TensorLoader


def no_gradient(learn):
    learn.model.requires_grad_(False)


def nan_rate(learn):
    learn.optimizer.param_groups[0]["lr"] = float("nan")


def text_rate(learn):
    learn.optimizer.param_groups[0]["lr"] = "1e-3"


def other_optimizer(learn):
    learn.optimizer = SGD(nn.Linear(3, 1).parameters())


@on("after_pred")
def breaks(learn):
    raise ZeroDivisionError("broken callback")


@on("before_fit")
def breaks_before(learn):
    raise ZeroDivisionError("broken at the start")


@on("cleanup_fit")
def breaks_after(learn):
    raise ZeroDivisionError("broken at the end")


@on("before_batch")
def cancels(learn):
    raise CancelBatch


def batches(inputs=(8, 3), targets=(8, 1), **options) -> Data:
    return Data([(torch.randn(inputs), torch.randn(targets))], **options)


BROKEN = {
    "76 empty": (lambda: learner_of(data=Data([])), "has no batch"),
    "76 empty function": (lambda: learner_of(data=Data(lambda: iter(()))), "has no batch"),
    "76 drop_last": (
        lambda: learner_of(data=Data(TensorLoader([torch.ones(3, 3)] * 2, 4, drop_last=True))),
        "drop_last",
    ),
    "77 empty validation": (lambda: learner_of(data=batches(valid=[])), "validation data"),
    "80 no targets": (lambda: learner_of(data=Data([torch.ones(8, 3)])), "no targets"),
    "80 mapping": (lambda: learner_of(data=Data([{"x": torch.ones(8, 3)}])), "by keyword x"),
    "80 string": (lambda: learner_of(data=Data(["text"])), "a batch is 'text'"),
    "81 width": (lambda: learner_of(data=batches((8, 5))), r"it takes \(\.\.\., 3\)"),
    "82 dtype": (lambda: learner_of(nn.Linear(3, 1).double()), "write input.to"),
    "82 device": (lambda: learner_of(nn.Linear(3, 1, device="meta")), "on meta"),
    "83 whole": (
        lambda: learner_of(data=Data([(torch.ones(8, 3), torch.ones(8, 1).long())]), loss_func=F.huber_loss),
        "float",
    ),
    "83 classes": (
        lambda: learner_of(nn.Linear(3, 2), batches(targets=(8,)), F.cross_entropy),
        "targets.long",
    ),
    "85 torch's": (lambda: learner_of(data=batches(targets=(8,))), "with the targets of other items"),
    "85 own": (
        lambda: learner_of(data=batches(targets=(8,)), loss_func=lambda p, t: (p - t).abs().mean()),
        "with the targets of other items",
    ),
    "86 shape": (lambda: learner_of(loss_func=nn.MSELoss(reduction="none")), "reduce it"),
    "87 None": (lambda: learner_of(loss_func=lambda p, t: None), "the loss is None"),
    "87 float": (lambda: learner_of(loss_func=lambda p, t: 1.0), "no gradient"),
    "87 detached": (lambda: learner_of(loss_func=lambda p, t: (p - t).mean().detach()), "detaches it"),
    "87 no loss": (lambda: learner_of(loss_func=None), "loss_func is None"),
    "88 frozen": (lambda: spoilt(no_gradient), "frozen"),
    "88 no parameters": (lambda: learner_of(nn.Identity()), "no parameters|frozen|optimizer"),
    "89 other optimizer": (lambda: spoilt(other_optimizer), "0 of 2 trainable tensors"),
    "92 nan": (lambda: spoilt(nan_rate), "lr must be"),
    "92 text": (lambda: spoilt(text_rate), "lr must be"),
    "95 no optimizer": (lambda: learner_of(optimizer=None), "optimizer is None"),
    "no zero_grad": (lambda: learner_of(defaults=()), "no callback zeroes the gradients"),
    "broken callback": (lambda: learner_of(callbacks=[breaks]), "broken callback; in callback"),
    "broken start": (lambda: learner_of(callbacks=[breaks_before]), None),
    "broken end": (lambda: learner_of(callbacks=[breaks_after]), None),
    "cancelled": (lambda: learner_of(callbacks=[cancels]), None),
    "broken forward": (
        lambda: learner_of(nn.Sequential(nn.Linear(3, 1), nn.Unflatten(1, (2, 2)))),
        "at model.1",
    ),
    "nan loss": (
        lambda: learner_of(loss_func=lambda p, t: (p - t).mean() * torch.nan),
        "loss of the first batch is nan",
    ),
}


def spoilt(change) -> Learner:
    learn = learner_of()
    change(learn)
    return learn


@pytest.mark.parametrize(("make", "expected"), BROKEN.values(), ids=BROKEN)
def test_check_runs_on_a_broken_learner_and_reports_the_problem(make, expected, capsys):
    learn = make()
    before = None if learn.device.type == "meta" else checksum(learn)
    report = learn.check()
    if expected is not None:
        assert not report.ok
        assert re.search(expected, "\n".join(report.errors)), report.errors
    assert before is None or checksum(learn) == before


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_check_within_no_grad_reports_it_and_examines_all_the_same(context, capsys):
    learn = learner_of()
    with context():
        report = learn.check()
    assert f"inside torch.{context.__name__}()" in report.errors[0]
    assert report.facts["one batch"].startswith("20 steps")


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "inference"])
def test_models_that_cannot_be_copied_are_reported(lazy, capsys):
    if lazy:
        report = learner_of(nn.LazyLinear(1)).check()
        assert "lazy layers" in report.warnings[0]
    else:
        with torch.inference_mode():
            model = nn.Linear(3, 1)
        report = learner_of(model).check()
        assert "made inside torch.inference_mode()" in report.errors[0]


def test_several_problems_are_in_one_report(capsys):
    learn = learner_of(data=batches(targets=(8,), valid=[]), optimizer=None)
    report = learn.check()
    assert len(report.errors) == 3
    assert capsys.readouterr().out.endswith("not ok: 3 errors, 0 warnings\n")
