"""Exponential moving average of the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.registry import describe
from callbacks.core.settings import check_number
from callbacks.core.warning import warn
from callbacks.model.held import Held
from callbacks.step.averages import Averages, check_alone, named_weights, put_weights, take_off_noise


class EMA(Callback):
    """Average the weights exponentially over the updates, and validate, save and end with the average.

    After each update, `average = d * average + (1 - d) * weight`. The average starts with the weights at the
    start of the fit. Each fit starts a new average.

    From the end of a training pass to the start of the next one, and in each validation within an epoch, the
    model has the averages as its weights. So validation, `EarlyStopping`, and the file that `Checkpoint`
    saves at the end of an epoch all use the averages. The trained weights are restored before training
    continues. A checkpoint holds both.

    Averages are kept in float32 (float64 for float64 weights), on the model's device: one copy of the
    weights, and in validation a second one. Integer weights are not averaged. If the learner's model is
    replaced during a fit, a new average starts, and the old model gets its trained weights back; a replaced
    parameter continues with the average of its name.

    Args:
        decay: `d`, in [0, 1): how much of the average stays at each update. 0.999 averages over about 1000
            updates.
        warmup: at update t, from 0, limit `d` to `(1 + t) / (10 + t)`, so that the first weights soon lose
            their influence.
        buffers: `"copy"`: the model keeps its own buffers, such as the statistics of batch norm, which are
            averages already; `"average"`: floating-point buffers are averaged like the weights.
        at_end: the model's weights after the fit: the `"averages"`, or the trained `"weights"`; after an
            error always the trained weights.

    Attributes:
        averages: the averages by the weights' names; None before a fit, and when the model has them.
        weights: the trained weights by name while the model has the averages in a fit; otherwise None.
        n_updates: number of averaged updates.

    Warns:
        LearnerWarning: parameters were changed while the model had the averages.

    Raises:
        ValueError: a setting is invalid; or, when the fit starts, another callback averages too.

    Source: Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4), for averaging; warm-up and names as
        `tf.train.ExponentialMovingAverage(num_updates=)`.
    """

    order = Order.PREPARE  # before others look at the weights
    state = ("averages", "weights", "n_updates")
    averages_weights = True
    averages = Held[dict[str, Tensor] | None]("_averages", "tensors", "The averages by the weights' names.")

    def __init__(
        self,
        decay: float = 0.999,
        *,
        warmup: bool = True,
        buffers: Literal["copy", "average"] = "copy",
        at_end: Literal["averages", "weights"] = "averages",
        name: str | None = None,
    ):
        super().__init__(name=name)
        form = "a number from 0 to below 1, such as 0.999"
        check_number("EMA", "decay", decay, lambda x: 0 <= x < 1, form)
        self.decay, self.warmup, self.buffers, self.at_end = decay, warmup, buffers, at_end
        self._averages = Averages(with_buffers=buffers == "average")
        self.weights: dict[str, Tensor] | None = None
        self.n_updates = 0
        self._is_fitting = self._is_for_validation = False
        self._held: dict[str, Tensor] | None = None  # the model's tensors, while they contain the averages

    def averaged(self, learn: LearnerProtocol) -> AbstractContextManager[None]:
        """Use the averages as the model's weights within a `with` block, in a fit or after one.

        Raises:
            ValueError: there are no averages.
        """
        if self.averages is None:
            raise ValueError(
                "there are no averages: the model has them already after a fit, unless you use "
                "EMA(at_end='weights')."
            )
        return self._averages.there(learn.model)

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)
        check_end(self, learn)
        self._averages.with_buffers = self.buffers == "average"
        self._averages.forget_model()
        self.averages = self.weights = self._held = None
        self.n_updates = 0
        self._is_fitting, self._is_for_validation = True, False

    def before_train(self, learn: LearnerProtocol) -> None:
        self._take_out(learn)
        self._follow(learn)
        self._averages.match(learn.model)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        if self.weights is not None:  # an error has ended a validation within an epoch
            self._take_out(learn)
        self._follow(learn)

    def after_step(self, learn: LearnerProtocol) -> None:
        self._follow(learn)
        self._averages.update(learn.model, 1 - self._decay())
        self.n_updates += 1

    def after_train(self, learn: LearnerProtocol) -> None:
        self._put_in(learn)

    def before_validate(self, learn: LearnerProtocol) -> None:
        if self.weights is None and self._put_in(learn):
            self._is_for_validation = True

    def after_validate(self, learn: LearnerProtocol) -> None:
        if self._is_for_validation:
            self._take_out(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._put_in(learn)  # if the training pass was cancelled without `after_train`

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self.at_end == "weights":
            self._take_out(learn)
        elif self._is_fitting:
            self._put_in(learn)
            self.averages = self.weights = None
        self._is_fitting = False

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._is_fitting:
            self._take_out(learn)
        self._is_fitting = self._is_for_validation = False
        self._averages.forget_model()

    def _follow(self, learn: LearnerProtocol) -> None:
        """Start a new average if the averaged model was replaced."""
        if self._averages.are_of_another(learn.model):
            self._take_out(learn)
            self._averages.forget_model()
            self.averages, self.n_updates = None, 0

    def _decay(self) -> float:
        """The decay of the last update."""
        if not self.warmup:
            return self.decay
        return min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))

    def _put_in(self, learn: LearnerProtocol) -> bool:
        """Copy the averages into the model if it has its own weights; returns whether that happened."""
        if not self._is_fitting or self.weights is not None or self.averages is None:
            return False
        self._follow(learn)
        take_off_noise(learn)
        self._averages.share_buffers(learn)
        self.weights = self._averages.copy_weights(learn.model)
        self._held = named_weights(learn.model, with_buffers=self._averages.with_buffers)
        self._averages.put(learn.model)
        return True

    def _take_out(self, learn: LearnerProtocol) -> None:
        """Restore the model's own weights if it has the averages."""
        self._is_for_validation = False
        if self.weights is not None:
            if names := self._averages.written_over():
                warn(
                    f"EMA: {', '.join(names[:3])} changed in epoch {learn.epoch} while the model had the "
                    "averages. The change is lost, because training continues with its own weights. Change "
                    "weights in before_train or before_batch."
                )
            places = self._averages.places
            put_weights(learn.model if places is None else places.model, self.weights, self._held)
            self.weights = self._held = None


def check_end(callback: EMA, learn: LearnerProtocol) -> None:
    """Warn if another callback ends the fit with averages although the trained weights were asked for."""
    for other in learn.callbacks:
        if callback.at_end == "weights" and other.restores_weights:
            warn(
                f"EMA(at_end='weights') does not decide how the fit ends: {describe(other)} restores the "
                "weights that its best epoch was measured with, which are averages. Leave at_end out, or "
                f"write {type(other).__name__}(..., restore_best=False)."
            )
