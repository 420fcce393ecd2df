"""Optimizers and steps that compute gradients more than once for one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from callbacks.core import draws
from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.modules import trained_parameters
from callbacks.core.registry import describe
from callbacks.core.settings import check_number
from callbacks.core.when import window_of
from callbacks.model.norms import total_norm
from callbacks.step.accumulation import check_step
from callbacks.step.gradient import GradientClip


class ComputesAgain(Callback):
    """A callback that implements `step` and computes the gradients of the current batch again.

    Random numbers, as those of dropout, are the ones of the first pass; the running statistics of batch norm
    stay as it left them.
    """

    order = Order.GRADIENT
    computes_gradients = True

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._random: dict[str, Any] | None = None

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._random = draws.take()

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._random = None

    def gradients(self, learn: LearnerProtocol) -> Tensor:
        """Compute the gradients at the current weights, clipped by `GradientClip` if there is one.

        Returns the loss, detached.
        """
        now = draws.take()
        kept = [(each, each.clone()) for each in statistics_of(learn.model)]
        draws.put(self._random or {})
        try:
            with torch.enable_grad():
                loss = learn.again()
        finally:
            draws.put(now)
            with torch.no_grad():
                for statistic, before in kept:
                    statistic.copy_(before)
        for each in learn.callbacks:
            window = window_of(each)
            if isinstance(each, GradientClip) and (window is None or window.is_calling(learn)):
                each.clip(learn)
        return loss


class SAM(ComputesAgain):
    """Sharpness-aware minimization: update with the gradient at the worst weights nearby; overrides `step`.

    The weights w move along the gradient g to `w + rho * g / |g|`, where the gradients of the same batch are
    computed. Then the weights are restored bit for bit, and the optimizer steps with those gradients. A step
    costs two forward and backward passes. The second one uses the random numbers of the first, so dropout is
    the same, and leaves the running statistics of batch norm and the random state as they were. Loss,
    predictions and `GradientNorms` are those of the first; `GradientClip` clips both.

    Args:
        rho: the distance, in the norm of all weights, above 0; the paper's is 0.05; with `adaptive` use ten
            times as much.
        adaptive: measure the distance relative to the size of each weight (ASAM): move by
            `rho * w**2 * g / |w * g|`.

    Raises:
        ValueError: `rho` is not a number above 0; or, when the fit starts, there is a gradient scaler or a
            `GradientAccumulation`.

    Source: Foret et al. 2021, arXiv:2010.01412, equation 2 and algorithm 1; adaptive: Kwon et al. 2021,
    arXiv:2102.11600, equation 6.
    """

    name = "sam"

    def __init__(self, rho: float = 0.05, *, adaptive: bool = False, name: str | None = None):
        super().__init__(name=name)
        self.rho = check_number("SAM", "rho", rho, lambda x: x > 0, "a number above 0, such as 0.05")
        self.adaptive = adaptive

    def step(self, learn: LearnerProtocol) -> None:
        with torch.no_grad():
            moved = [(each, each.clone()) for each in trained_parameters(learn) if each.grad is not None]
            self._go_up([each for each, _ in moved])
        try:
            self.gradients(learn)
        finally:
            with torch.no_grad():
                for parameter, before in moved:
                    parameter.copy_(before)
        learn.optimizer.step()

    def _go_up(self, parameters: list[Tensor]) -> None:
        """Add `rho * g / |g|` to the weights; nothing if the gradient is zero."""
        sizes = [each.abs() if self.adaptive else None for each in parameters]
        ups = [
            each.grad if size is None else each.grad * size
            for each, size in zip(parameters, sizes, strict=True)
            if each.grad is not None
        ]
        share = self.rho / (total_norm(ups) + 1e-12)  # 1e-12 as in the authors' code
        for parameter, up, size in zip(parameters, ups, sizes, strict=True):
            parameter.add_((up if size is None else up * size) * share.to(up.device))


class ClosureStep(ComputesAgain):
    """Implement the operation `step`: pass the optimizer a closure, as `torch.optim.LBFGS` requires.

    The closure computes loss and gradients of the batch at the current weights. Its first call in a step
    returns the loss and gradients that the loop has just computed, at no cost. Each later call runs a forward
    and a backward pass with the random numbers of the first, so that a line search sees a fixed function. It
    leaves the running statistics of batch norm and the random state as they were. With a `GradientClip`, the
    gradients of each call are clipped. One `step` is one update in `learn.global_step`, however often the
    closure is called. The reported loss and predictions are those before the step.

    LBFGS reads the loss at each call, so it waits for the device. Use it with all data as one batch.

    Raises:
        ValueError: when the fit starts, there is a gradient scaler or a `GradientAccumulation`.
    """

    def step(self, learn: LearnerProtocol) -> None:
        first = [learn.loss_grad.detach()]

        def closure() -> Tensor:
            return learn.ranks.joined_loss(learn, first.pop() if first else self.gradients(learn))

        learn.optimizer.step(closure)  # type: ignore[arg-type]  # torch's own type is narrower than it takes


def statistics_of(model: torch.nn.Module) -> list[Tensor]:
    """The running statistics of batch norm and instance norm."""
    layers = [each for each in model.modules() if isinstance(each, _NormBase)]
    return [buffer for layer in layers for buffer in layer.buffers(recurse=False)]


def check_alone(callback: Callback, learn: LearnerProtocol) -> None:
    """Refuse a gradient scaler, since gradients that are computed again would be scaled.

    Also refuse `GradientAccumulation`, which may have been added before this callback.
    """
    for other in learn.callbacks:
        if other.accumulates_gradients:
            check_step(other, learn)
        if other.scales_gradients:
            raise ValueError(
                f"{describe(callback)} computes gradients again in the step, after {describe(other)} has "
                "unscaled them: use MixedPrecision('bf16'), which needs no scale, or leave one of them out."
            )
