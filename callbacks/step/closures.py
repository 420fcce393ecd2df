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
from callbacks.core.settings import is_number
from callbacks.core.when import unwrapped
from callbacks.model.norms import total_norm
from callbacks.step.accumulation import GradientAccumulation, check_doer
from callbacks.step.gradient import GradientClip


class Repeater:
    """Computes the gradients of a batch again, as if it were the first time.

    Random numbers, so dropout, are those of the first pass; batch norm's statistics stay as it left them.
    """

    def __init__(self):
        self._random: dict[str, Any] | None = None

    def begin(self) -> None:
        """Note the random state; call it in `before_batch`."""
        self._random = draws.take()

    def gradients(self, learn: LearnerProtocol) -> Tensor:
        """Replace the gradients by those of the weights as they are now, clipped as a `GradientClip` says.

        Returns:
            The loss, detached.
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
        for plugin in learn.callbacks:
            if isinstance(plugin, GradientClip):
                plugin.clip(learn)
        return loss

    def end(self) -> None:
        """Forget the random state."""
        self._random = None


def statistics_of(model: torch.nn.Module) -> list[Tensor]:
    """The running statistics of batch norm and instance norm."""
    layers = [each for each in model.modules() if isinstance(each, _NormBase)]
    return [buffer for layer in layers for buffer in layer.buffers(recurse=False)]


def check_alone(plugin: Callback, learn: LearnerProtocol) -> None:
    """Refuse a gradient scaler, whose scale the gradients that are computed again would have.

    And `GradientAccumulation`, which may have been there before this plug-in was added.
    """
    for other in learn.callbacks:
        if isinstance(unwrapped(other), GradientAccumulation):
            check_doer(other, learn)
        if other.scales_gradients:
            raise ValueError(
                f"{describe(plugin)} computes gradients again in the step, after {describe(other)} has "
                "unscaled them: use MixedPrecision('bf16'), which needs no scale, or leave one of them out."
            )


class SAM(Callback):
    """Do the operation `step`: step with the gradient at the worst weights nearby (sharpness-aware).

    The weights w go up the gradient g to `w + rho * g / |g|`, gradients of the same batch are computed there,
    the weights come back with the same bits, and the optimizer steps with those gradients. A step costs two
    forward and backward passes. The second one has the first one's random numbers, so dropout is the same,
    and leaves the running statistics of batch norm and the random state as they were. Loss, predictions and
    `GradientNorms` are of the first; `GradientClip` clips both.

    Args:
        rho: how far to go up, in the norm of all weights, above 0; the paper's is 0.05, with `adaptive` take
            ten times that.
        adaptive: measure the distance in units of each weight's size (ASAM): go up by
            `rho * w**2 * g / |w * g|`.

    Raises:
        ValueError: `rho` is no number above 0; at the fit's begin: beside a gradient scaler.

    Source: Foret et al. 2021, arXiv:2010.01412, equation 2 and algorithm 1; adaptive: Kwon et al. 2021,
    arXiv:2102.11600, equation 6.
    """

    order = Order.GRADIENT
    name = "sam"
    computes_gradients = True

    def __init__(self, rho: float = 0.05, *, adaptive: bool = False, name: str | None = None):
        super().__init__(name=name)
        if not is_number(rho) or rho <= 0:
            raise ValueError(f"SAM(rho={rho!r}): write a number above 0, as 0.05.")
        self.rho, self.adaptive = rho, adaptive
        self._repeater = Repeater()

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._repeater.begin()

    def step(self, learn: LearnerProtocol) -> None:
        with torch.no_grad():
            moved = [(each, each.clone()) for each in trained_parameters(learn) if each.grad is not None]
            self._go_up([each for each, _ in moved])
        try:
            self._repeater.gradients(learn)
        finally:
            with torch.no_grad():
                for parameter, before in moved:
                    parameter.copy_(before)
        learn.optimizer.step()

    def _go_up(self, parameters: list[Tensor]) -> None:
        """Add `rho * g / |g|` to the weights; nothing where the gradient is zero."""
        sizes = [each.abs() if self.adaptive else None for each in parameters]
        ups = [
            each.grad if size is None else each.grad * size
            for each, size in zip(parameters, sizes, strict=True)
            if each.grad is not None
        ]
        share = self.rho / (total_norm(ups) + 1e-12)  # 1e-12 as in the authors' code
        for parameter, up, size in zip(parameters, ups, sizes, strict=True):
            parameter.add_((up if size is None else up * size) * share.to(up.device))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._repeater.end()


class ClosureStep(Callback):
    """Do the operation `step`: give the optimizer a closure, as `torch.optim.LBFGS` needs one.

    The closure computes loss and gradients of the batch at the weights as they are. Its first call in a step
    gives those that the loop has just computed, at no further cost. Each later call is a forward and a
    backward pass with the first one's random numbers, so a line search sees one function, and leaves the
    running statistics of batch norm and the random state as they were. The gradients of each are clipped
    where there is a `GradientClip`. One `step` is one update of `learn.global_step`, however often the
    closure was called. Loss and predictions that are reported are those before the step.

    LBFGS reads its loss at each call, so it waits for the device. It is meant for all data as one batch.

    Raises:
        ValueError: at the fit's begin: beside a gradient scaler.
    """

    order = Order.GRADIENT
    computes_gradients = True

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._repeater = Repeater()

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._repeater.begin()

    def step(self, learn: LearnerProtocol) -> None:
        first = [learn.loss_grad.detach()]

        def closure() -> Tensor:
            return first.pop() if first else self._repeater.gradients(learn)

        learn.optimizer.step(closure)  # type: ignore[arg-type]  # torch's own type is narrower than it takes

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._repeater.end()
