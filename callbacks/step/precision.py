"""Half precision where it is safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from callbacks.core.contract import Callback, CancelStep, Direction, LearnerProtocol, Order
from callbacks.core.modules import trained_parameters
from callbacks.core.settings import check_count, check_number
from callbacks.core.warning import warn
from callbacks.model.finite import bad_gradients
from callbacks.optim.parameter_rules import parameters_of
from callbacks.place.device import map_tensors
from callbacks.step.closures import check_alone

#: After this many skipped updates in a row an error is raised. Each halves the scale: torch's first one,
#: 2**16, is 2**-16 by then, far below 1, where gradients have the range of float16 without any scale.
N_SKIPPED = 32
NO_SCALE_HELPS = (
    "Look for a square root, logarithm or division at 0 in the model or the loss, and add a small number; "
    "fit with StopOnNaNGradient instead of MixedPrecision to find the batch."
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision(Callback):
    """Compute forward and loss in half precision where that is safe (`torch.autocast`); weights stay float32.

    Autocast surrounds the operations `forward` and `compute_loss` in training, validation and prediction,
    even if they are overridden, and nothing else: no other callback, backward pass or loader runs under
    autocast. Predictions in half precision are float32 from `after_pred` on.

    With `"fp16"` small gradients would become 0, so the loss is multiplied by a scale for the backward pass
    alone (`torch.amp.GradScaler`): all events see `learn.loss_grad` without it. Gradients are scaled from
    `after_backward` until `before_step`, where they are unscaled before `GRADIENT` callbacks clip them, once
    for accumulated gradients. If one has overflowed, the update is skipped: gradients are dropped,
    `after_step` does not fire, `learn.global_step` does not count it, and the scale is halved. To know this,
    each update with `"fp16"` waits for the device, as `GradScaler.step` does unless the optimizer is fused;
    `"bf16"` never waits and needs no scale. The scale is saved, and is kept from fit to fit.

    A result of a training pass with `"fp16"` is `skipped_updates`, the number of skipped updates. Some are
    normal at first, while the scale falls. A fit without any update gives a warning, and `Checkpoint` keeps
    no best file of it.

    Args:
        precision: `"bf16"`, or `"fp16"` for devices without it.
        init_scale: for `"fp16"`: the first scale, above 0.
        growth_interval: for `"fp16"`: the scale doubles after this many updates without an overflow.

    Raises:
        ValueError: a setting is invalid; or, when the fit starts, there is a second `MixedPrecision`, the
            device has no bf16, or (with `"fp16"`) weights are float16 already, or another callback's `step`
            computes gradients itself.
        FloatingPointError: in `before_step`, 32 updates in a row were skipped, so no scale helps.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, sections 3.1 and 3.2; `torch.amp`.
    """

    order = Order.TRANSFORM  # in before_step: after GradientAccumulation, before callbacks that clip
    state = ("scaler", "n_skipped")
    surrounds = ("forward", "compute_loss", "backward")

    def __init__(
        self,
        precision: Literal["bf16", "fp16"] = "bf16",
        *,
        init_scale: float = 2.0**16,
        growth_interval: int = 2000,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_number("MixedPrecision", "init_scale", init_scale, lambda scale: scale > 0, "a number above 0")
        check_count("MixedPrecision", "growth_interval", growth_interval, least=1)
        self.precision, self.init_scale, self.growth_interval = precision, init_scale, growth_interval
        self.measures: Mapping[str, Direction | None] = (
            {"skipped_updates": None} if precision == "fp16" else {}
        )
        self.n_skipped = 0  #: updates of this pass that were skipped
        self._n_in_a_row = 0
        self._step_begun = 0
        self._scaler: torch.amp.GradScaler | None = None
        self._is_unscaled = False  # are there unscaled gradients of a skipped update?
        self._kept: dict[str, Any] | None = None
        self._scale: float | None = None

    @property
    def scales_gradients(self) -> bool:  # type: ignore[override]
        """Is there a scale?"""
        return self.precision == "fp16"

    @property
    def scaler(self) -> dict[str, Any] | None:
        """The scaler's state; None for `"bf16"` and before the first fit. Waits for the device."""
        return self._kept if self._scaler is None else self._scaler.state_dict()

    @scaler.setter
    def scaler(self, state: dict[str, Any] | None) -> None:
        self._kept, self._scale = state, None
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)
            self._scaler.set_growth_interval(self.growth_interval)  # the saved one may differ

    def before_fit(self, learn: LearnerProtocol) -> None:
        others = [each for each in learn.callbacks if isinstance(each, MixedPrecision) and each is not self]
        if others:
            raise ValueError(f"{self!r} and {others[0]!r} both set the precision: leave one of them out.")
        kind = learn.device.type
        if kind == "cuda" and self.precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise ValueError("MixedPrecision('bf16'): this device has no bf16; use MixedPrecision('fp16').")
        if self.scales_gradients:
            check_weights(learn)
        self._is_unscaled = False
        self._n_in_a_row, self._step_begun = 0, learn.global_step
        if self.scales_gradients:
            self._begin_scale(learn)

    def before_train(self, learn: LearnerProtocol) -> None:
        self.n_skipped = 0

    def _begin_scale(self, learn: LearnerProtocol) -> None:
        other = learn.callbacks.overrides.get("step")
        if other is not None and other.computes_gradients:
            check_alone(other, learn)
        state, kind = self.scaler, learn.device.type
        self._scaler = torch.amp.GradScaler(
            kind, init_scale=self.init_scale, growth_interval=self.growth_interval
        )
        self.scaler = state

    @contextmanager
    def surround(self, learn: LearnerProtocol, operation: str) -> Iterator[None]:
        if operation == "backward":
            loss = learn.loss_grad
            if self._scaler is None and self.scales_gradients:  # `precision` was changed during the fit
                self._begin_scale(learn)
            if self._scaler is not None:
                self._scale_again(learn)
                learn.loss_grad = self._scaler.scale(loss)
            try:
                yield
            finally:
                learn.loss_grad = loss
        else:
            kind = learn.device.type
            with torch.autocast("cpu" if kind == "meta" else kind, DTYPES[self.precision]):
                yield

    def after_pred(self, learn: LearnerProtocol) -> None:
        learn.preds = map_tensors(learn.preds, as_float)

    def before_step(self, learn: LearnerProtocol) -> None:
        if self._scaler is None:
            return
        before = self._scaler.get_scale() if self._scale is None else self._scale
        self._scaler.unscale_(learn.optimizer)
        self._scaler.update()
        self._scale = self._scaler.get_scale()  # waits for the device, as the scaler's own step does
        if self._scale < before:  # an overflow: only that lowers it
            self._leave_out(learn)
        self._is_unscaled, self._n_in_a_row = True, 0

    def _leave_out(self, learn: LearnerProtocol) -> NoReturn:
        """Skip the step if gradients have overflowed, and end the fit if no scale helps."""
        self.n_skipped += 1
        self._n_in_a_row += 1
        if self._n_in_a_row >= N_SKIPPED:
            bad = bad_gradients(learn.model.named_parameters())
            raise FloatingPointError(
                f"MixedPrecision('fp16'): the last {N_SKIPPED} updates were skipped, because gradients "
                f"are NaN or infinite, first in {', '.join(map(repr, bad[:3])) or 'the loss'}. The scale "
                f"is down to {self._scale:g}, so the range of float16 is not the cause. {NO_SCALE_HELPS}"
            )
        learn.optimizer.zero_grad()
        raise CancelStep

    def after_train(self, learn: LearnerProtocol) -> None:
        if self._scaler is not None:
            learn.results["skipped_updates"] = self.n_skipped

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self._n_in_a_row and learn.global_step == self._step_begun:
            warn(
                f"MixedPrecision('fp16'): all {self._n_in_a_row} updates of this fit were skipped, because "
                "gradients were NaN or infinite, so nothing was trained. In such a short fit the scale was "
                "still falling: train longer, or start lower, with MixedPrecision('fp16', "
                f"init_scale={self._scale:g}). {NO_SCALE_HELPS}"
            )

    def after_step(self, learn: LearnerProtocol) -> None:
        self._is_unscaled = False

    @torch.no_grad()
    def _scale_again(self, learn: LearnerProtocol) -> None:
        """Scale the gradients of an update that another callback has skipped, to accumulate this batch's."""
        if self._is_unscaled and self._scale is not None:
            gradients = [each.grad for each in parameters_of(learn.optimizer) if each.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, self._scale)  # type: ignore[reportPrivateImportUsage]
        self._is_unscaled = False

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._is_unscaled = False
        if self._scaler is not None:
            self._kept, self._scaler, self._scale = self._scaler.state_dict(), None, None


def as_float(leaf: Any) -> Any:
    """A tensor in half precision as float32; others unchanged."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in DTYPES.values() else leaf


def check_weights(learn: LearnerProtocol) -> None:
    """Refuse float16 weights, since no scaler can unscale their gradients."""
    if any(each.requires_grad and each.dtype is torch.float16 for each in trained_parameters(learn)):
        raise ValueError(
            "MixedPrecision('fp16'): weights of the model are float16 already, and their gradients cannot be "
            "unscaled. Keep the weights in float32 (leave model.half() out): autocast computes in float16."
        )
