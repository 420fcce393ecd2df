"""Stochastic weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.registry import describe
from callbacks.core.settings import check_count, is_number
from callbacks.core.warning import warn
from callbacks.model.held import Held
from callbacks.model.named import named_tensors
from callbacks.optim import hyperparameters
from callbacks.step.averages import Averages, check_alone, put_weights, take_off_noise
from callbacks.step.modes import BatchNormFreeze, is_frozen


class SWA(Callback):
    """Average the weights after each epoch of the last part of a fit, and end with the average.

    From `start` on, the weights at the end of each training pass are averaged, each with equal weight. When
    the fit ends, the average becomes the model's weights, and the statistics of batch norm are measured again
    in one pass over the training data, without gradients and with all other layers in evaluation mode. That
    pass restores the generators of torch, Python and NumPy and those of a `DataLoader`, but not generators
    that a data set holds. Batch-norm layers that are frozen, or that `BatchNormFreeze` holds, keep their
    statistics.

    Until then, training, validation and checkpoints use the trained weights; measure the average with
    `learn.validate()` after the fit, and keep it with `learn.save(path)`. After Ctrl-C or an error the model
    keeps the trained weights. If the learner's model is replaced during a fit, a new average starts.

    Args:
        start: the first epoch that is averaged: a share of the fit in [0, 1) as a float, rounded down, or
            its index from 0.
        lr: the rate of all groups from that epoch on; None leaves the rates unchanged.
        anneal_epochs: change the rate to `lr` over this many epochs; 0 changes it at once.
        anneal: along half a cosine, or linearly.

    Attributes:
        averages: the averages by the weights' names, in float32 at least, during a fit; otherwise None.
        n_averaged: number of averaged epochs.
        rates: if `lr` was passed, the groups' rates when averaging started, or when a group was added;
            otherwise None.

    Raises:
        ValueError: a setting is invalid; or, when the fit starts, the fit is too short, another callback
            averages or changes the rate too, or `EarlyStopping` would restore other weights.

    Source: Izmailov et al. 2018, arXiv:1803.05407, algorithm 1.
    """

    order = Order.PREPARE
    state = ("averages", "n_averaged", "rates")
    averages = Held[dict[str, Tensor] | None]("_averages", "tensors", "The averages by the weights' names.")
    averages_weights = True

    def __init__(
        self,
        start: float = 0.75,
        *,
        lr: float | None = None,
        anneal_epochs: int = 0,
        anneal: Literal["cos", "linear"] = "cos",
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_settings(start, lr, anneal_epochs)
        self.start, self.lr, self.anneal_epochs, self.anneal = start, lr, anneal_epochs, anneal
        self._averages = Averages()
        self.n_averaged = 0
        self.rates: list[float] | None = None
        self._kept: hyperparameters.Kept | None = None
        self._first_epoch = 0  # that is averaged, in the current fit
        self._is_refreshing = False

    @property
    def sets_hyperparameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The hyperparameters that it changes; no other callback may change them."""
        return () if self.lr is None else ("lr",)

    @property
    def sets_from(self) -> str | None:  # type: ignore[override]
        """When it starts to change them; None for the start of the fit."""
        return f"{self._first_epoch} epochs" if self._first_epoch else None

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)
        check_others(learn)
        if type(self.start) is int and self.start >= learn.n_epochs:
            raise ValueError(
                f"SWA(start={self.start}): the fit has {learn.n_epochs} epochs, counted from 0, so none "
                "would be averaged. Start earlier, or pass a share, such as SWA(0.75)."
            )
        self._first_epoch = self._first(learn)
        self._averages.forget_model()
        self.averages, self.rates, self.n_averaged = None, None, 0
        if self.lr is not None:
            hyperparameters.check_alone(self, learn)
            self._kept = hyperparameters.Kept(learn.optimizer, "lr")

    def before_epoch(self, learn: LearnerProtocol) -> None:
        if self.lr is not None and learn.epoch >= self._first(learn):
            groups = learn.optimizer.param_groups
            if self._kept is not None:
                self.rates = self.rates if learn.optimizer is self._kept.optimizer else None
                self._kept = self._kept.of(learn.optimizer)
            self.rates = self.rates or []
            self.rates += [float(group["lr"]) for group in groups[len(self.rates) :]]  # once for each
            for group, rate in zip(groups, self.rates, strict=False):
                hyperparameters.put(group, "lr", self._rate(rate, learn.epoch - self._first(learn)))

    def after_train(self, learn: LearnerProtocol) -> None:
        if learn.epoch < self._first(learn):
            return
        take_off_noise(learn)
        if self._averages.are_of_another(learn.model):
            self.averages, self.n_averaged = None, 0
        self._averages.match(learn.model)  # copies the weights the first time
        if self.n_averaged:
            self._averages.update(learn.model, 1 / (self.n_averaged + 1))
        self.n_averaged += 1

    def before_batch(self, learn: LearnerProtocol) -> None:
        if self._is_refreshing:
            for layer in norms_of(learn.model):
                layer.training = True

    def after_fit(self, learn: LearnerProtocol) -> None:
        if learn.interrupted is not None:
            return
        if self.averages is None:
            warn(
                f"SWA: the fit ended before epoch {self._first(learn)}, where averaging starts, so the model "
                "keeps its trained weights."
            )
            return
        take_off_noise(learn)
        with restored_on_error(learn.model):
            self._averages.put(learn.model)
            self._refresh(learn)
        self.averages = None

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._kept is not None:
            self._kept.restore()
        self._kept, self.averages, self._is_refreshing = None, None, False
        self._averages.forget_model()

    def _first(self, learn: LearnerProtocol) -> int:
        """The first epoch that is averaged."""
        # 0.58 * 50 is 28.999999999999996
        return self.start if isinstance(self.start, int) else int(self.start * learn.n_epochs + 1e-9)

    def _rate(self, before: float, epoch: int) -> float:
        """The rate in an epoch, counted from the first that is averaged."""
        assert self.lr is not None
        share = min(1.0, (epoch + 1) / max(self.anneal_epochs, 1))
        share = (1 - math.cos(math.pi * share)) / 2 if self.anneal == "cos" else share
        return self.lr if share == 1 else before + (self.lr - before) * share

    def _refresh(self, learn: LearnerProtocol) -> None:
        """Measure the statistics of batch norm over the training data."""
        layers = norms_of(learn.model)
        held = (each for each in learn.callbacks if isinstance(each, BatchNormFreeze))
        if not layers or any(each.layers == "all" for each in held):
            return
        momenta = [layer.momentum for layer in layers]
        self._is_refreshing = True
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over the batches
            with keep_loader_generators(learn.data.train):
                learn.validate(learn.data.train)
        finally:
            self._is_refreshing = False
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def check_settings(start: Any, lr: Any, anneal_epochs: Any) -> None:
    """Refuse invalid settings."""
    if not (type(start) is float and 0 <= start < 1) and not (type(start) is int and start >= 0):
        raise ValueError(
            f"SWA(start={start!r}): pass a share of the fit in [0, 1), such as 0.75, or an epoch."
        )
    if lr is not None and (not is_number(lr) or lr <= 0):
        raise ValueError(f"SWA(lr={lr!r}): pass a rate above 0, or None to leave the rates unchanged.")
    check_count("SWA", "anneal_epochs", anneal_epochs, 0)
    if anneal_epochs and lr is None:
        raise ValueError(f"SWA(anneal_epochs={anneal_epochs}): lr is missing. Pass it too, as in lr=0.01.")


def check_others(learn: LearnerProtocol) -> None:
    """Raise an error for a callback that replaces the averaged weights when the fit ends."""
    for each in learn.callbacks:
        if each.restores_weights:
            raise ValueError(
                f"SWA ends the fit with averaged weights, and {describe(each)} restores those of its best "
                f"epoch: write {type(each).__name__}(..., restore_best=False), or leave one of them out."
            )


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The layers of batch norm that keep statistics, and are not frozen."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and not is_frozen(layer)
    ]


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """Restore all weights and buffers if the block raises an error."""
    kept = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    try:
        yield
    except BaseException:
        put_weights(model, kept)
        raise


@contextmanager
def keep_loader_generators(loader: Any) -> Iterator[None]:
    """Restore a `DataLoader`'s own generators at the end of the block."""
    parts = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    states = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
