"""The length and the batches of each pass, from what earlier passes have shown about the loader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from callbacks.core.contract import LearnerProtocol
from callbacks.core.output import print_line
from callbacks.core.ranks import ALONE, Ranks
from learner.data.data import Data
from learner.data.leaks import checked
from learner.data.loaders import describe_loader, is_function, n_batches_of
from learner.data.samples import Samples
from learner.data.sharing import Padding, Share, Shared, check_alike, sample_of, sharding_of, unchecked
from learner.messages.problems import report_problems
from learner.passes import positions, worker_copies
from learner.passes.epoch_numbers import set_epoch
from learner.passes.lengths import is_exact, length_of
from learner.passes.moved_values import MovedValues, Values, values_in
from learner.passes.own_positions import draw_nothing_at_start, keeps_passes, past_the_end
from learner.passes.source import Source, cannot_be_rewound, title_of


class ReportingLearner(LearnerProtocol, Protocol):
    """A learner that notes what it has reported."""

    reported: set[int | str]


@dataclass
class Known:
    """What a learner knows about its data from earlier passes and fits.

    Attributes:
        sources: what the passes over each loader have shown, by the name of the pass.
        at_start: the loaders at the start of the fit, and their fingerprints then, by name.
        at_end: the loaders at the end of the last fit, by name.
        ranks: the processes that train together in this fit.
        share: which part of the current pass this process takes; None if it is alone.
        is_even: is it certain that all processes have as many batches in the current pass?
        has_own_data: has each process read data of its own in a pass of this fit?
        number: of the current epoch, over all fits; data sets use it to shuffle.
        numbered: the objects whose `set_epoch` was called in this epoch, by id; None outside of an epoch.
        size_before: the batch size of training before the callbacks of this epoch.
        point: the checkpoint from which this fit resumes, until its data is checked.
        mark: the random states at the start of the current pass, for checkpoints.
        moved: which values of the loaders' parts have changed, for checkpoints.
        samples: the data, and what one item of a training batch looks like; None if it is not known.
        loaded_samples: what one item looked like in the run that saved the loaded weights.
    """

    sources: dict[str, Source] = field(default_factory=dict)
    at_start: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    at_end: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE
    share: Share | None = None
    is_even: bool = True
    has_own_data: bool = False
    number: int = 0
    numbered: dict[int, Any] | None = None
    size_before: Any = None
    point: Any = None
    mark: dict[str, Any] | None = None
    moved: MovedValues = field(default_factory=MovedValues)
    samples: tuple[Data, Samples] | None = None
    loaded_samples: Samples | None = None

    def begin(self, learn: ReportingLearner, loader: Any, start: Any) -> tuple[int, Iterator[Any]]:
        """Start a pass, or resume the one in which a checkpoint was saved.

        Returns:
            The number of batches that are done, and an iterator over the others.
        """
        with learn.ranks.drawing_data():
            return self.begun(learn, loader, start)

    def begun(self, learn: ReportingLearner, loader: Any, start: Any) -> tuple[int, Iterator[Any]]:
        """The same, with the random numbers of the data."""
        source = None if is_exact(loader) else self.source_of(loader, learn.pass_name)
        if start:
            n_done, rest = start.batches(learn, loader)
            if source is not None:
                source.begin(n_done)
        else:
            if source is not None:
                source.begin(0, is_wanted=learn.marks_passes)
            self.mark = positions.mark(loader) if learn.marks_passes else None
            if learn.marks_passes:
                self.moved.begin_pass(loader, {})
            n_done, rest = 0, self.new_pass(learn, loader, source)
        # no second `iter`: the `__iter__` of an iterator may start the pass again
        return n_done, rest if source is None else watched(learn, source, rest)

    def new_pass(self, learn: ReportingLearner, loader: Any, source: Source | None) -> Iterator[Any]:
        """The batches of a pass from its start."""
        batches = partial(self.batches_of, learn, loader)
        restored = source if source is not None and source.is_restored else None
        if restored and restored.given is not None and getattr(loader, "persistent_workers", False):
            draw_nothing_at_start(loader)  # an earlier pass has drawn the seed of the workers
        made = batches()
        rest = compared_workers(learn, loader, made, iter(made))
        if restored is None:
            return rest
        restored.is_restored = False
        return past_the_end(loader, rest, batches)

    def without_passes(self) -> Known:
        """The knowledge before any pass, for a sandbox."""
        return Known()

    def batches_of(self, learn: ReportingLearner, loader: Any) -> Any:
        """The batches to iterate over; a loader that a function returns gets the number of the epoch too."""
        batches = learn.data.batches(loader)
        if learn.training and is_function(loader) and self.numbered is not None:
            set_epoch(batches, self.number, self.numbered)
        if learn.ranks is ALONE:
            return batches
        self.share = self.share_of(learn, batches)
        notes, stream = learn.ranks.set_counts, learn.ranks.drawing_data
        in_step = learn.training or learn.ranks.in_step
        check = partial(self.check_first, learn, loader) if learn.training else unchecked
        is_padded = self.share.sharded and in_step and not self.is_even
        padding = Padding(learn, notes) if is_padded else None
        return Shared(batches, self.share, notes, learn.data, in_step, stream, check, padding)

    def check_first(self, learn: LearnerProtocol, loader: Any, first: Any) -> None:
        """Check that all processes have drawn the same first batch."""
        check_alike(learn.ranks.gather(sample_of(first)), f"the training data, {describe_loader(loader)},")

    def share_of(self, learn: ReportingLearner, batches: Any) -> Share:
        """Which part of these batches this process takes."""
        ranks, own = learn.ranks, sharding_of(batches)
        if own is not None:
            problems = own.problems(batches, ranks)
            known = f"sharding {id(own.part)}"
            report_problems(each for each in problems if known not in learn.reported)
            learn.reported.add(known)
        sharded = ranks.sharded or own is not None
        self.has_own_data = self.has_own_data or sharded
        return Share(ranks.rank, ranks.size, ranks.each, sharded, self.number)

    def length_of(self, loader: Any, name: str) -> tuple[int | None, bool]:
        """The number of batches of a pass, and whether it is certain.

        If the length of a loader was wrong, it is the number in the last pass, until the length changes.
        """
        in_memory = is_exact(loader)
        if in_memory and self.ranks is ALONE:
            return n_batches_of(loader), True
        length = length_of(loader, self.ranks, in_step=name == "train" or self.ranks.in_step)
        n_batches, is_certain, self.is_even = length
        if n_batches is None or in_memory:
            return n_batches, n_batches is None or is_certain
        source = self.source_of(loader, name)
        if source.claim != n_batches:
            source.claim, source.given = n_batches, None
        if source.given is None:
            return n_batches, is_certain
        return source.given, source.given == n_batches

    def source_of(self, loader: Any, name: str) -> Source:
        """What is known about the loader of a pass; nothing about a new loader."""
        source = self.sources.get(name)
        if source is None or source.loader is not loader:
            source = self.sources[name] = Source(loader)
        return source

    def given_loaders(self, data: Data) -> Iterator[tuple[str, Any]]:
        """The loaders with which the fit starts, without those that a callback has replaced."""
        for part, loader in data.loaders.items():
            if loader is not None and loader is self.at_start.get(part, (loader,))[0]:
                yield part, loader

    def note_values(self, data: Data) -> None:
        """Note the values of the loaders' parts before the callbacks of an epoch."""
        self.moved.before = {part: values_in(loader) for part, loader in self.given_loaders(data)}

    def end_pass(self, learn: ReportingLearner) -> None:
        """Note which values the data itself has changed in the current pass so far."""
        loader = dict(self.given_loaders(learn.data)).get(learn.pass_name)
        if loader is not None:
            self.moved.end_pass(learn.pass_name, values_in(loader))

    def saved_values(self, learn: ReportingLearner, *, in_pass: bool) -> dict[str, dict[str, Values]]:
        """The values of the loaders' parts that have changed, for a checkpoint: by loader, then by moment.

        The moments are "now", and in a pass "before" the callbacks of the epoch and the "start" of the pass.
        """
        found = {}
        for part, loader in self.given_loaders(learn.data):
            moments = {"now": values_in(loader)}
            if in_pass:
                moments["before"] = self.moved.before.get(part, {})
            if in_pass and part == learn.pass_name:
                self.moved.end_pass(part, moments["now"])
                moments["start"] = self.moved.at_pass
            found[part] = self.moved.saved(part, moments)
        return found

    def put_values(self, data: Data, saved: dict[str, dict[str, Values]], moment: str) -> None:
        """Restore the values of a checkpoint at a moment."""
        for part, loader in self.given_loaders(data):
            moments = saved.get(part, {})
            self.moved.put(part, loader, moments.get(moment, moments.get("now", {})))

    def accounts_for(self, n_batches: int, loader: Any) -> bool:
        """Was this the length of the training data before or after its pass, or was a wrong one reported?"""
        source = self.source_of(loader, "train")
        return source.is_reported or n_batches in (source.claim, n_batches_of(loader))

    def saved_state(self, *, without: str | None) -> dict[str, Any]:
        """The state of the loaders in a checkpoint; only of those that the fit started with.

        Args:
            without: leave out the last pass of this name, because it is the current pass, which resumes in
                another way.
        """
        found = {}
        for part, source in self.sources.items():
            if source.loader is self.at_start.get(part, (None,))[0]:
                found[part] = source.saved_state(with_this=part != without, group=self.ranks.group)
        return found

    def catch_up(self, data: Data, kept: dict[str, Any]) -> None:
        """Advance new loaders to the position of those in a checkpoint.

        Warns:
            LearnerWarning: a loader has yielded more batches than then, and the next ones depend on that.
        """
        for part, state in kept.items():
            loader = data.loaders.get(part)
            if loader is None or is_exact(loader):
                continue
            source = self.source_of(loader, part)
            source.is_restored = keeps_passes(loader)
            n_fetched = source.catch_up(state, lambda loader=loader: data.batches(loader))
            name = title_of(part)
            if n_fetched:
                print_line(
                    f"the {name} data may continue over epochs: {n_fetched} batches were fetched again"
                )
            elif n_fetched is None and source.continues:
                report_problems([cannot_be_rewound(name, loader)])


def compared_workers(
    learn: ReportingLearner, loader: Any, made: Any, batches: Iterator[Any]
) -> Iterator[Any]:
    """The batches of `made`; in a first pass over an iterable data set, its workers are compared."""
    if learn.ranks is not ALONE or not worker_copies.may_be_copies(made):
        return batches
    known = f"workers of {id(loader)}"
    if known in learn.reported:
        return batches
    learn.reported.add(known)
    return worker_copies.compared(made, batches, title_of(learn.pass_name))


def watched(learn: LearnerProtocol, source: Source, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches and count them."""
    n_expected = source.claim if source.given is None else source.given
    n_fetched = source.n_fetched
    for batch in checked(batches):
        if n_expected is not None and n_fetched >= n_expected == learn.n_batches:
            learn.n_batches = None  # there are more batches than claimed, and their number is unknown
        n_fetched += 1
        source.n_fetched = n_fetched
        if source.is_unknown:
            source.look(learn.marks_passes)
        yield batch
    source.end()
