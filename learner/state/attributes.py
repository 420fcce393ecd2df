"""The attributes of a learner that the loop sets: of the batch, the pass, the clock and the fit.

They are declared only here. Snapshots, copies, and passes outside a fit take the names from these classes.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import get_annotations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks.core.ranks import ALONE, Ranks
from callbacks.history.history import History
from callbacks.results.numbers import Results, as_results, results_of
from learner.data import items
from learner.data.data import Data
from learner.messages.keywords import suggest_keywords

if TYPE_CHECKING:
    from learner.state.protocol import FullLearner, LoopProtocol


class BatchState:
    """The attributes of the last batch. They are not copied, because they may belong to a graph."""

    batch: Any = None
    inputs: Any = None
    targets: Any = None
    preds: Any = None
    loss_grad: Any = None
    _loss: Any = None  # the value that compute_loss returned
    _detached: Any = None  # the same without its graph, after the first read
    _value: Any = None  # the same as a number, after the first read


class PassClock:
    """The part of the clock that starts again in each pass."""

    training: bool = False
    batch_idx: int = 0
    n_batches: int | None = None


class Clock(PassClock):
    """The clock, which snapshots and checkpoints hold."""

    epoch: int = 0
    n_epochs: int = 0
    global_step: int = 0
    n_samples: int = 0
    n_waiting: int = 0
    n_epochs_before: int = 0  # of the fits before this one


class PassState(BatchState, PassClock):
    """The attributes that a pass over data changes, and that a pass outside a fit restores."""

    length_is_certain: bool = True
    valid_name: str = "valid"  # of the data of a validation pass
    is_aside: bool = False  # is this a pass outside the fit, such as `validate` in a callback?
    stop_reason: str | None = None
    _results: Results


class FitState(PassState, Clock):
    """All attributes that the loop sets, and the properties that hooks read."""

    model: nn.Module
    data: Data
    loss_func: Callable[..., Any] | None
    optimizer: torch.optim.Optimizer
    history: History
    loop: LoopProtocol
    ranks: Ranks = ALONE
    error: BaseException | None = None
    fitting: bool = False
    abortable: bool = False  # may a second Ctrl-C raise here?
    interrupted: str | None = None
    ignores_stops: bool = False  # in trials, which have their own length
    n_fits: int = 0  # the number of finished fits
    resumed: bool = False
    marks_passes: bool = False
    loss_is_overridden: bool = False
    reported: set[int | str]  # ids of loaders, and names of attributes, for which a warning was shown
    groups_at_start: list[dict[str, Any]] | None = None  # the optimizer's; for checkpoints
    hidden_at_start: dict[str, Any] | None = None  # marks of tensors that no checkpoint holds
    given: set[str] | None = None  # the names of the callbacks at the call of `fit`

    @suggest_keywords
    def stop(self, reason: str, *, alike: bool = False) -> None:
        """End the fit at the end of the current span.

        The other hooks of the span are still called, no batch or epoch starts, and the outer spans end with
        their `after_` events.

        Args:
            reason: a text, kept as `stop_reason`; only the first one is kept.
            alike: if several processes train together, do all of them stop here, because they decide by the
                same numbers? If not, they agree on a stop with the gradients of the next batch.
        """
        if not isinstance(reason, str) or not reason:
            raise TypeError(f"stop({reason!r}): pass the reason, as in learn.stop('loss below 0.1').")
        if not self.ignores_stops or self.interrupted:
            self.ranks.stop(self, reason, alike=alike)

    @property
    def loss(self) -> Any:
        """The loss as the loss function returned it, detached; report this one."""
        if self._detached is None and self._loss is not None:
            self._detached = self._loss.detach() if isinstance(self._loss, Tensor) else self._loss
        return self._detached

    @loss.setter
    def loss(self, value: Any) -> None:
        raise AttributeError(
            "learn.loss is what the loss function returned; to change training, assign learn.loss_grad "
            "instead."
        )

    def report_loss(self, loss: Any) -> None:
        """Report another loss for this batch, such as that of all processes."""
        self._loss, self._detached, self._value = loss, None, None

    @property
    def loss_value(self) -> Any:
        """`loss` as a number on a CPU, where reading it does not wait; as it is on other devices."""
        if self._value is None:
            loss = self._loss
            self._value = loss.item() if isinstance(loss, Tensor) and loss.is_cpu else self.loss
        return self._value

    # calling `property` without a function of our own saves a Python call per batch
    n_items: int = property(items.of_batch, doc="Number of items in this batch; see `Data(n_items=...)`.")  # type: ignore[assignment]

    def _set_results(self, results: dict[str, Any]) -> None:
        self._results = as_results(results)

    results = property(results_of, _set_results, doc="What was measured in this epoch, by name.")

    @property
    def pass_name(self) -> str:
        """`"train"`, or in validation `"valid"` or the name in `Data(valid={...})`."""
        return "train" if self.training else self.valid_name

    @property
    def is_last_batch(self) -> bool:
        """Is it certain that this is the last batch of its pass?"""
        return self.batch_idx + 1 == self.n_batches and self.length_is_certain

    @property
    def failed_between_batches(self) -> bool:
        """Was the fit's error raised while a batch was fetched, so that the batch before it is complete?"""
        return self.error is not None and self.batch is not None and self.loop.place.fetching is not None

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter."""
        return next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))


def names_of(kind: type) -> tuple[str, ...]:
    """The names that one of these classes declares, after those of its bases."""
    return tuple(name for each in reversed(kind.__mro__) for name in get_annotations(each))


BATCH_STATE, CLOCK, PASS_STATE = names_of(BatchState), names_of(Clock), names_of(PassState)


Kept = tuple[dict[str, Any], tuple[Any, ...], tuple[Any, ...]]


def pass_state(learn: FullLearner) -> Kept:
    """The attributes of the current pass, and the position of the loop."""
    loop = learn.loop
    known = loop.known
    names = {name: getattr(learn, name) for name in PASS_STATE}
    of_pass = known.mark, dict(known.sources), known.share, known.is_even, known.moved.at_pass
    return names, (loop.place, loop.start), of_pass


def restore_pass_state(learn: FullLearner, kept: Kept) -> None:
    """Restore what `pass_state` returned."""
    names, position, found = kept
    vars(learn).update(names)
    learn.loop.place, learn.loop.start = position
    known = learn.loop.known
    known.mark, known.sources, known.share, known.is_even, known.moved.at_pass = found
