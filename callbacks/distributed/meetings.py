"""Where all processes meet: at the end of each pass and epoch."""

from __future__ import annotations

from array import array
from typing import Any

from callbacks.core.contract import Callback, CancelEpoch, CancelTrain, LearnerProtocol, Order
from callbacks.core.warning import warn
from callbacks.results.numbers import as_number


class Agreement(Callback):
    """Agree with the other processes at the end of each pass and epoch, after all callbacks that decide.

    `Distributed` adds it for the time of a fit.
    """

    order = Order.DECIDE
    decides_alike = True

    def after_train(self, learn: LearnerProtocol) -> None:
        learn.ranks.agree(learn, compares=True, ended=CancelTrain)

    def after_validate(self, learn: LearnerProtocol) -> None:
        learn.ranks.agree(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        learn.ranks.agree(learn, ended=CancelEpoch)


class SharedResults(Callback):
    """Give all processes the results of the first one, after all callbacks that measure.

    So loggers and callbacks that decide see equal numbers, including times. The losses of steps in the
    history become those of whole batches. `Distributed` adds it for the time of a fit.
    """

    order = Order.MEASURE

    def __init__(self) -> None:
        super().__init__()
        self._shares: list[Any] = []  # of this process in the batches of the pass
        self._n_before = 0  # steps in the history when the pass started
        self._is_first_epoch = True

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._is_first_epoch = True

    def before_train(self, learn: LearnerProtocol) -> None:
        self._shares, self._n_before = [], len(learn.history.steps["train_loss"])

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._shares.append(learn.ranks.share)

    def after_train(self, learn: LearnerProtocol) -> None:
        losses = learn.history.steps["train_loss"]
        part = list(losses[self._n_before :])
        if len(part) == len(self._shares) and any(each is not None for each in self._shares):
            shares = list(map(as_number, self._shares))
            losses[self._n_before :] = array("d", learn.ranks.losses_of_all(part, shares))
        self._share(learn)

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._share(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._share(learn)
        self._is_first_epoch = False

    def _share(self, learn: LearnerProtocol) -> None:
        if self._is_first_epoch:
            every = learn.ranks.gather(dict(learn.results))
            warn_of_parts(learn, every)
            found = every[0]
        else:
            found = learn.ranks.first(lambda: dict(learn.results))
        learn.results.clear()
        learn.results |= found


def warn_of_parts(learn: LearnerProtocol, every: list[dict[str, Any]]) -> None:
    """Warn of the results of the user's callbacks that differ, as each process has measured its part.

    Times may differ.
    """
    ours = [each for each in learn.callbacks if type(each).__module__.startswith("callbacks.")]
    names = {name for each in ours for name in each.measures}
    for name, value in every[0].items():
        if type(value) not in (int, float) or name in names or name.endswith("seconds"):
            continue
        values = [each.get(name, value) for each in every]
        if len(set(map(repr, values))) > 1:  # compared as text, because NaN does not equal itself
            warn(
                f"learn.results[{name!r}] differs between the processes ({', '.join(map(str, values))}), "
                "because each has seen only its part of the items. The value of the first process is "
                f"used. To combine the values, write learn.results[{name!r}] = "
                "sum(learn.ranks.gather(value)), or max(...)."
            )
