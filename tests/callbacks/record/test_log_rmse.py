"""LogRMSE: the article's print."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import ZeroGrad
from callbacks.core.contract import Callback, CancelStep
from callbacks.record.progress import LogRMSE
from learner.learner import Learner

ARTICLE = """\
RMSE: 74.96194346966999
RMSE: 36.43029986215973
RMSE: 22.692756149058336
RMSE: 19.006926227796704
RMSE: 18.225665028268686
RMSE: 18.073917779669408
RMSE: 18.04494798288646
RMSE: 18.039351786874853
RMSE: 18.03818276871748
RMSE: 18.037850320630035
"""


class Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.randn(3))

    def forward(self, t):
        a, b, c = self.params
        return a * (t**2) + (b * t) + c


def article_learner(*callbacks, defaults=()):
    torch.manual_seed(2021)
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)
    rate = partial(torch.optim.SGD, lr=1e-5)
    return Learner(Quadratic(), (time, speed), mse_loss, rate, [ZeroGrad(), *callbacks], defaults=defaults)


def batches_learner(*callbacks):
    """Two batches per epoch, of three items and of one."""
    torch.manual_seed(0)
    x = torch.randn(4, 1)
    batches = [(x[:3], 2 * x[:3]), (x[3:], 2 * x[3:])]
    rate = partial(torch.optim.SGD, lr=0.1)
    return Learner(
        nn.Linear(1, 1), (batches, batches[:1]), mse_loss, rate, [ZeroGrad(), *callbacks], defaults=()
    )


def test_every_step_prints_the_ten_numbers_of_the_article_to_the_last_digit(capsys):
    article_learner(LogRMSE()).fit(10)
    assert capsys.readouterr().out == ARTICLE


def test_a_second_fit_after_restore_prints_the_same_numbers_again(capsys):
    learn = article_learner(LogRMSE())
    first = learn.snapshot()
    learn.fit(6)
    learn.restore(first)
    capsys.readouterr()
    learn.fit(10)
    assert capsys.readouterr().out == ARTICLE


def test_for_an_epoch_it_prints_the_root_of_the_mean_loss_of_all_training_items(capsys):
    losses = []

    class Keep(Callback):
        def after_batch(self, learn):
            if learn.training:
                losses.append(learn.loss.item())

    batches_learner(LogRMSE("2 epochs"), Keep()).fit(3)
    second = losses[2:4]
    printed = capsys.readouterr().out
    assert printed == f"RMSE: {math.sqrt((3 * second[0] + second[1]) / 4)}\n"


def test_validation_batches_are_not_printed(capsys):
    batches_learner(LogRMSE()).fit(2)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_with_accumulated_gradients_only_the_batches_that_make_a_step_are_printed(capsys):
    class EverySecond(Callback):
        def before_step(self, learn):
            if learn.batch_idx == 0:
                raise CancelStep

    batches_learner(LogRMSE(), EverySecond()).fit(3)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_negative_loss_has_no_root_and_prints_nan(capsys):
    learn = article_learner(LogRMSE())
    learn.loss_func = lambda preds, targets: -mse_loss(preds, targets)
    learn.fit(1)
    assert capsys.readouterr().out == "RMSE: nan\n"


def test_an_invalid_interval_is_refused_when_the_callback_is_made():
    with pytest.raises(ValueError, match="every='now and then': write a positive number and a unit"):
        LogRMSE("now and then")


def test_cleanup_works_without_a_fit_and_twice():
    callback = LogRMSE("1 epoch")
    learn = article_learner(callback)
    callback.cleanup_fit(learn)
    callback.cleanup_fit(learn)
