"""Validate during epochs."""

from __future__ import annotations

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.every import Every


class ValidateEvery(Callback):
    """Validate during epochs too, at an interval, and record the results.

    `learn.history.validations` has a row for each validation, including the one that ends each epoch, with
    `step`, `epoch` and the results by name; the rows of the epochs do not change. Training continues as if
    there had been no validation: random states, the order of the data, modes and results are restored. At the
    last step of an epoch there is only one validation. A validation that is ended by Ctrl-C, SIGTERM or an
    error is not recorded; a fit that resumes there runs it first, unless the unit is a time. A callback of
    yours that counts validation batches counts the first part twice then. Callbacks that use an epoch's
    results, such as `EarlyStopping`, run at the end of the epoch.

    Args:
        every: how often, such as `"200 steps"`, `"1e5 samples"` or `"10 minutes"`.

    Raises:
        ValueError: the unit is epochs, which are validated anyway; or, when the fit starts, there is no
            validation data.
    """

    order = Order.MEASURE

    def __init__(self, every: str | Every, *, name: str | None = None):
        super().__init__(name=name)
        self.every = Every(every)
        self._is_resuming = False  # and has not reached a training batch
        if self.every.unit == "epoch":
            raise ValueError(
                f"ValidateEvery({str(every)!r}): each epoch ends with a validation anyway. Pass steps, "
                "samples or a time, such as '200 steps'."
            )

    def before_fit(self, learn: LearnerProtocol) -> None:
        if learn.data.valid is None:
            raise ValueError(
                f"ValidateEvery({str(self.every)!r}): there is no validation data. Pass some, with "
                "Data(train, valid)."
            )
        self.every.start(learn)
        self._is_resuming = learn.resumed

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not self._is_resuming or not learn.training:
            return
        self._is_resuming = False
        rows = learn.history.validations
        is_missing = learn.batch_idx > 0 and (not rows or rows[-1]["step"] != learn.global_step)
        if is_missing and self.every.was_due(learn):  # an interrupt or an error has ended it
            self._validate(learn)

    def after_batch(self, learn: LearnerProtocol) -> None:
        ends_epoch = learn.batch_idx + 1 == learn.n_batches  # its own validation follows
        # of several processes, one alone may have got a signal; they stop at a batch that they agree on
        is_ending = learn.interrupted if learn.ranks.size == 1 else learn.stop_reason
        if not self.every.after_batch(learn) or ends_epoch or is_ending:
            return
        self._validate(learn)

    def _validate(self, learn: LearnerProtocol) -> None:
        results = learn.validate(together=True)
        if not learn.interrupted:  # otherwise it has seen only part of the data
            learn.history.add_validation(learn.global_step, results)

    def after_train(self, learn: LearnerProtocol) -> None:
        self.every.after_train(learn)  # the epoch's own validation follows

    def after_epoch(self, learn: LearnerProtocol) -> None:
        prefixes = tuple(f"{name}_" for name in learn.data.validations)
        results = {name: value for name, value in learn.results.items() if name.startswith(prefixes)}
        if results:
            learn.history.add_validation(learn.global_step, results)
