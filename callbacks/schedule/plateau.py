"""Lower the rate when training no longer helps."""

from __future__ import annotations

from typing import Any

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.core.settings import check_count, check_number
from callbacks.model.held import Held
from callbacks.optim.hyperparameters import Kept, check_alone, get, put
from callbacks.results.best import Best


class ReduceLROnPlateau(Callback):
    """Multiply every group's learning rate by a factor when a result has not improved for some epochs.

    Each fit starts without a best value, and restores the rates when it ends. The settings have the same
    meaning as in `torch.optim.lr_scheduler.ReduceLROnPlateau`; `min_delta` is its `threshold` with
    `threshold_mode="abs"`. fastai, Keras and `EarlyStopping` count `patience` differently: their 3 is 2 here.

    Args:
        monitor: the result's name, such as `"valid_loss"`.
        factor: within (0, 1).
        patience: how many epochs in a row may pass without a better value; the next one lowers the rate. 0
            lowers it at the first such epoch, 1 at the second.
        min_delta: a value counts as better only if the difference is larger than this, in the result's own
            unit.
        cooldown: epochs after a reduction that do not count, at least 0.
        min_lr: no group's rate is lowered below this.
        mode: `"min"` or `"max"`; by default the direction that the loss or metric declares.

    Attributes:
        best: the best value of this fit, or of the last one; None before there is one.
        wait: epochs since then, or since the last reduction.
        rest: remaining epochs of the cooldown.
        n_reduced: how often the rate was reduced in this fit.

    Raises:
        TypeError, ValueError: a setting is invalid; when a fit starts: no result has the monitor's name, or
            another callback changes the rate too.
    """

    order = Order.DECIDE
    state = ("best", "wait", "rest", "n_reduced")
    sets_hyperparameters = ("lr",)
    best = Held[float | None]("_best", "value", "The best value of this fit, or of the last one.")

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: Direction | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not isinstance(factor, float) or not 0 < factor < 1:
            raise ValueError(
                f"ReduceLROnPlateau(factor={factor!r}): factor must be a number between 0 and 1, such as 0.1."
            )
        self.patience = check_count("ReduceLROnPlateau", "patience", patience, 0)
        self.cooldown = check_count("ReduceLROnPlateau", "cooldown", cooldown, 0)
        check_number("ReduceLROnPlateau", "min_lr", min_lr, lambda x: x >= 0, "a finite rate of at least 0")
        self._best = Best(monitor, owner="ReduceLROnPlateau", mode=mode, min_delta=min_delta)
        self.monitor, self.factor, self.min_lr = monitor, factor, min_lr
        self.wait = self.rest = self.n_reduced = 0
        self._kept: Kept | None = None

    @property
    def monitors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The result that is monitored."""
        return (self._best.monitor,)

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)
        self._best.monitor = self.monitor  # it may have been changed
        self._best.begin(learn)
        self.wait = self.rest = self.n_reduced = 0
        self._kept = Kept(learn.optimizer, "lr")

    def after_epoch(self, learn: LearnerProtocol) -> None:
        better = self._best.update(learn)
        if better is None:
            return
        self.wait = 0 if better else self.wait + 1
        if self.rest:
            self.rest, self.wait = self.rest - 1, 0
        if self.wait > self.patience:
            if self._kept is not None:
                self._kept = self._kept.of(learn.optimizer)  # groups may be new, or the optimizer
            self._reduce(learn.optimizer.param_groups)

    def _reduce(self, groups: list[dict[str, Any]]) -> None:
        self.wait, self.rest = 0, self.cooldown
        self.n_reduced += 1
        for group in groups:
            rate = float(get(group, "lr"))
            put(group, "lr", min(rate, max(rate * self.factor, self.min_lr)))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._kept is not None:
            self._kept.restore()
        self._kept = None
