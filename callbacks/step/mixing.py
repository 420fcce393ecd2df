"""Mix items of a batch: their inputs, and the loss against the targets of both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from callbacks.core.contract import LearnerProtocol
from callbacks.step.mixed_loss import Mixer, check_alpha, check_share, map_inputs, shown


class MixUp(Mixer):
    """Mix each item of a training batch with another: `lam * x + (1 - lam) * other`, and the loss likewise.

    The loss is `lam * loss(preds, y) + (1 - lam) * loss(preds, y_other)`, for any loss function that is a
    mean over the batch; for cross-entropy that is the loss against the mixed labels. One `lam` per batch is
    drawn from a Beta distribution, and replaced by `1 - lam` if that is larger, so each item stays mostly
    itself: training metrics compare predictions with `learn.targets`, its own targets. The other item is the
    one some places further in the batch; the number of places is drawn for each batch. A batch of one item is
    not mixed.

    Args:
        alpha: both parameters of the Beta distribution, above 0: the larger, the more is mixed; 0.2 to 0.4
            for large data sets, 1 for small ones.
        p: share of the batches that are mixed, in (0, 1].
        seed: seed of its own random numbers, which continue from fit to fit; None draws one from torch's
            random state.

    Raises:
        ValueError: a setting is invalid; when the fit starts, the learner has no loss function, or another
            callback mixes too; at the first batch, the loss was computed without the learner's loss function.
        TypeError: at the first batch, inputs or targets cannot be mixed.

    Source: Zhang et al. 2018, arXiv:1710.09412, section 2.
    """

    def __init__(
        self, alpha: float = 0.4, *, p: float = 1.0, seed: int | None = None, name: str | None = None
    ):
        super().__init__(p, seed, name)
        self.alpha = check_alpha("MixUp", alpha)

    def mix(self, learn: LearnerProtocol, shift: int) -> float:
        """Mix the inputs; the share is drawn even if `shift` is 0."""
        drawn = self._draws.source.betavariate(self.alpha, self.alpha)
        share = max(drawn, 1 - drawn)
        if shift:
            learn.inputs = map_inputs("MixUp", learn, lambda x: torch.lerp(x, x.roll(shift, 0), 1 - share))
        return share


class CutMix(Mixer):
    """Paste a box of another image into each image of a training batch, and mix the loss by area.

    The loss is `lam * loss(preds, y) + (1 - lam) * loss(preds, y_other)`, for any loss function that is a
    mean over the batch; `lam` is the share of the image that stays. One box is drawn per batch: its area
    `1 - lam` from a Beta distribution, its centre anywhere. The part outside the image is cut off, and
    `lam` is computed from the area that is pasted. Training metrics compare predictions with `learn.targets`,
    the image's own targets, even if the box is the larger part. The other image is the one some places
    further in the batch; the number of places is drawn for each batch. A batch of one item is not mixed.

    Args:
        alpha: both parameters of the Beta distribution, above 0; with 1 all areas are equally likely.
        p: share of the batches that are mixed, in (0, 1].
        seed: seed of its own random numbers, which continue from fit to fit; None draws one from torch's
            random state.

    Raises:
        ValueError: a setting is invalid; when the fit starts, the learner has no loss function, or another
            callback mixes too; at the first batch, the loss was computed without the learner's loss function.
        TypeError: at the first batch, there is not one input of shape (items, ..., height, width), or
            targets cannot be mixed: not a tensor with one row per item, or one with a value for each pixel.

    Source: Yun et al. 2019, arXiv:1905.04899, equations 1 and 2, and appendix A.
    """

    def __init__(
        self, alpha: float = 1.0, *, p: float = 1.0, seed: int | None = None, name: str | None = None
    ):
        super().__init__(p, seed, name)
        self.alpha = check_alpha("CutMix", alpha)

    def mix(self, learn: LearnerProtocol, shift: int) -> float:
        """Paste the boxes; a box is drawn even if `shift` is 0."""
        height, width = image_size(learn)
        draws = self._draws.source
        side = math.sqrt(1 - draws.betavariate(self.alpha, self.alpha))
        top, bottom = span(int(height * side), draws.randrange(height), height)
        left, right = span(int(width * side), draws.randrange(width), width)
        if shift:
            learn.inputs = map_inputs("CutMix", learn, lambda x: pasted(x, shift, top, bottom, left, right))
        return 1 - (bottom - top) * (right - left) / (height * width)


class LabelMix(Mixer):
    """Smooth the labels under any loss: mix the loss with the loss against another item's target.

    The loss is `(1 - amount) * loss(preds, y) + amount * loss(preds, y_other)`; inputs stay as they are. On
    average over batches, cross-entropy is then the loss against labels smoothed towards the frequencies of
    the classes, without knowing how many classes there are. The other item is the one some places further in
    the batch; the number of places is drawn for each batch. A batch of one item is not mixed.

    Args:
        amount: weight of the other target, in (0, 1).
        seed: seed of its own random numbers, which continue from fit to fit; None draws one from torch's
            random state.

    Raises:
        ValueError: a setting is invalid; when the fit starts, the learner has no loss function, or another
            callback mixes too; at the first batch, the loss was computed without the learner's loss function.
        TypeError: at the first batch, targets cannot be mixed.

    Source: label smoothing by Szegedy et al. 2016, arXiv:1512.00567, section 7, whose u(k) is here the
        distribution of the batch's own targets.
    """

    def __init__(self, amount: float = 0.1, *, seed: int | None = None, name: str | None = None):
        super().__init__(1.0, seed, name)
        self.amount = check_share("LabelMix", "amount", amount)
        if amount == 1:
            raise ValueError(
                "LabelMix(amount=1): an item's own target would have no weight. Pass less than 1."
            )

    def mix(self, learn: LearnerProtocol, shift: int) -> float:
        """The share of the loss against an item's own target."""
        return 1 - self.amount


def image_size(learn: LearnerProtocol) -> tuple[int, int]:
    """Height and width of the one input."""
    inputs = learn.inputs
    items = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    items = items if isinstance(items, (tuple, list)) else [items]
    if len(items) != 1 or not isinstance(items[0], Tensor) or items[0].ndim < 3:
        raise TypeError(
            f"CutMix: the inputs are {', '.join(map(shown, items))}, but it takes one tensor of shape "
            "(items, ..., height, width). MixUp mixes inputs of any shape."
        )
    height, width = items[0].shape[-2:]
    target = learn.targets
    if isinstance(target, Tensor) and target.ndim > 2 and target.shape[-2:] == (height, width):
        raise TypeError(
            f"CutMix: the targets are {shown(target)}, a value for each pixel, but the loss is mixed for "
            "whole images. Use MixUp for such targets."
        )
    return height, width


def span(size: int, centre: int, length: int) -> tuple[int, int]:
    """Start and stop of `size` positions around a centre, clipped to [0, length]."""
    return max(centre - size // 2, 0), min(centre + size // 2, length)


def pasted(images: Tensor, shift: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    """A copy of the images, each with a box of another."""
    new = images.clone()
    new[..., top:bottom, left:right] = images[..., top:bottom, left:right].roll(shift, 0)
    return new
