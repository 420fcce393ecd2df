"""`PassWatch`, a part of every fit: pass the epoch number to the data, and report a wrong length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from callbacks.core.contract import Callback, LearnerProtocol, LearnerWarning, Order
from callbacks.core.ranks import ALONE
from learner.messages.problems import report_problems
from learner.passes import positions
from learner.passes.epoch_numbers import needs_no_number, out_of_reach, set_epoch
from learner.state.protocol import FullLearner, full


class PassWatch(Callback):
    """Pass the epoch number to the data, and report a wrong length."""

    order = Order.PREPARE
    reads_gradients = False

    def __init__(self) -> None:
        super().__init__(name="pass_watch")
        self._has_started = self._is_checked = False
        self._agreed: Any = None  # the training loader whose order all processes have agreed on
        self._plain: Any = None  # the training loader if it takes no epoch number; checked once

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._has_started = self._is_checked = False
        self._plain = self._agreed = None

    def before_epoch(self, learn: LearnerProtocol) -> None:
        self._has_started, learn = True, full(learn)
        known = learn.loop.known
        known.ranks = learn.ranks
        known.number, known.numbered = learn.n_epochs_before + learn.epoch, {}
        loader = learn.data.train
        known.size_before = getattr(loader, "batch_size", None)
        if learn.marks_passes:
            known.note_values(learn.data)
        if loader is not self._plain:
            self._plain = loader if needs_no_number(loader) else None
            set_epoch(loader, known.number, known.numbered, is_late=False)

    def before_train(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        known = learn.loop.known
        if known.point is not None:
            known.point.check_loader(learn)
        assert known.numbered is not None
        if learn.data.train is not self._plain:  # the loader may have been replaced since
            set_epoch(learn.data.train, known.number, known.numbered)
        if learn.data.train is not self._agreed:
            self._agreed = learn.data.train
            positions.agree(learn.ranks, learn.data.loaders)
        if not self._is_checked:
            self._is_checked = True
            report_problems(out_of_reach_problems(learn.data.train))

    def after_train(self, learn: LearnerProtocol) -> None:
        share, ranks = full(learn).loop.known.share, learn.ranks
        if share is not None and share.sharded:  # the processes may have drawn different numbers of times
            ranks.random = ranks.first(lambda: ranks.random)
        self._report(full(learn), learn.data.train)

    def after_validate(self, learn: LearnerProtocol) -> None:
        self._report(full(learn), learn.data.validations.get(learn.pass_name))

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        learn = full(learn)
        known = learn.loop.known
        known.ranks, known.share, known.numbered, known.point = ALONE, None, None, None
        known.has_own_data = False
        known.at_end = dict(learn.data.loaders)
        if self._has_started or learn.resumed:
            learn.n_epochs_before += learn.epoch + (learn.error is None)
        self._has_started = False

    def _report(self, learn: FullLearner, loader: Any) -> None:
        if learn.marks_passes:
            learn.loop.known.end_pass(learn)
        source = learn.loop.known.sources.get(learn.pass_name)
        if source is not None and source.loader is loader:
            report_problems(source.report(learn.pass_name, learn.epoch, learn.reported))


def out_of_reach_problems(loader: Any) -> Iterator[Exception]:
    """Warn that persistent workers would train each epoch in the order of the first one."""
    for part in out_of_reach(loader)[:1]:
        title = type(part).__name__
        yield LearnerWarning(
            f"{title}.set_epoch has no effect: persistent workers hold copies of the data set, made before "
            "the first epoch. Leave persistent_workers=True out, or store the epoch in shared memory, as in "
            "torch.zeros((), dtype=torch.long).share_memory_()."
        )
