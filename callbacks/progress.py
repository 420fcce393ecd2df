"""Show how the fit goes on."""

from __future__ import annotations

import math
from array import array

from callbacks.contract import Callback, LearnerProtocol, Order
from callbacks.every import Every
from callbacks.metrics import weighted_mean
from callbacks.scalars import Scalars


class Progress(Callback):
    """Draw a progress bar in a terminal or notebook, a line an epoch elsewhere."""

    order = Order.REPORT

    def after_epoch(self, learn: LearnerProtocol) -> None:
        print(learn.history.rows[-1] if learn.history.rows else "")


class LogRMSE(Callback):
    """Print the square root of the training loss, with all its digits: `RMSE: 74.96194346966999`.

    Of a step it is the loss before the update; of an epoch, the mean of the training pass by number of items.
    It is the root of the mean squared error only where the loss is a mean squared error, as
    `torch.nn.functional.mse_loss`; for other losses use the metric `RMSE`.

    Args:
        every: how often, as in `"1 step"`, `"2 epochs"` or `"10 seconds"`. The device is waited for whenever
            a line is printed, so choose it well above one step where speed matters.
    """

    order = Order.REPORT

    def __init__(self, every: str | Every = "1 step", *, name: str | None = None):
        super().__init__(name=name)
        self.every = Every(every)
        self._losses, self._n_items = Scalars(), array("d")

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.every.start(learn)

    def before_train(self, learn: LearnerProtocol) -> None:
        self._losses.clear()
        self._n_items = array("d")

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training and self.every.unit == "epoch":
            self._losses.append(learn.loss)
            self._n_items.append(learn.n_items)
        elif self.every.after_batch(learn):
            print_root(float(learn.loss))  # a wait that is meant: the line shows this step

    def after_epoch(self, learn: LearnerProtocol) -> None:
        if self.every.after_epoch(learn) and self._n_items:
            print_root(weighted_mean(self._losses.read(), self._n_items))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._losses.clear()
        self._n_items = array("d")


def print_root(loss: float) -> None:
    """Print a loss's root; NaN where it has none."""
    print(f"RMSE: {math.sqrt(loss) if loss >= 0 else math.nan}")
