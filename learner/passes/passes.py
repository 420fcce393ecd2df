"""The length and the batches of a loader in each pass, and what is known of it after earlier passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from callbacks.core.contract import LearnerWarning
from callbacks.core.output import print_line
from learner.data.leaks import checked
from learner.data.loaders import describe_loader, is_function, n_batches_of
from learner.data.tensors import counted
from learner.messages.problems import tell
from learner.passes import positions, streams
from learner.passes.epoch_numbers import number_of_epoch, set_epoch

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
        begun: by name, the loaders with which the fit began, and what they told of themselves.
        ended: by name, the loaders with which the last fit ended.
        told_epoch: what has been given the number of this epoch, by id; None outside of an epoch.
        size_before: the batch size of training before the callbacks of this epoch.
        point: the checkpoint from which this fit continues, until its data is checked.
    """

    sources: dict[bool, Source] = field(default_factory=dict)
    begun: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    ended: dict[str, Any] = field(default_factory=dict)
    told_epoch: dict[int, Any] | None = None
    size_before: Any = None
    point: Any = None


def to_keep(learn: Any, *, in_pass: bool) -> dict[str, Any]:
    """What a checkpoint holds of the loaders with which the fit began, as far as they need it.

    Args:
        learn: the learner.
        in_pass: is the last pass under way? It is continued in another way.
    """
    found = {}
    for training, source in learn._known.sources.items():
        part = "train" if training else "valid"
        if source.loader is learn._known.begun.get(part, (None,))[0]:
            found[part] = source.to_keep(with_this=not in_pass or training is not learn.training)
    return found


def catch_up(learn: Any, kept: dict[str, Any]) -> None:
    """Advance new loaders to the position of those in a checkpoint.

    Warns:
        LearnerWarning: a loader has given more than it had then, and the next batch depends on that.
    """
    for part, state in kept.items():
        loader = getattr(learn.data, part)
        if loader is None or is_exact(loader):
            continue
        source = source_of(learn, loader, part == "train")
        n_fetched = source.catch_up(state, lambda loader=loader: learn.data.batches(loader))
        name = TITLES[part == "train"]
        if n_fetched:
            print_line(f"the {name} data may continue over epochs: {n_fetched} batches were fetched again")
        elif n_fetched is None and source.continues:
            tell(
                [
                    LearnerWarning(
                        f"the {name} data, {describe_loader(loader)}, continues from epoch to epoch, and "
                        "has yielded more than when the checkpoint was saved: it cannot be rewound, so the "
                        "batches will differ. Create the data again, or start the script again."
                    )
                ]
            )


def source_of(learn: Any, loader: Any, training: bool) -> Source:
    """What is known of the loader of a pass; another loader in its place begins with nothing known."""
    source = learn._known.sources.get(training)
    if source is None or source.loader is not loader:
        source = learn._known.sources[training] = Source(loader)
    return source


def is_reported(learn: Any) -> bool:
    """Is it known to the user that the length of the training data is not true?"""
    return True in learn._known.sources and learn._known.sources[True].is_reported


def length_of(learn: Any, loader: Any) -> tuple[int | None, bool]:
    """How many batches a pass has, and is that certain?

    A loader whose length was wrong has as many as it gave last, until it claims another length.
    """
    n_batches = n_batches_of(loader)
    if n_batches is None or is_exact(loader):
        return n_batches, True
    source = source_of(learn, loader, learn.training)
    if source.claim != n_batches:
        source.claim, source.given = n_batches, None
    if source.given is None:
        return n_batches, has_exact_length(loader)
    return source.given, source.given == n_batches


def begin(learn: Any, loader: Any) -> tuple[int, Any]:
    """Begin a pass, or continue the one that a checkpoint was saved in.

    Returns:
        How many of its batches are done, and the others.
    """
    source = None if is_exact(loader) else source_of(learn, loader, learn.training)
    if learn._resume:
        n_done, rest = learn._resume.go_on(learn, loader)
        if source is not None:
            source.begin(n_done)
    else:
        if source is not None:
            source.begin(0, is_wanted=learn.marks_passes)
        learn._mark = positions.mark(loader) if learn.marks_passes else None
        n_done, rest = 0, iter(batches_of(learn, loader))
    # not iterated a second time: an iterator's own `__iter__` may begin the pass again
    return n_done, rest if source is None else watched(learn, source, rest)


def batches_of(learn: Any, loader: Any) -> Any:
    """What to iterate over; a loader that a function gave gets the number of the epoch too."""
    batches = learn.data.batches(loader)
    if learn.training and is_function(loader) and learn._known.told_epoch is not None:
        set_epoch(batches, number_of_epoch(learn), learn._known.told_epoch)
    return batches


def watched(learn: Any, source: Source, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches and count them."""
    n_expected = source.claim if source.given is None else source.given
    n_fetched = source.n_fetched
    for batch in checked(batches):
        if n_expected is not None and n_fetched >= n_expected == learn.n_batches:
            learn.n_batches = None  # it has more than it said, nobody knows how many
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
