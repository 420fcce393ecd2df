"""Mix items of a batch: their inputs, and the loss against the targets of both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.step.mixed_loss import (
    Mixing,
    check_alpha,
    check_share,
    check_used,
    disarm,
    draws_of,
    map_inputs,
    put_draws,
    resume,
    suspend,
    take_out,
    told,
)


class MixUp(Callback):
    """Mix each item of a training batch with another: `lam * x + (1 - lam) * other`, and the loss likewise.

    The loss is `lam * loss(preds, y) + (1 - lam) * loss(preds, y_other)`, of any loss function that gives a
    mean over the batch: for cross-entropy that is the loss against the mixed labels. One `lam` a batch is
    drawn from a Beta distribution and turned to its larger side, at least 1/2, so that each picture stays
    mostly itself: `learn.targets`, with which training metrics compare, are its own. The other item is the
    one so many places on in the batch, by a number drawn for each batch. A batch of one item stays as it is.

    Args:
        alpha: both parameters of the Beta distribution, above 0: the larger, the more is mixed; 0.2 to 0.4
            for large data sets, 1 for small ones.
        p: share of the batches that are mixed, in (0, 1].
        seed: of its own random numbers; None to draw one from torch's random state. They go on from fit to
            fit.

    Raises:
        ValueError: a setting cannot be used; at the fit's begin, the learner has no loss function, or
            another plug-in mixes too; at the first batch, the loss was computed without it.
        TypeError: at the first batch, inputs or targets cannot be mixed.

    Source: Zhang et al. 2018, arXiv:1710.09412, section 2.
    """

    order = Order.TRANSFORM
    state = ("draws",)
    draws = property(draws_of, put_draws)
    after_loss = check_used
    after_batch, before_validate, after_validate = disarm, suspend, resume
    after_train = after_epoch = cleanup_fit = take_out

    def __init__(
        self, alpha: float = 0.4, *, p: float = 1.0, seed: int | None = None, name: str | None = None
    ):
        super().__init__(name=name)
        self.alpha, self.p = check_alpha("MixUp", alpha), check_share("MixUp", "p", p)
        self._mixing = Mixing("MixUp", seed)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._mixing.begin(learn, self)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        draws = self._mixing.draws.source
        shift = self._mixing.draw_shift(learn, self.p)
        drawn = draws.betavariate(self.alpha, self.alpha)
        if shift:
            share = max(drawn, 1 - drawn)
            learn.inputs = map_inputs("MixUp", learn, lambda x: torch.lerp(x, x.roll(shift, 0), 1 - share))
            self._mixing.arm(learn, shift, share)


class CutMix(Callback):
    """Paste a box of another picture into each picture of a training batch, and mix the loss by area.

    The loss is `lam * loss(preds, y) + (1 - lam) * loss(preds, y_other)`, of any loss function that gives a
    mean over the batch, where `lam` is the share of the picture that stays. One box a batch is drawn: its
    area `1 - lam` from a Beta distribution, its centre anywhere; what lies outside is cut off, and `lam` is
    that of the area really pasted. `learn.targets`, with which training metrics compare, are the picture's
    own, also where the box is the larger part. The other picture is the one so many places on in the batch,
    by a number drawn for each batch. A batch of one item stays as it is.

    Args:
        alpha: both parameters of the Beta distribution, above 0; 1 for any area alike.
        p: share of the batches that are mixed, in (0, 1].
        seed: of its own random numbers; None to draw one from torch's random state. They go on from fit to
            fit.

    Raises:
        ValueError: a setting cannot be used; at the fit's begin, the learner has no loss function, or
            another plug-in mixes too; at the first batch, the loss was computed without it.
        TypeError: at the first batch, there is not one input of shape (items, ..., height, width), or
            targets cannot be mixed: not a tensor of a row an item, or one of a value a pixel.

    Source: Yun et al. 2019, arXiv:1905.04899, equations 1 and 2, and appendix A.
    """

    order = Order.TRANSFORM
    state = ("draws",)
    draws = property(draws_of, put_draws)
    after_loss = check_used
    after_batch, before_validate, after_validate = disarm, suspend, resume
    after_train = after_epoch = cleanup_fit = take_out

    def __init__(
        self, alpha: float = 1.0, *, p: float = 1.0, seed: int | None = None, name: str | None = None
    ):
        super().__init__(name=name)
        self.alpha, self.p = check_alpha("CutMix", alpha), check_share("CutMix", "p", p)
        self._mixing = Mixing("CutMix", seed)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._mixing.begin(learn, self)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        height, width = picture_size(learn)
        shift = self._mixing.draw_shift(learn, self.p)
        (top, bottom), (left, right) = self._box(height, width)
        if shift:
            learn.inputs = map_inputs("CutMix", learn, lambda x: pasted(x, shift, top, bottom, left, right))
            self._mixing.arm(learn, shift, 1 - (bottom - top) * (right - left) / (height * width))

    def _box(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of a box, from and to."""
        draws = self._mixing.draws.source
        side = math.sqrt(1 - draws.betavariate(self.alpha, self.alpha))
        return span(int(height * side), draws.randrange(height), height), span(
            int(width * side), draws.randrange(width), width
        )


