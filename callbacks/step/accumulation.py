"""Accumulate the gradients of several batches into one update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import Callback, CancelStep, LearnerProtocol, Order
from callbacks.core.modules import TrainedParameters
from callbacks.core.registry import describe
from callbacks.results.loss_weight import LossWeight, Weight


class GradientAccumulation(Callback):
    """Update the weights once for several batches, as if they were one large batch.

    The gradient of an update is the gradient of all batches of its window, joined into one: each batch's loss
    is weighted by the number that it divides by, as in `Metrics` (known for torch's own losses; others count
    by number of items, or by `weight`), and the sum of gradients is divided by the sum of weights. Gradients
    of a loss with `reduction="sum"` are added and not divided. So n small batches, even of different sizes,
    give the weights of one large batch up to rounding. (Batch norm still sees small batches.) A batch in
    which `cross_entropy` counts no target adds nothing. `before_step` and `after_step` fire once per window,
    so clipping, gradient norms and schedules see whole windows; `learn.global_step` counts windows.

    A window ends with its pass: the last one may be smaller, and is divided by its own sum of weights. If the
    data has no known length, or the pass is cancelled or stopped, the last update runs in `after_train`,
    before results are measured. If Ctrl-C or SIGTERM ends the fit, there is no such update, because a resumed
    fit continues the window. A cancelled batch drops the gradients of its whole window, as the loop does.
    Nothing is carried into the next pass or fit. A checkpoint holds the current window with its sums of
    gradients; `learn.snapshot()` holds no gradients: restore one at the end of a window.

    Args:
        n_batches: batches per update.
        n_samples: items per update, rounded up to whole batches. Either this or `n_batches`.
        weight: the weight of the current batch, a number above 0 or a tensor of one, which is not waited for,
            as `lambda learn: (learn.targets != PAD).sum()` for a loss that is a mean over tokens.

    Raises:
        ValueError: both sizes, neither, or one that is not a whole number above 0; when the fit starts: a
            second `GradientAccumulation`, or another callback's `step` that computes gradients itself.
    """

    order = Order.PREPARE  # before callbacks that unscale or clip: they see whole windows only
    state = ("window",)
    accumulates_gradients = True

    def __init__(
        self,
        n_batches: int | None = None,
        *,
        n_samples: int | None = None,
        weight: Weight | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.n_batches, self.n_samples = n_batches, n_samples
        check_sizes(n_batches, n_samples)
        self._weight = LossWeight(weight, owner="GradientAccumulation")
        self._is_sum, self._trained = False, TrainedParameters()
        self._weight_here: float | Tensor = 1.0
        self._n_items = 0  # of the current batch, as all processes expect it before its backward pass
        self._begin()

    @property
    def weight(self) -> Weight | None:
        """The user's function of the learner, or None."""
        return self._weight.given

    def _begin(self) -> None:
        """Start a window: batches and items so far, sum of weights, unit of weights, last batch.

        After another callback has skipped the update with `CancelStep`: `is_divided` is true if its
        gradients, which are divided already, still exist; `left` are those gradients.
        """
        self.window: dict[str, Any] = {"n_batches": 0, "n_samples": 0, "weight": 0.0, "unit": 1, "last": -1}
        self.window |= {"is_divided": False, "left": None}

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._begin()
        for other in learn.callbacks:
            if other.accumulates_gradients and other is not self:
                raise ValueError(f"{self!r} and {other!r} both accumulate gradients: leave one of them out.")
        check_step(self, learn)

    def before_train(self, learn: LearnerProtocol) -> None:
        is_divided = self.window.get("is_divided", False)
        if self.window["n_batches"]:  # a cancel has left them
            learn.optimizer.zero_grad()
            learn.n_waiting = 0
        self._begin()
        self.window["is_divided"] = is_divided
        self._weight.look(learn)
        self._is_sum = self._weight.adds_up(learn)

    def before_backward(self, learn: LearnerProtocol) -> None:
        if self._is_void(learn.batch_idx - 1):
            self._begin()
        self._see_reduction(learn)
        weight = 1 if self._is_sum else self._weigh(learn)
        if not self.window["n_batches"]:
            if self.window.get("is_divided"):
                self.window |= {"is_divided": False, "left": set_aside(self, learn, parameters_of(learn))}
            # the unit of weights: batches of equal size are scaled by 1, and nothing comes near an overflow
            weighs = weight if isinstance(weight, (int, float)) else n_targets(learn)
            self.window["unit"] = learn.ranks.unit(learn, weighs) or 1
        self._weight_here = weight / self.window["unit"]
        self._n_items = learn.ranks.n_items(learn)
        share = self.share_of(learn)
        if isinstance(share, Tensor) or share != 1:
            learn.loss_grad = scaled(learn.loss_grad, share, is_alone=learn.ranks.size == 1)

    def _see_reduction(self, learn: LearnerProtocol) -> None:
        """Look up whether the loss is a sum; it must not change within a window."""
        is_sum = self._weight.adds_up(learn)
        if is_sum != self._is_sum and self.window["n_batches"]:
            raise ValueError(
                f"{describe(self)}: learn.loss_func was changed to a {'sum' if is_sum else 'mean'} before "
                f"batch {learn.batch_idx} of epoch {learn.epoch}, while gradients of a "
                f"{'mean' if is_sum else 'sum'} are waiting for their update. Change it after the update."
            )
        self._is_sum = is_sum

    def before_step(self, learn: LearnerProtocol) -> None:
        window = self.window
        if learn.batch_idx != window["last"]:  # otherwise it is the update at the pass's end
            window["n_batches"] += 1
            window["n_samples"] += self._n_items
            window["weight"] = window["weight"] + self.share_of(learn)
            window["last"] = learn.batch_idx
            if not self._is_full(learn, window["n_batches"], window["n_samples"]):
                raise CancelStep
        parameters, left = parameters_of(learn, self._trained.of(learn)), window.get("left")
        weight = learn.ranks.divisor(learn, window["weight"], is_sum=self._is_sum)
        # if no target has a weight, gradients are 0 and must stay 0
        weight = torch.where(weight == 0, 1, weight) if isinstance(weight, Tensor) else weight or 1
        gradients = [each.grad for each in parameters if each.grad is not None]
        if gradients and (isinstance(weight, Tensor) or weight != 1):
            torch._foreach_div_(gradients, weight)  # type: ignore[reportPrivateImportUsage]
        add_kept(parameters, left)
        self._begin()
        self.window["is_divided"] = True

    def after_step(self, learn: LearnerProtocol) -> None:
        self.window["is_divided"] = False

    def after_train(self, learn: LearnerProtocol) -> None:
        if self._is_void(learn.batch_idx) or learn.interrupted:
            self._begin()
        elif self.window["n_batches"]:
            learn.update()

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self.window["n_batches"] and not learn.error:
            learn.optimizer.zero_grad()
        self._begin()
        self._trained.clear()

    def _weigh(self, learn: LearnerProtocol) -> float | Tensor:
        """The weight of the current batch."""
        weight = self._weight.of(learn)
        if isinstance(weight, Tensor):
            weight = weight.detach()
            return weight.item() if weight.is_cpu else weight  # no wait on a CPU
        if self.weight is not None and not weight > 0:
            raise ValueError(
                f"GradientAccumulation(weight=...) returned {weight!r} for batch {learn.batch_idx}: return a "
                "number above 0, such as the number of tokens."
            )
        return weight

    def updates_after(self, learn: LearnerProtocol) -> bool:
        """Does an update follow the current batch, before its gradients are computed?"""
        n_samples = self.window["n_samples"] + learn.ranks.n_items(learn)
        return self._is_full(learn, self.window["n_batches"] + 1, n_samples)

    @property
    def is_sum(self) -> bool:
        """Does the loss add up, so that gradients are not divided?"""
        return self._is_sum

    def share_of(self, learn: LearnerProtocol) -> float | Tensor:
        """The weight of the current batch in its window; 0 if this process has none of its items."""
        return 0.0 if learn.ranks.n_here == 0 else self._weight_here

    def weight_with(self, learn: LearnerProtocol) -> float | Tensor:
        """The sum of weights of the window, with the current batch."""
        return self.window["weight"] + self.share_of(learn)

    def _is_full(self, learn: LearnerProtocol, n_batches: int, n_samples: int) -> bool:
        """Is a window with this many batches and items complete, so that an update follows?"""
        if self.n_batches is not None and n_batches >= self.n_batches:
            return True
        if self.n_samples is not None and n_samples >= self.n_samples:
            return True
        return learn.is_last_batch

    def _is_void(self, last: int) -> bool:
        """Was a batch after the window's last one cancelled? If so, the loop has dropped all gradients."""
        return bool(self.window["n_batches"]) and self.window["last"] != last


