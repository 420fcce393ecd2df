"""What `MixUp`, `CutMix` and `LabelMix` have in common: a loss against the targets of two items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.draws import OwnDraws, PythonState
from callbacks.core.output import with_article
from callbacks.core.registry import describe
from callbacks.core.settings import check_number
from callbacks.core.when import window_of
from callbacks.model.held import Held

ONE_AT_A_TIME = (
    "Leave one out, or let them take turns, as in When(MixUp(), until='5 epochs') and "
    "When(CutMix(), start='5 epochs')."
)


class MixedLoss(partial[Any]):
    """A loss function that adds the loss against the targets `shift` items further on.

    It is a `partial`, so that code that looks up the loss function finds the one inside.
    """

    shift = 0
    share = 1.0  # of the loss against an item's own target
    was_called = False

    def __call__(self, preds: Any, *targets: Any) -> Any:
        self.was_called = True
        own = super().__call__(preds, *targets)
        if not self.shift:
            return own
        others = [each.roll(self.shift, 0) if isinstance(each, Tensor) else each for each in targets]
        return self.share * own + (1 - self.share) * super().__call__(preds, *others)


class Mixer(Callback):
    """A callback that mixes each item of a training batch with another one, and the loss likewise.

    The other item is `shift` items further on in the batch; `shift` is drawn for each batch. Subclasses
    implement `mix`.

    Args:
        p: share of the batches that are mixed, in (0, 1].
        seed: seed of its own random numbers; None draws one from torch's random state.
    """

    order = Order.TRANSFORM
    state = ("draws",)
    draws = Held[PythonState | None]("_draws", "state", "The state of its random numbers.")

    def __init__(self, p: float, seed: int | None, name: str | None):
        super().__init__(name=name)
        self._title = type(self).__name__
        self.p, self._draws = check_share(self._title, "p", p), OwnDraws(self._title, seed)
        self._loss: MixedLoss | None = None
        self._before: Callable[..., Any] | None = None
        self._suspended = 0  # shift of the current batch, during a validation in the middle of it

    def mix(self, learn: LearnerProtocol, shift: int) -> float:
        """Mix the inputs, unless `shift` is 0; returns the share of the loss against an item's own target."""
        raise NotImplementedError

    def before_fit(self, learn: LearnerProtocol) -> None:
        if learn.loss_func is None:
            raise ValueError(
                f"{self._title}: loss_func is None, so the model computes its loss itself, and that "
                "cannot be mixed. Pass a function of (preds, targets) as Learner(..., loss_func=...)."
            )
        for each in learn.callbacks:
            is_another = each is not self and isinstance(each, Mixer)
            if is_another and not (window_of(each) and window_of(self)):
                raise ValueError(f"{describe(self)} and {describe(each)} both mix the batch. {ONE_AT_A_TIME}")
        _ = self._draws.source

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        self._replace_loss(learn)
        self._disarm()  # a batch may have been cancelled
        n_items, drawn = learn.n_items, self._draws.source.random()
        shift = self._draws.source.randrange(1, n_items) if n_items > 1 and drawn < self.p else 0
        share = self.mix(learn, shift)
        if shift:
            check_targets(self._title, learn)
            if self._loss is not None:
                self._loss.shift = 0 if share == 1 else shift  # a weight of 0 would not hide an infinite loss
                self._loss.share, self._loss.was_called = share, False

    def after_loss(self, learn: LearnerProtocol) -> None:
        if self._loss is not None and self._loss.shift and not self._loss.was_called and learn.training:
            raise ValueError(
                f"{self._title}: the loss was computed without learn.loss_func, so it was not mixed. Let "
                f"compute_loss call learn.loss_func(preds, targets), or leave {self._title} out."
            )

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._disarm()

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._suspended = 0 if self._loss is None else self._loss.shift
        self._disarm()

    def after_validate(self, learn: LearnerProtocol) -> None:
        if self._loss is not None and self._suspended:
            self._loss.shift = self._suspended
        self._suspended = 0

    def _restore_loss(self, learn: LearnerProtocol) -> None:
        if self._loss is not None and learn.loss_func is self._loss:
            learn.loss_func = self._before
        self._loss = self._before = None

    after_train = after_epoch = cleanup_fit = _restore_loss  # a cancel may end the pass without `after_train`

    def _disarm(self) -> None:
        if self._loss is not None:
            self._loss.shift = 0

    def _replace_loss(self, learn: LearnerProtocol) -> None:
        if isinstance(learn.loss_func, MixedLoss) and learn.loss_func is not self._loss:
            raise ValueError(
                f"{self._title}: another callback mixes in epoch {learn.epoch} too. {ONE_AT_A_TIME}"
            )
        if learn.loss_func is not self._loss and learn.loss_func is not None:  # even if it was replaced
            self._before, self._loss = learn.loss_func, MixedLoss(learn.loss_func)
            learn.loss_func = self._loss


def check_alpha(owner: str, alpha: Any) -> float:
    """A number above 0."""
    return check_number(owner, "alpha", alpha, lambda x: x > 0, "a number above 0, such as 0.4")


def check_share(owner: str, argument: str, share: Any) -> float:
    """A number above 0 and at most 1."""
    form = "a number above 0, of at most 1, such as 0.5"
    return check_number(owner, argument, share, lambda x: 0 < x <= 1, form)


def map_inputs(owner: str, learn: LearnerProtocol, function: Callable[[Tensor], Tensor]) -> Any:
    """The mixed inputs; those of the batch stay as they are."""

    def mixed(name: Any, item: Any) -> Tensor:
        is_float = isinstance(item, Tensor) and item.is_floating_point()
        if is_float and not is_rows(item, learn.n_items):
            raise TypeError(
                f"{owner}: the input {name!r} is {shown(item)} and the targets are {shown(learn.targets)}, "
                f"but the batch has {learn.n_items} items: each needs one row per item to be mixed."
            )
        if not is_float:
            raise TypeError(
                f"{owner}: the input {name!r} is {shown(item)}, which cannot be mixed: pass float tensors "
                "with one row per item, such as images.float(). Words can be mixed only after their "
                "embedding. LabelMix mixes only the targets."
            )
        return function(item)

    inputs = learn.inputs
    if isinstance(inputs, Mapping):
        return {name: mixed(name, item) for name, item in inputs.items()}
    if type(inputs) is tuple:
        return tuple([mixed(n, item) for n, item in enumerate(inputs)])
    return mixed(0, inputs)


def check_targets(owner: str, learn: LearnerProtocol) -> None:
    """Refuse targets that do not have one row per item."""
    targets = learn.targets if type(learn.targets) is tuple else (learn.targets,)
    for each in targets:
        if not is_rows(each, learn.n_items):
            raise TypeError(
                f"{owner}: the targets are {shown(each)}, which cannot be mixed: pass a tensor with one "
                "row per item, such as class indices."
            )


def is_rows(item: Any, n_items: int) -> bool:
    """Is it a tensor with one row per item?"""
    return isinstance(item, Tensor) and item.ndim > 0 and len(item) == n_items


def shown(item: Any) -> str:
    """What a message calls an input or target."""
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)} and {str(item.dtype).removeprefix('torch.')}"
    return "None" if item is None else with_article(item)
