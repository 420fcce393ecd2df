"""Callbacks that act on gradients."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_value_
from torch.optim import Optimizer

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.core.modules import TrainedParameters
from callbacks.core.when import window_of
from callbacks.history.scalars import Scalars, mean_and_largest
from callbacks.model.norms import clip_by_norm, total_norm


class ZeroGrad(Callback):
    """Implement the operation `zero_grad`: drop the gradients after each update.

    Without it, or another callback that implements it, gradients would accumulate; such a fit is refused.

    If an optimizer overrides `zero_grad`, that method is called. `torch.optim.Optimizer.zero_grad` sets each
    gradient to None; this callback does the same without its label for profilers, which takes most of its
    time.
    """

    order = Order.GRADIENT

    def zero_grad(self, learn: LearnerProtocol) -> None:
        optimizer = learn.optimizer
        own = getattr(type(optimizer), "zero_grad", None) is not TORCHS_ZERO_GRAD
        if own or "zero_grad" in vars(optimizer):
            optimizer.zero_grad()
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


TORCHS_ZERO_GRAD = Optimizer.zero_grad


class GradientClip(Callback):
    """Clip gradients before each update: all together by their norm, or each number by its size.

    By norm: gradients whose norm is above `max_norm` are multiplied by `max_norm / (norm + 1e-6)`, so their
    direction stays. By value: each number is limited to [-max_value, max_value]. This applies to the
    parameters of the model and of the loss that the optimizer holds. Accumulated gradients
    (`GradientAccumulation`) are clipped as a whole, and scaled gradients after they are unscaled.

    Results of a training pass: `unclipped_norm`, the mean over its updates of the norm before clipping,
    `unclipped_norm_max`, and, by norm, `clipped`, the share in [0, 1] of updates that were clipped. Nothing
    waits for the device before the pass ends. `GradientNorms` measures the norm after clipping.

    Clipping by a norm that is NaN or infinite makes gradients NaN, as in torch; the results show that norm,
    and `StopOnNaNGradient` ends the fit before such an update.

    Args:
        max_norm: the largest norm, 0 or more; infinity only measures it.
        max_value: the largest absolute value, 0 or more. Either this or `max_norm`.
        norm_type: the p of the norm, above 0; infinity is the largest absolute value.

    Raises:
        ValueError: both bounds, neither, or a negative one; when the fit starts: a second `GradientClip`.

    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; `torch.nn.utils.clip_grad_norm_`.
    """

    order = Order.GRADIENT
    state = ("norms", "bounds")

    def __init__(
        self,
        max_norm: float | None = None,
        *,
        max_value: float | None = None,
        norm_type: float = 2.0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if (max_norm is None) == (max_value is None):
            raise ValueError(
                f"GradientClip(max_norm={max_norm!r}, max_value={max_value!r}): pass one of the two, such "
                "as GradientClip(1.0) for the norm of all gradients, or GradientClip(max_value=0.5) for "
                "each gradient value."
            )
        self.max_norm = check_size("max_norm", max_norm)
        self.max_value = check_size("max_value", max_value)
        self.norm_type = check_size("norm_type", norm_type) or 0.0
        if self.norm_type == 0:
            raise ValueError(
                "GradientClip(norm_type=0): norm_type must be a number above 0, such as 2 or float('inf')."
            )
        self.measures: Mapping[str, Direction | None] = {"unclipped_norm": None, "unclipped_norm_max": None}
        if max_norm is not None:
            self.measures["clipped"] = None
        self._norms, self._trained = Scalars(), TrainedParameters()
        self.bounds = array("d")  #: `max_norm` at each update of the pass, since it may change

    @property
    def norms(self) -> array[float]:
        """The norms before clipping of this pass, or of the last one; waits for the device."""
        return self._norms.read()[:]

    @norms.setter
    def norms(self, norms: array[float]) -> None:
        self._norms = Scalars(norms[:])
        self.bounds = array("d", [math.inf if self.max_norm is None else self.max_norm] * len(norms))

    def before_fit(self, learn: LearnerProtocol) -> None:
        clips = [each for each in learn.callbacks if isinstance(each, GradientClip)]
        others = [each for each in clips if each is not self]
        if others and not all(map(window_of, clips)):  # windows may follow one another
            raise ValueError(
                f"{self!r} and {others[0]!r} both clip the gradients, and both measure 'unclipped_norm': "
                "leave one of them out."
            )

    def before_train(self, learn: LearnerProtocol) -> None:
        self._norms.clear()
        self.bounds = array("d")

    def before_step(self, learn: LearnerProtocol) -> None:
        self.bounds.append(math.inf if self.max_norm is None else self.max_norm)
        self._norms.append(self.clip(learn))

    def clip(self, learn: LearnerProtocol) -> Tensor:
        """Clip the gradients; a callback that computes new ones in `step` calls this for them.

        Returns:
            Their norm before clipping, a scalar on their device.
        """
        return self.clip_gradients(self._trained.of(learn))

    def clip_gradients(self, parameters: list[Any]) -> Tensor:
        """Clip the gradients of these parameters; returns their norm before clipping."""
        gradients = [each.grad for each in parameters if each.grad is not None]
        if self.max_norm is not None:
            return clip_by_norm(gradients, self.max_norm, self.norm_type)
        norm = total_norm(gradients, self.norm_type)
        if self.max_value is not None:
            clip_by_value(parameters, self.max_value)
        return norm

    def after_train(self, learn: LearnerProtocol) -> None:
        norms = self._norms.read()
        if norms:
            learn.results["unclipped_norm"], learn.results["unclipped_norm_max"] = mean_and_largest(norms)
            if self.max_norm is not None:
                n_clipped = sum(norm > bound for norm, bound in zip(norms, self.bounds, strict=False))
                learn.results["clipped"] = n_clipped / len(norms)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._trained.clear()


def clip_by_value(parameters: list[Any], max_value: float) -> None:
    """Limit each number of the gradients to [-max_value, max_value], including sparse ones."""
    try:
        clip_grad_value_(parameters, max_value)
    except NotImplementedError:
        given = [each for each in parameters if each.grad is not None]
        if not any(each.grad.is_sparse for each in given):
            raise
        for each in given:
            each.grad = each.grad.coalesce() if each.grad.is_sparse else each.grad
            numbers = each.grad.values() if each.grad.is_sparse else each.grad
            numbers.clamp_(-max_value, max_value)


def check_size(argument: str, size: float | None) -> float | None:
    """A number of at least 0, or None."""
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not size >= 0:
        raise ValueError(f"GradientClip({argument}={size!r}): {argument} must be a number, 0 or more.")
    return size