def set_aside(
    callback: Callback, learn: LearnerProtocol, parameters: list[Tensor]
) -> list[Tensor | None] | None:
    """Take the gradients of an update that was skipped with `CancelStep`, which are divided already.

    Returns:
        Those of `parameters`, for `add_kept`; None if there are none.
    """
    left = [each.grad for each in parameters]
    if all(each is None for each in left):
        return None
    scaler = next((each for each in learn.callbacks if each.scales_gradients), None)
    if scaler is not None:
        raise ValueError(
            f"{describe(callback)}: the update before batch {learn.batch_idx} of epoch {learn.epoch} was "
            f"skipped by CancelStep, and {describe(scaler)} has already unscaled its gradients: "
            "drop them with learn.optimizer.zero_grad() before CancelStep, or use MixedPrecision('bf16')."
        )
    for each in parameters:
        each.grad = None
    return left


def add_kept(parameters: list[Tensor], left: list[Tensor | None] | None) -> None:
    """Add the gradients that `set_aside` returned to those of these parameters."""
    for parameter, grad in zip(parameters, left or (), strict=False):
        if grad is not None:
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)


def n_targets(learn: LearnerProtocol) -> int:
    """The number of elements in the current targets, or of items if the targets are not one tensor."""
    return learn.targets.numel() if isinstance(learn.targets, Tensor) else learn.n_items


