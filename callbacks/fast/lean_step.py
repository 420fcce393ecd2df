"""Runs backward, step and zero_grad without the wrappers of `torch`, with the same bits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.warning import warn
from callbacks.fast.fallback_reasons import Unfit
from callbacks.fast.lean_optimizer import MISSING, LeanUpdate, zero_grad


class LeanStep(Callback):
    """Run `backward`, `step` and `zero_grad` without the code that PyTorch wraps around its kernels.

    The optimizer is the learner's own, and its settings, state and state dict stay the same. So schedules,
    checkpoints, resuming and everything else that reads the optimizer work as before, and a fit ends with the
    same bits as without this callback. It saves time on the host, about as much in a large step as in a small
    one, so it pays off if steps take well under a millisecond. `docs/speed.md` has measurements.

    * `backward` calls the autograd engine, which `Tensor.backward` calls after many checks.
    * `step` of `SGD`, `Adam` and `AdamW` calls the kernels that they call, for many parameters at a time,
      with weights in float32 or float64 on a CPU. On other devices, for half precision, and with
      `foreach=True` or `fused=True` it calls the optimizer's own step without what `torch.optim` wraps around
      it (hooks, labels of a profiler, `torch._dynamo`).
    * `zero_grad` drops all gradients in one pass.

    Some of these calls are not public. So each fit first tries the engine on two numbers, and the kernels in
    three updates of made-up weights with the settings of each parameter group. All results must have the same
    bits as those of the ordinary calls, including the sign of a zero. For the rest of the fit, the ordinary
    call is made, and a warning gives the reason, if a call is missing or returns something else; if the
    optimizer is not one of the three, has hooks on its step or a replaced step, or is capturable or
    differentiable; or if its settings are tensors, or parameters or gradients are sparse or complex. With
    several optimizers (`Optimizers`) this is decided separately for each.

    It replaces `ZeroGrad`. Labels such as `Optimizer.step#SGD.step` are missing in a profile.

    Warns:
        LearnerWarning: an ordinary call is made; once per fit.

    Raises:
        ValueError: it is combined with another callback that implements one of the three operations.
    """

    order = Order.GRADIENT
    matches_loop = True  # its operations have the same bits

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._reason: str | None = None
        self._forget()

    @property
    def fallback(self) -> str | None:
        """Why the optimizer's ordinary step is taken, in this fit or the last; None if it is not."""
        return self._reason

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._forget()
        self._reason = None
        try:
            self._engine = find_engine()
        except Unfit as reason:
            warn_of("backward", "loss.backward()", reason)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._forget()

    def backward(self, learn: LearnerProtocol) -> None:
        loss, ones, engine = learn.loss_grad, self._ones, self._engine
        if engine is None or type(loss) is not Tensor or loss.ndim or not loss.dtype.is_floating_point:
            loss.backward()
            return
        # made again where a hook has changed the gradient of the loss in place
        if ones is None or ones.dtype is not loss.dtype or ones.device != loss.device or ones._version:
            ones = self._ones = torch.ones_like(loss, requires_grad=False)
        engine((loss,), (ones,), False, False, (), True, True)

    def step(self, learn: LearnerProtocol) -> None:
        self._update.step(learn.optimizer)

    def zero_grad(self, learn: LearnerProtocol) -> None:
        zero_grad(learn.optimizer)

    def _fall_back(self, reason: str) -> None:
        self._reason = reason
        warn_of("step", "optimizer.step()", reason)

    def _forget(self) -> None:
        self._engine: Callable[..., Any] | None = None
        self._ones: Tensor | None = None
        self._update = LeanUpdate(self._fall_back)


def warn_of(operation: str, call: str, reason: object) -> None:
    """Warn that an ordinary call is made, and why."""
    warn(f"LeanStep: {operation} uses the ordinary {call}, because {reason}.")


def find_engine() -> Callable[..., Any]:
    """What `Tensor.backward` calls in the end, tried on two numbers."""
    if logging.getLogger("torch.autograd.graph").isEnabledFor(logging.DEBUG):
        raise Unfit("autograd logs each node")
    try:
        engine = torch.autograd.Variable._execution_engine.run_backward  # type: ignore[attr-defined]
        with torch.enable_grad():
            weights = torch.tensor([2.0, 3.0], requires_grad=True, device="cpu", dtype=torch.float32)
            ones = torch.ones((), device="cpu")
            for _ in range(2):  # the second time adds to the first
                engine(((weights * weights).sum(),), (ones,), False, False, (), True, True)
        found: Any = weights.grad.tolist()  # type: ignore[union-attr]
    except MISSING as error:
        raise Unfit(
            f"torch {torch.__version__} has no engine that takes these arguments ({error})"
        ) from error
    if found != [8.0, 12.0]:
        raise Unfit(f"the engine returns {found} for the gradient of x**2 twice at [2, 3], not [8, 12]")
    return engine
