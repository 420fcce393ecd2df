"""A small optimizer with a training and an evaluation mode."""

from __future__ import annotations

from typing import Any

import torch


class ScheduleFreeSGD(torch.optim.Optimizer):
    """Gradient descent without a schedule, as Defazio et al. 2024, arXiv:2405.15682, section 2, write it.

    Gradients are computed at `y = (1 - beta) * z + beta * x`; `z` takes the steps, and `x` is its mean over
    the steps. The weights are `y` in training mode and `x` in evaluation mode. Each group keeps the mode
    and the number of steps among its settings.
    """

    def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "is_training": False, "n_steps": 0})

    @torch.no_grad()
    def eval(self) -> None:
        for group, each, z in self._steppers("is_training", True):
            each.lerp_(z, 1 - 1 / group["beta"])

    @torch.no_grad()
    def train(self) -> None:
        for group, each, z in self._steppers("is_training", False):
            each.lerp_(z, 1 - group["beta"])

    def _steppers(self, name: str, value: bool) -> list[Any]:
        """Groups of that mode, which is turned, with each parameter that has been stepped and its z."""
        found = []
        for group in self.param_groups:
            if group[name] is value:
                group[name] = not value
                found += [(group, p, self.state[p]["z"]) for p in group["params"] if "z" in self.state[p]]
        return found

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            if not group["is_training"]:
                raise RuntimeError("the optimizer is not in training mode")
            group["n_steps"] += 1
            beta, share = group["beta"], 1 / group["n_steps"]
            for y in group["params"]:
                if y.grad is None:
                    continue
                z = self.state[y].setdefault("z", y.clone())
                x = y.lerp(z, 1 - 1 / beta)
                z.sub_(y.grad, alpha=group["lr"])
                x.lerp_(z, share)
                y.copy_(x.lerp(z, 1 - beta))