class LabelMix(Callback):
    """Smooth the labels under any loss: mix the loss with that against another item's target.

    The loss is `(1 - amount) * loss(preds, y) + amount * loss(preds, y_other)`; inputs stay as they are. On
    the mean over the batches, cross-entropy is then that against labels smoothed towards how often each class
    is there, with nothing to know of the number of classes. The other item is the one so many places on in
    the batch, by a number drawn for each batch. A batch of one item stays as it is.

    Args:
        amount: weight of the other target, in (0, 1).
        seed: of its own random numbers; None to draw one from torch's random state. They go on from fit to
            fit.

    Raises:
        ValueError: a setting cannot be used; at the fit's begin, the learner has no loss function, or
            another plug-in mixes too; at the first batch, the loss was computed without it.
        TypeError: at the first batch, targets cannot be mixed.

    Source: label smoothing by Szegedy et al. 2016, arXiv:1512.00567, section 7, whose u(k) is here the
        distribution of the batch's own targets.
    """

    order = Order.TRANSFORM
    state = ("draws",)
    draws = property(draws_of, put_draws)
    after_loss = check_used
    after_batch, before_validate, after_validate = disarm, suspend, resume
    after_train = after_epoch = cleanup_fit = take_out

    def __init__(self, amount: float = 0.1, *, seed: int | None = None, name: str | None = None):
        super().__init__(name=name)
        self.amount = check_share("LabelMix", "amount", amount)
        if amount == 1:
            raise ValueError("LabelMix(amount=1): nothing would be left of an item's own target.")
        self._mixing = Mixing("LabelMix", seed)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._mixing.begin(learn, self)

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            shift = self._mixing.draw_shift(learn, 1)
            if shift:
                self._mixing.arm(learn, shift, 1 - self.amount)


def picture_size(learn: LearnerProtocol) -> tuple[int, int]:
    """Height and width of the one input.

    Raises:
        TypeError: it is no picture, or each of its pixels has a target.
    """
    inputs = learn.inputs
    items = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    items = items if isinstance(items, (tuple, list)) else [items]
    if len(items) != 1 or not isinstance(items[0], Tensor) or items[0].ndim < 3:
        raise TypeError(
            f"CutMix: the inputs are {', '.join(map(told, items))}, but it takes one tensor of shape "
            "(items, ..., height, width). MixUp mixes inputs of any shape."
        )
    height, width = items[0].shape[-2:]
    target = learn.targets
    if isinstance(target, Tensor) and target.ndim > 2 and target.shape[-2:] == (height, width):
        raise TypeError(
            f"CutMix: the targets are {told(target)}, a value for each pixel, while the loss is mixed for "
            "whole pictures. MixUp mixes such."
        )
    return height, width


def span(size: int, centre: int, length: int) -> tuple[int, int]:
    """From and to of so many places around a centre, less what lies outside."""
    return max(centre - size // 2, 0), min(centre + size // 2, length)


def pasted(pictures: Tensor, shift: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    """A copy of the pictures, each with a box of another."""
    new = pictures.clone()
    new[..., top:bottom, left:right] = pictures[..., top:bottom, left:right].roll(shift, 0)
    return new