def scaled(loss: Tensor, share: float | Tensor, *, is_alone: bool = False) -> Tensor:
    """A loss times its share; exactly 0 for a share of 0, because the mean of no target is NaN.

    On a CPU, where the share is known, its gradients are 0 too: those of 0 / 0 are NaN, also times 0. Several
    processes exchange gradients, so each of them needs the graph.
    """
    is_nothing = share == 0
    if not isinstance(is_nothing, Tensor):
        if not is_nothing:
            return loss * share
        if is_alone:
            return torch.zeros_like(loss, requires_grad=True)
        is_nothing = torch.ones((), dtype=torch.bool, device=loss.device)
    return torch.where(is_nothing, 0, loss * share)


def parameters_of(learn: LearnerProtocol, of_model: list[Any] | None = None) -> list[Tensor]:
    """The model's parameters, listed already or not, and those that only the optimizer holds."""
    of_model = list(learn.model.parameters()) if of_model is None else of_model
    held = (each for group in learn.optimizer.param_groups for each in group["params"])
    return list(dict.fromkeys([*of_model, *held]))


def check_step(callback: Callback, learn: LearnerProtocol) -> None:
    """Refuse a callback whose `step` computes gradients of the last batch only."""
    other = learn.callbacks.overrides.get("step")
    if other is not None and other.computes_gradients:
        raise ValueError(
            f"{describe(callback)} accumulates gradients of several batches, but {describe(other)} computes "
            "those of the last batch again in each step: leave one of them out, and use larger batches."
        )


def check_sizes(n_batches: int | None, n_samples: int | None) -> None:
    """Refuse sizes other than one whole number above 0."""
    shown = f"GradientAccumulation(n_batches={n_batches!r}, n_samples={n_samples!r})"
    if (n_batches is None) == (n_samples is None):
        raise ValueError(
            f"{shown}: pass one of the two, such as GradientAccumulation(4) for four batches per update, or "
            "GradientAccumulation(n_samples=256)."
        )
    size = n_samples if n_batches is None else n_batches
    if type(size) is not int or size < 1:
        raise ValueError(f"{shown}: pass a whole number above 0.")
