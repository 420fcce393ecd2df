"""The article with the Learner: the loop of 01_plain_loop.py as a composition of three plug-ins.

`defaults=()` leaves out the plug-ins that are otherwise there unasked, so all that happens is written here.
Six steps are drawn; then the first parameters are put back, and ten steps are printed.

Prints ten lines, "RMSE: 74.96194346966999" to "RMSE: 18.037850320630035": to the last digit those of
01_plain_loop.py, and the parameters end with the same bits. Draws article.png.
"""

from functools import partial
from pathlib import Path

import torch
from models import Quadratic
from torch.nn import functional as F

from callbacks import LogRMSE, PlotSnapshots, ZeroGrad
from learner import Learner


def main(picture: str | Path = "article.png") -> Learner:
    """Draw six steps, train ten; give the learner."""
    torch.manual_seed(2021)
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)  # the article shows one draw and throws it away

    learn = Learner(
        Quadratic(),
        (time, speed),  # two tensors: one batch of all, so an epoch is a step
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
