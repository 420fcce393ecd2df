"""What the passes over a loader have shown: its length, and whether it continues from pass to pass."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from callbacks.core.contract import LearnerWarning
from learner.data import workers
from learner.data.loaders import describe_loader, holds_iterators
from learner.data.tensors import counted
from learner.passes.own_positions import has_own_position
from learner.passes.streams import depends_on_the_last, is_unchanged, state_of


class Source:
    """Facts about a loader that the passes over it have shown.

    Args:
        loader: the loader or function in the data.

    Attributes:
        n_fetched: the number of batches in the current pass.
        is_whole: has the current pass come to its end?
        earlier: for the passes before: the number of batches, whether the pass was whole, and how many equal
            passes there were in a row.
        continues: does a pass start where the last one ended? None while this is unknown.
        is_unknown: must the loader be examined after the next batch?
        claim: its `len` when the last pass started; None if it has no `len`.
        given: the number of batches of the last whole pass; None before there was one.
        is_reported: was a wrong length reported?
        is_restored: was the loader restored from a checkpoint, and has no new pass started since?
    """

    n_fetched: int
    is_whole: bool
    is_unknown: bool
    is_reported: bool
    is_restored: bool

    def __init__(self, loader: Any):
        self.loader = loader
        self.n_fetched, self.is_whole = 0, False
        self.earlier: list[list[Any]] = []
        self.continues: bool | None = None
        self.is_unknown = True
        self.claim: int | None = None
        self.given: int | None = None
        self.is_reported = self._was_right = self.is_restored = False
        self._has_started, self._n_resumed = False, 0
        self._before: dict[str, Any] | None = None  # the loader's state before this pass
        self._seen: dict[str, Any] | None = None  # the loader's state after the first batch of a pass

    def begin(self, n_done: int, *, is_wanted: bool = False) -> None:
        """Start a pass after `n_done` batches; with `is_wanted`, compare the loader's state at its end."""
        self._before = state_of(self.loader) if is_wanted and self.continues is None else None
        self.earlier = self.so_far()
        self.n_fetched, self.is_whole, self._has_started = n_done, False, True
        self._n_resumed = n_done
        self.is_unknown = self.continues is None

    def end(self) -> None:
        """End a pass at the end of the loader."""
        self.is_whole, self.given = True, self.n_fetched
        if self._before is not None and is_unchanged(self._before, state_of(self.loader)):
            self.continues = False
        self._before = None

    def so_far(self, *, with_this: bool = True) -> list[list[Any]]:
        """All passes, with the current one if it has started; equal passes in a row are one entry."""
        found = [list(each) for each in self.earlier]
        if with_this and self._has_started:
            if found and found[-1][:2] == [self.n_fetched, self.is_whole]:
                found[-1][2] += 1
            else:
                found.append([self.n_fetched, self.is_whole, 1])
        return found

    def look(self, is_wanted: bool) -> None:
        """Compare the loader's state after the first batch of this pass with that of the pass before."""
        self.is_unknown = False
        if not is_wanted:
            return
        seen = state_of(self.loader)
        if not seen:
            self.continues = False
        elif self._seen is not None:
            self.continues = depends_on_the_last(self._seen, seen)
        self._seen = seen

    def saved_state(self, *, with_this: bool, group: int = 1) -> dict[str, Any]:
        """The state of the loader in a checkpoint: no passes if each of them starts again.

        Args:
            with_this: include the current pass.
            group: the number of batches that the processes took in one step.
        """
        passes = [] if self.continues is False else self.so_far(with_this=with_this)
        return {
            "passes": [[n * group, *others] for n, *others in passes],
            "continues": self.continues,
            "claim": self.claim,
            "given": self.given,
            "is_reported": self.is_reported,
        }

    def catch_up(self, kept: dict[str, Any], batches: Any) -> int | None:
        """Fetch the batches of all passes before a checkpoint again, and restore what was known.

        Args:
            kept: what `saved_state` returned.
            batches: a function that returns the batches of a pass.

        Returns:
            The number of batches that were fetched; None if this loader has already yielded more.
        """
        n_fetched = 0 if self.is_restored else self._fetch_again(kept, batches)
        self.claim, self.given, self.is_reported = kept["claim"], kept["given"], kept["is_reported"]
        return n_fetched

    def _fetch_again(self, kept: dict[str, Any], batches: Any) -> int | None:
        self.continues = kept["continues"]
        if self.continues is False:
            return 0
        rest = remaining(self.so_far(), kept["passes"])
        if rest is None:
            return None
        n_fetched = 0
        for n_batches, is_whole in rest:
            self.begin(0)
            again = self._again(batches)
            self.n_fetched = sum(1 for _ in islice(again, n_batches))
            if is_whole:
                next(again, None)
                self.end()
            n_fetched += self.n_fetched
        self.is_unknown = self.continues is None
        return n_fetched

    def _again(self, batches: Any) -> Iterator[Any]:
        if workers.is_torchs_own(self.loader) and not holds_iterators(self.loader.dataset):
            return iter(self.loader._index_sampler)  # the items depend on their indices alone
        return iter(batches())

    def report(self, name: str, epoch: int, reported: set[Any]) -> Iterator[Exception]:
        """Report a wrong length once.

        Args:
            name: of the pass, such as `"train"`.
            epoch: of the pass.
            reported: what was reported before, in a sandbox too; this report is added.
        """
        n_given, claim = self.n_fetched, self.claim
        if claim is None or self.is_reported or n_given == claim or (n_given < claim and not self.is_whole):
            self._was_right = self._was_right or n_given == claim
            return
        if name == "train" and self._was_right and n_given < claim:
            return  # the loader is used up, which EpochWatch reports
        self.is_reported = True
        if f"length {id(self.loader)}" in reported:
            return
        reported.add(f"length {id(self.loader)}")
        yield LearnerWarning(self._words(f"the {title_of(name)} data", epoch))

    def _words(self, data: str, epoch: int) -> str:
        n_given, claim, n_resumed = self.n_fetched, self.claim or 0, self._n_resumed
        if n_resumed and n_given == claim + n_resumed and has_own_position(self.loader):
            kind = type(self.loader).__name__
            return (
                f"{data} yielded all {claim} batches of the pass again after the run resumed, although "
                f"{n_resumed} of them had been used: {kind}.state_dict must contain the position in the "
                f"pass, and after {kind}.load_state_dict, the next iteration must yield only the rest."
            )
        more = "" if self.is_whole else "at least "
        why = ", or find out why its batches end early" if n_given < claim else ""
        return (
            f"{data} claims to have {counted(claim, 'batch', 'batches')}, but yielded {more}{n_given} in "
            f"epoch {epoch}: {describe_loader(self.loader)}. Schedules were wrong in this epoch; from now "
            "on, schedules, accumulation and progress use the true number. Correct the __len__ of the "
            f"loader{why}."
        )


def title_of(name: str) -> str:
    """The words for the data of a pass, in messages."""
    return {"train": "training", "valid": "validation"}.get(name, f"{name!r} validation")


def remaining(done: list[list[Any]], wanted: list[list[Any]]) -> list[tuple[int, bool]] | None:
    """The passes that are missing, one by one; None if the ones that are done differ."""
    have = [(n, whole) for n, whole, times in done for _ in range(times)]
    want = [(n, whole) for n, whole, times in wanted for _ in range(times)]
    return want[len(have) :] if want[: len(have)] == have else None


def cannot_be_rewound(name: str, loader: Any) -> Exception:
    """The warning for data that has passed the position of a checkpoint."""
    return LearnerWarning(
        f"the {name} data, {describe_loader(loader)}, continues from epoch to epoch, and "
        "has yielded more than when the checkpoint was saved: it cannot be rewound, so the "
        "batches will differ. Create the data again, or start the script again."
    )
