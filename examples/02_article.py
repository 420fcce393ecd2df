"""The article with a Learner: the loop of 01_plain_loop.py with three callbacks.

`defaults=()` leaves out the default callbacks, so this file shows everything that happens. It draws six
steps, restores the initial parameters, and prints ten steps.

Prints ten lines, "RMSE: 74.96194346966999" to "RMSE: 18.037850320630035". They equal those of
01_plain_loop.py to the last digit, and the parameters end with the same bits. Draws article.png.
"""

from functools import partial
from pathlib import Path

import torch
from models import Quadratic
from torch.nn import functional as F

from callbacks import LogRMSE, PlotSnapshots, ZeroGrad
from learner import Learner


def main(picture: str | Path = "article.png") -> Learner:
    """Draw six steps, train ten; return the learner."""
    torch.manual_seed(2021)
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)  # the article prints one draw and discards it

    learn = Learner(
        Quadratic(),
        (time, speed),  # two tensors are one batch, so an epoch is one step
        F.mse_loss,
        partial(torch.optim.SGD, lr=1e-5),
        callbacks=[ZeroGrad()],
        defaults=(),
    )
    first = learn.snapshot()
    learn.fit(6, callbacks=[PlotSnapshots(n=6, ylim=(-100, 100), path=picture)])
    learn.restore(first)
    learn.fit(10, callbacks=[LogRMSE(every="1 step")])
    return learn


if __name__ == "__main__":
    main()
