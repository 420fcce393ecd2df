"""The loss against the targets of two items, for plug-ins that mix; each holds a `Mixing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.draws import OwnDraws, PythonState
from callbacks.core.registry import describe
from callbacks.core.settings import is_number
from callbacks.core.when import When, unwrapped

ONE_AT_A_TIME = (
    "Leave one out, or give each its time, as When(MixUp(), until='5 epochs') and "
    "When(CutMix(), start='5 epochs')."
)


class MixedLoss(partial[Any]):
    """A loss function that, while `shift` is not 0, mixes in the loss against the targets so many places on.

    It is a `partial`, so that those who look which loss it is find the one within.
    """

    shift = 0  # places in the batch
    share = 1.0  # of the loss against an item's own target
    was_called = False

    def __call__(self, preds: Any, *targets: Any) -> Any:
        self.was_called = True
        own = super().__call__(preds, *targets)
        if not self.shift:
            return own
        others = [each.roll(self.shift, 0) if isinstance(each, Tensor) else each for each in targets]
        return self.share * own + (1 - self.share) * super().__call__(preds, *others)


class Mixing:
    """What those that mix have in common: a stream of random numbers, and the loss that is mixed.

    Args:
        owner: the plug-in's class, for messages.
        seed: of the random numbers.
    """

    def __init__(self, owner: str, seed: int | None):
        self.owner, self.draws = owner, OwnDraws(owner, seed)
        self._loss: MixedLoss | None = None
        self._before: Callable[..., Any] | None = None
        self._suspended = 0  # places in the batch under way, while there is a validation

    def begin(self, learn: LearnerProtocol, plugin: Callback) -> None:
        """Check that the loss can be mixed, and by this plug-in alone; begin the random numbers."""
        if learn.loss_func is None:
            raise ValueError(
                f"{self.owner}: loss_func is None, so the model computes its loss itself, and that "
                "cannot be mixed. Pass Learner(..., loss_func=...) a function of (preds, targets)."
            )
        held = {id(unwrapped(each)): isinstance(each, When) for each in learn.callbacks}
        for each in map(unwrapped, learn.callbacks):
            is_another = each is not plugin and isinstance(vars(each).get("_mixing"), Mixing)
            if is_another and not (held[id(each)] and held[id(plugin)]):
                raise ValueError(
                    f"{describe(plugin)} and {describe(each)} both mix the batch. {ONE_AT_A_TIME}"
                )
        _ = self.draws.source

    def draw_shift(self, learn: LearnerProtocol, p: float) -> int:
        """How many places on the other item is; 0 where this batch is not mixed."""
        self._put_in(learn)
        self.disarm()  # a batch may have been cancelled
        n_items, drawn = learn.n_items, self.draws.source.random()
        return self.draws.source.randrange(1, n_items) if n_items > 1 and drawn < p else 0

    def take_out(self, learn: LearnerProtocol) -> None:
        """Put the learner's loss function back."""
        if self._loss is not None and learn.loss_func is self._loss:
            learn.loss_func = self._before
        self._loss = self._before = None

    def arm(self, learn: LearnerProtocol, shift: int, share: float) -> None:
        """Mix the loss of this batch."""
        check_targets(self.owner, learn)
        if self._loss is not None:
            self._loss.shift = 0 if share == 1 else shift  # a weight of 0 would not hide an infinite loss
            self._loss.share, self._loss.was_called = share, False

    def disarm(self) -> None:
        """Mix no loss until the next batch."""
        if self._loss is not None:
            self._loss.shift = 0

    def suspend(self) -> None:
        """Mix no loss in a validation, which may be in the middle of a batch."""
        self._suspended = 0 if self._loss is None else self._loss.shift
        self.disarm()

    def resume(self) -> None:
        """Mix the loss of the batch again that was under way before a validation."""
        if self._loss is not None and self._suspended:
            self._loss.shift = self._suspended
        self._suspended = 0

    def check_used(self, learn: LearnerProtocol) -> None:
        """Refuse a loss that was computed in another way, so that it was not mixed."""
        if self._loss is not None and self._loss.shift and not self._loss.was_called and learn.training:
            raise ValueError(
                f"{self.owner}: the loss was computed without learn.loss_func, so it was not mixed. Let "
                f"compute_loss call learn.loss_func(preds, targets), or leave {self.owner} out."
            )

    def _put_in(self, learn: LearnerProtocol) -> None:
        """Take the place of the learner's loss function."""
        if isinstance(learn.loss_func, MixedLoss) and learn.loss_func is not self._loss:
            raise ValueError(
                f"{self.owner}: another plug-in mixes in epoch {learn.epoch} too. {ONE_AT_A_TIME}"
            )
        if learn.loss_func is not self._loss and learn.loss_func is not None:  # somebody may have set another
            self._before, self._loss = learn.loss_func, MixedLoss(learn.loss_func)
            learn.loss_func = self._loss


