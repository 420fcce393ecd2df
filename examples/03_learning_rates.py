"""Three learning rates on the article's data: too low, good, and a little too high.

In each direction of the parameters, a step multiplies the distance to the minimum by 1 - lr * curvature.
With a low rate this factor is nearly 1, so training is slow. If lr is larger than 2 / curvature, the
factor is below -1: each step jumps over the minimum and lands higher on the other side, so training
bounces and diverges. The direction with the largest curvature sets the limit.

Prints the report of learn.check() for the highest rate, which shows the limit, 3.54e-05. Then, for each
rate, the RMSE before the first and the last of 20 steps. Draws learning_rates.png: RMSE and parameter a
before each step.
"""

from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from models import Quadratic
from torch import Tensor
from torch.nn import functional as F

from callbacks import Recorder, ZeroGrad, on
from learner import Learner
from learner.data.datasets import article

RATES = {1e-7: "too low: slow", 1e-5: "good", 3.7e-5: "too high: bounces and diverges"}
N_STEPS = 20


def main(picture: str | Path = "learning_rates.png") -> dict[float, Tensor]:
    """Train with each rate; return the RMSE before each step, by rate."""
    make_learner(max(RATES)).check()
    figure = Figure(figsize=(10, 4), layout="constrained")
    errors, parameters = figure.subplots(1, 2)
    rmses = {}
    for lr, label in RATES.items():
        rmses[lr], a = train(lr)
        print(f"lr {lr:g}: RMSE {rmses[lr][0]:.2f} to {rmses[lr][-1]:.2f}, {label}")
        errors.plot(rmses[lr], ".-", label=f"lr {lr:g}, {label}")
        parameters.plot(a, ".-")
    errors.set(title="RMSE", yscale="log", xlabel="step", xticks=range(0, N_STEPS + 1, 5))
    errors.set_yticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
    errors.minorticks_off()
    parameters.set(title="parameter a", xlabel="step", xticks=range(0, N_STEPS + 1, 5))
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(picture, dpi=150)
    return rmses


def train(lr: float) -> tuple[Tensor, Tensor]:
    """The RMSE and the parameter a before each step, both of shape (steps,)."""
    path = []

    @on("before_step")
    def keep_a(learn: Learner) -> None:
        path.append(next(learn.model.parameters())[0].detach().clone())

    learn = make_learner(lr, callbacks=[keep_a, ZeroGrad, Recorder], defaults=())
    history = learn.fit(N_STEPS)
    return torch.tensor(history.steps["train_loss"], dtype=torch.float64).sqrt(), torch.stack(path)


def make_learner(lr: float, **options) -> Learner:
    """A learner on the article's data, with the same initial parameters each time."""
    torch.manual_seed(2021)
    data = article()
    return Learner(Quadratic(), data, F.mse_loss, partial(torch.optim.SGD, lr=lr), **options)


if __name__ == "__main__":
    main()
