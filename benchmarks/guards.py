"""The time per step of the callbacks that check for NaN, in microseconds: `python benchmarks/guards.py`.

The script calls their hooks directly and takes the quickest of many short rounds, because other programs
on the machine only add time. The code for a device runs on the CPU here, so its figures show the host's
work.
"""

from __future__ import annotations

import timeit
from contextlib import nullcontext
from functools import partial
from unittest import mock

import torch
from torch import nn

from callbacks import Callback, StopOnNaN, StopOnNaNGradient, ZeroGrad
from callbacks.guard import stop_on_nan
from callbacks.guard.blackbox import BlackBox
from learner import Data, Learner

N_CALLS, N_ROUNDS = 256, 40


def microseconds(callback: Callback, hooks: tuple[str, ...], layers: list[nn.Module]) -> float:
    """Time of the hooks of one step, within a pass."""
    batch = torch.rand(8, 16), torch.rand(8, 1)
    optimizer = partial(torch.optim.SGD, lr=1e-6)
    model, loss_func = nn.Sequential(*layers), nn.functional.mse_loss
    learn = Learner(model, Data([batch]), loss_func, optimizer, defaults=(ZeroGrad,))
    learn.fit(1)
    learn.add_callbacks(callback)
    learn.training = True
    learn.loss_grad = nn.functional.mse_loss(learn.model(batch[0]), batch[1])
    learn.loss_grad.backward()
    callback.before_fit(learn)
    callback.before_train(learn)
    called = [getattr(callback, hook) for hook in hooks]

    def step() -> None:
        for hook in called:
            hook(learn)

    timer = timeit.Timer(step)
    timer.timeit(N_CALLS)
    return min(timer.repeat(N_ROUNDS, N_CALLS)) / N_CALLS * 1e6


def on_a_device(number: torch.Tensor) -> bool:
    """As on a device, where no number can be read without waiting."""
    return False


def main() -> None:
    """Print a row for each callback and model."""
    loss, gradient, box = (
        ("before_batch", "before_backward"),
        ("before_step",),
        ("before_batch", "after_batch"),
    )
    rows = [
        ("StopOnNaN", StopOnNaN, loss, False),
        ("StopOnNaN, as on a device", StopOnNaN, loss, True),
        ("StopOnNaNGradient", StopOnNaNGradient, gradient, False),
        ("BlackBox", BlackBox, box, False),
    ]
    linear = [nn.Linear(16, 16), nn.Linear(16, 1)]
    norms = [layer for _ in range(20) for layer in (nn.Linear(16, 16), nn.BatchNorm1d(16))]
    models = {"2 layers": linear, "20 layers with batch norm": [*norms, nn.Linear(16, 1)]}
    for title, layers in models.items():
        print(title)
        for name, make, hooks, is_elsewhere in rows:
            patched = mock.patch.object(stop_on_nan, "is_free_to_read", on_a_device)
            with patched if is_elsewhere else nullcontext():
                print(f"  {name:28}{microseconds(make(), hooks, layers):8.1f}")


if __name__ == "__main__":
    main()
