"""The length and the batches of a loader in each pass, and what is known of it after earlier passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from callbacks.core.contract import LearnerProtocol, LearnerWarning
from callbacks.core.output import print_line
from learner.data.data import Data
from learner.data.leaks import checked
from learner.data.loaders import describe_loader, is_function, n_batches_of
from learner.data.tensors import counted
from learner.messages.problems import report_problems
from learner.passes import positions, streams
from learner.passes.epoch_numbers import set_epoch

TITLES = {True: "training", False: "validation"}


class Source(streams.Passes):
    """What is known of a loader from the passes over it.

    Args:
        loader: what was given as data.

    Attributes:
        claim: its length when the last pass began; None where it has none.
        given: how many batches the last whole pass gave; None before there was one.
        is_reported: has a wrong length been reported?
    """

    def __init__(self, loader: Any):
        super().__init__(loader)
        self.claim: int | None = None
        self.given: int | None = None
        self.is_reported = self._was_right = False

    def to_keep(self, *, with_this: bool) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            **super().to_keep(with_this=with_this),
            "claim": self.claim,
            "given": self.given,
            "is_reported": self.is_reported,
        }

    def catch_up(self, kept: dict[str, Any], batches: Any) -> int | None:
        """Fetch what was fetched before a checkpoint, and know of its length what was known."""
        n_fetched = super().catch_up(kept, batches)
        self.claim, self.given, self.is_reported = kept["claim"], kept["given"], kept["is_reported"]
        return n_fetched

    def report(self, training: bool, epoch: int, told: set[Any]) -> Iterator[Exception]:
        """Report a wrong length, once.

        Args:
            training: is it the training data?
            epoch: of the pass.
            told: what was already reported, also in a sandbox; this is added.
        """
        n_given, claim = self.n_fetched, self.claim
        if claim is None or self.is_reported or n_given == claim or (n_given < claim and not self.is_whole):
            self._was_right = self._was_right or n_given == claim
            return
        if training and self._was_right and n_given < claim:
            return  # it is used up: EpochWatch says that
        self.is_reported = True
        if f"length {id(self.loader)}" in told:
            return
        told.add(f"length {id(self.loader)}")
        more = "" if self.is_whole else "at least "
        yield LearnerWarning(
            f"the {TITLES[training]} data says that it has {counted(claim, 'batch', 'batches')}, and "
            f"gave {more}{n_given} in epoch {epoch}: {describe_loader(self.loader)}. A schedule was wrong in "
            "this epoch; schedules, accumulation and progress now go by what it gives. Correct its __len__, "
            "or look for what ends its batches early."
        )


@dataclass
class Known:
    """What a learner knows of its data, over passes and fits.

    Attributes:
        sources: of the loader of training (True) and of validation (False), what its passes gave.
        begun: by name, the loaders with which the fit began, and their fingerprints then.
        ended: by name, the loaders with which the last fit ended.
        number: of the epoch under way, over all fits; data sets shuffle by it.
        numbered: what has been given the number of this epoch, by id; None outside of an epoch.
        size_before: the batch size of training before the callbacks of this epoch.
        point: the checkpoint from which this fit continues, until its data is checked.
        mark: what the pass under way draws from, taken at its start, for checkpoints.
    """

    sources: dict[bool, Source] = field(default_factory=dict)
    begun: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    ended: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    numbered: dict[int, Any] | None = None
    size_before: Any = None
    point: Any = None
    mark: dict[str, Any] | None = None

    def begin(self, learn: LearnerProtocol, loader: Any, start: Any) -> tuple[int, Iterator[Any]]:
        """Begin a pass, or resume the one in which a checkpoint was saved.

        Returns:
            How many of its batches are done, and the other ones.
        """
        source = None if is_exact(loader) else self.source_of(loader, learn.training)
        if start:
            n_done, rest = start.batches(learn, loader)
            if source is not None:
                source.begin(n_done)
        else:
            if source is not None:
                source.begin(0, is_wanted=learn.marks_passes)
            self.mark = positions.mark(loader) if learn.marks_passes else None
            n_done, rest = 0, iter(self.batches_of(learn, loader))
        # not iterated a second time: an iterator's own `__iter__` may begin the pass again
        return n_done, rest if source is None else watched(learn, source, rest)

    def batches_of(self, learn: LearnerProtocol, loader: Any) -> Any:
        """What to iterate over; a loader that a function returned gets the number of the epoch too."""
        batches = learn.data.batches(loader)
        if learn.training and is_function(loader) and self.numbered is not None:
            set_epoch(batches, self.number, self.numbered)
        return batches

    def length_of(self, loader: Any, training: bool) -> tuple[int | None, bool]:
        """How many batches a pass has, and is that certain?

        A loader whose length was wrong has as many as it gave last, until it claims another length.
        """
        n_batches = n_batches_of(loader)
        if n_batches is None or is_exact(loader):
            return n_batches, True
        source = self.source_of(loader, training)
        if source.claim != n_batches:
            source.claim, source.given = n_batches, None
        if source.given is None:
            return n_batches, has_exact_length(loader)
        return source.given, source.given == n_batches

    def source_of(self, loader: Any, training: bool) -> Source:
        """What is known of the loader of a pass; a new loader starts with nothing known."""
        source = self.sources.get(training)
        if source is None or source.loader is not loader:
            source = self.sources[training] = Source(loader)
        return source

    def has_wrong_length(self) -> bool:
        """Was the user warned that the length of the training data is wrong?"""
        return True in self.sources and self.sources[True].is_reported

    def to_keep(self, *, without: bool | None) -> dict[str, Any]:
        """What a checkpoint holds of the loaders with which the fit began, as far as they need it.

        Args:
            without: leave out the last pass in training (True) or validation (False): it is under way, and
                resumed in another way.
        """
        found = {}
        for training, source in self.sources.items():
            part = "train" if training else "valid"
            if source.loader is self.begun.get(part, (None,))[0]:
                found[part] = source.to_keep(with_this=training is not without)
        return found

    def catch_up(self, data: Data, kept: dict[str, Any]) -> None:
        """Advance new loaders to the position of those in a checkpoint.

        Warns:
            LearnerWarning: a loader has given more than it had then, and the next batch depends on that.
        """
        for part, state in kept.items():
            loader = getattr(data, part)
            if loader is None or is_exact(loader):
                continue
            source = self.source_of(loader, part == "train")
            n_fetched = source.catch_up(state, lambda loader=loader: data.batches(loader))
            name = TITLES[part == "train"]
            if n_fetched:
                print_line(
                    f"the {name} data may continue over epochs: {n_fetched} batches were fetched again"
                )
            elif n_fetched is None and source.continues:
                report_problems([cannot_be_rewound(name, loader)])


def cannot_be_rewound(name: str, loader: Any) -> Exception:
    """The warning for data that has passed the position of a checkpoint."""
    return LearnerWarning(
        f"the {name} data, {describe_loader(loader)}, continues from epoch to epoch, and "
        "has yielded more than when the checkpoint was saved: it cannot be rewound, so the "
        "batches will differ. Create the data again, or start the script again."
    )


def watched(learn: LearnerProtocol, source: Source, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches and count them."""
    n_expected = source.claim if source.given is None else source.given
    n_fetched = source.n_fetched
    for batch in checked(batches):
        if n_expected is not None and n_fetched >= n_expected == learn.n_batches:
            learn.n_batches = None  # it has more than it claimed, nobody knows how many
        n_fetched += 1
        source.n_fetched = n_fetched
        if source.is_unknown:
            source.look(learn.marks_passes)
        yield batch
    source.end()


def is_exact(loader: Any) -> bool:
    """Are the batches in memory? Then their number is known, and no user code runs between them."""
    return isinstance(loader, positions.TensorLoader) or positions.is_sequence(loader)


def has_exact_length(loader: Any) -> bool:
    """A `DataLoader` of torch's own, whose length follows from the data set's by torch's samplers."""
    if not positions.workers.is_torchs_own(loader) or type(loader).__len__ is not DataLoader.__len__:
        return False
    sampler = loader._index_sampler
    parts = (sampler, sampler.sampler) if type(sampler) is BatchSampler else (sampler,)
    return all(type(part).__module__.startswith("torch.utils.data.") for part in parts)
