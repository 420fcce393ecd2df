"""Gradient descent in plain PyTorch: the loop that the Learner replaces.

The data are 20 noisy measurements of a speed. The loop fits a quadratic, a * time**2 + b * time + c, in
Arthur Samuel's four steps: initialize the parameters, compute the loss, step against the gradient, stop.

Prints ten lines: the root of the mean squared error before each step, from 74.96 down to 18.04.
"""

import math

import torch
from torch import Tensor

LR = 1e-5
N_STEPS = 10


def main() -> tuple[list[float], Tensor]:
    """Train; return the RMSE before each step, and the last parameters."""
    torch.manual_seed(2021)
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)  # the article prints one draw and discards it
    params = torch.randn(3).requires_grad_()  # initialize

    rmses = []
    for _ in range(N_STEPS):
        preds = quadratic(time, params)
        loss = ((preds - speed) ** 2).mean()  # loss
        loss.backward()
        with torch.no_grad():
            params -= LR * params.grad  # type: ignore[operator]  # step
        params.grad = None
        rmses.append(math.sqrt(loss.item()))
        print("RMSE:", rmses[-1])
    return rmses, params.detach()  # stop


def quadratic(time: Tensor, params: Tensor) -> Tensor:
    """The model: a * time**2 + b * time + c, for each time."""
    a, b, c = params
    return a * time**2 + b * time + c


if __name__ == "__main__":
    main()