# The hooks and the state that all who mix have in common: each assigns them in its class.


def suspend(self: Any, learn: LearnerProtocol) -> None:
    """Before a validation, which may be in the middle of a batch."""
    self._mixing.suspend()


def resume(self: Any, learn: LearnerProtocol) -> None:
    """After it."""
    self._mixing.resume()


def check_used(self: Any, learn: LearnerProtocol) -> None:
    """After the loss, see that it was mixed."""
    self._mixing.check_used(learn)


def disarm(self: Any, learn: LearnerProtocol) -> None:
    """After a batch, mix no loss."""
    self._mixing.disarm()


def take_out(self: Any, learn: LearnerProtocol) -> None:
    """After the training pass, and after the epoch and the fit, whose pass a cancel may have left open."""
    self._mixing.take_out(learn)


def draws_of(self: Any) -> PythonState | None:
    """The state of its random numbers."""
    return self._mixing.draws.state


def put_draws(self: Any, state: PythonState | None) -> None:
    """Put back what `draws_of` gave."""
    self._mixing.draws.state = state


def check_alpha(owner: str, alpha: Any) -> float:
    """A positive number."""
    if not is_number(alpha) or alpha <= 0:
        raise ValueError(f"{owner}(alpha={alpha!r}): write a number above 0, as 0.4.")
    return alpha


def check_share(owner: str, argument: str, share: Any) -> float:
    """A number above 0, of at most 1."""
    if not is_number(share) or not 0 < share <= 1:
        raise ValueError(f"{owner}({argument}={share!r}): write a number above 0, of at most 1, as 0.5.")
    return share


def map_inputs(owner: str, learn: LearnerProtocol, function: Callable[[Tensor], Tensor]) -> Any:
    """Mix each input; the batch itself stays as it is.

    Raises:
        TypeError: one is not a tensor of floating-point numbers with one row per item.
    """

    def mixed(name: Any, item: Any) -> Tensor:
        is_float = isinstance(item, Tensor) and item.is_floating_point()
        if is_float and not is_rows(item, learn.n_items):
            raise TypeError(
                f"{owner}: the input {name!r} is {told(item)} and the targets are {told(learn.targets)}, but "
                f"the batch has {learn.n_items} items: each needs one row per item to be mixed."
            )
        if not is_float:
            raise TypeError(
                f"{owner}: the input {name!r} is {told(item)}, which cannot be mixed: give the model "
                "tensors of floats with a row an item, as images.float(). Words can be mixed only once they "
                "are embedded. LabelMix mixes targets alone."
            )
        return function(item)

    inputs = learn.inputs
    if isinstance(inputs, Mapping):
        return {name: mixed(name, item) for name, item in inputs.items()}
    if type(inputs) is tuple:
        return tuple([mixed(n, item) for n, item in enumerate(inputs)])
    return mixed(0, inputs)


def check_targets(owner: str, learn: LearnerProtocol) -> None:
    """Refuse targets of which the items cannot be told apart."""
    targets = learn.targets if type(learn.targets) is tuple else (learn.targets,)
    for each in targets:
        if not is_rows(each, learn.n_items):
            raise TypeError(
                f"{owner}: the targets are {told(each)}, which cannot be mixed: give a tensor with a row "
                "an item, as the numbers of the classes."
            )


def is_rows(item: Any, n_items: int) -> bool:
    """A tensor with a row an item?"""
    return isinstance(item, Tensor) and item.ndim > 0 and len(item) == n_items


def told(item: Any) -> str:
    """What something is, for messages."""
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)} and {str(item.dtype).removeprefix('torch.')}"
    return "None" if item is None else f"a {type(item).__name__}"
