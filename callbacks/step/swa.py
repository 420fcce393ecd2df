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
from callbacks.core.settings import is_number
from callbacks.core.warning import warn
from callbacks.core.when import unwrapped
from callbacks.model.named import named_tensors
from callbacks.optim import hyperparameters
from callbacks.step.averages import Averages, check_alone, put_weights, take_off_noise
from callbacks.step.modes import BatchNormFreeze, is_frozen


class SWA(Callback):
    """Average the weights once an epoch over the last part of a fit, and end with the average.

    The averages are those of the weights at the end of each training pass from `start` on, each of equal
    weight. They become the model's when the fit ends, and the statistics of batch norm are then measured
    anew in one pass over the training data, without gradients, in which all else is in evaluation mode.
    That pass draws from no generator of torch, Python or NumPy, nor from a `DataLoader`'s own, for good;
    generators that a data set holds it does use. Layers of batch norm that are frozen, or that
    `BatchNormFreeze` holds, keep their statistics.

    Until then, training, validation and checkpoints have the trained weights; measure the average with
    `learn.validate()` after the fit, and keep it with `learn.save(path)`. After Ctrl-C the model keeps the
    trained weights, and so it does after an error. Where another model takes the place of the learner's in
    mid-fit, averaging begins anew.

    Args:
        start: the first epoch that is averaged: a share of the fit in [0, 1) as a float, rounded down, or
            its index from 0.
        lr: the rate of all groups from that epoch on; None leaves the rates alone.
        anneal_epochs: go to `lr` over so many epochs; 0 for at once.
        anneal: how: along half a cosine, or in a line.

    Attributes:
        averages: the averages by the weights' names, in float32 at least, while a fit goes on; else None.
        n_averaged: epochs averaged.
        rates: the groups' rates when averaging began, or when they came, if `lr` was given; else None.

    Raises:
        ValueError: a setting cannot be used; or, at the fit's begin, the fit is too short, another plug-in
            averages or changes the rate too, or `EarlyStopping` would put other weights back.

    Source: Izmailov et al. 2018, arXiv:1803.05407, algorithm 1.
    """

    order = Order.PREPARE
    state = ("averages", "n_averaged", "rates")
    without_schedule = "leave lr out of SWA"

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
        check_settings(start, lr, anneal_epochs, anneal)
        self.start, self.lr, self.anneal_epochs, self.anneal = start, lr, anneal_epochs, anneal
        self._averages = Averages()
        self.n_averaged = 0
        self.rates: list[float] | None = None
        self._kept: hyperparameters.Kept | None = None
        self._first_epoch = 0  # that is averaged, in the fit under way
        self._is_refreshing = False

    @property
    def schedules(self) -> tuple[str, ...]:
        """The hyperparameters that it changes, which no other plug-in may."""
        return () if self.lr is None else ("lr",)

    @property
    def schedules_from(self) -> str | None:
        """From when on it changes them; None for the fit's begin."""
        return f"{self._first_epoch} epochs" if self._first_epoch else None

    @property
    def averages(self) -> dict[str, Tensor] | None:
        """The averages by the weights' names."""
        return self._averages.tensors

    @averages.setter
    def averages(self, averages: dict[str, Tensor] | None) -> None:
        self._averages.tensors = averages

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)
        check_others(learn)
        if type(self.start) is int and self.start >= learn.n_epochs:
            raise ValueError(
                f"SWA(start={self.start}): the fit has {learn.n_epochs} epochs, counted from 0, so none "
                "would be averaged. Begin earlier, or with a share, as SWA(0.75)."
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
            if self._kept is not None and learn.optimizer is not self._kept.optimizer:
                self._kept, self.rates = self._kept.of(learn.optimizer), None
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
        self._averages.match(learn.model)  # the first time this copies the weights
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
                f"SWA: the fit ended before epoch {self._first(learn)}, in which averaging was to begin, so "
                "the model keeps its trained weights."
            )
            return
        take_off_noise(learn)
        with put_back_on_error(learn.model):
            self._averages.put(learn.model)
            self._refresh(learn)
        self.averages = None

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._kept is not None:
            self._kept.put_back()
        self._kept, self.averages, self._is_refreshing = None, None, False
        self._averages.forget_model()

    def _first(self, learn: LearnerProtocol) -> int:
        """The first epoch that is averaged."""
        return self.start if isinstance(self.start, int) else int(self.start * learn.n_epochs)

    def _rate(self, before: float, epoch: int) -> float:
        """The rate in an epoch, counted from the first that is averaged."""
        assert self.lr is not None
        share = min(1.0, (epoch + 1) / max(self.anneal_epochs, 1))
        share = (1 - math.cos(math.pi * share)) / 2 if self.anneal == "cos" else share
        return self.lr if share == 1 else before + (self.lr - before) * share

    def _refresh(self, learn: LearnerProtocol) -> None:
        """Measure the statistics of batch norm over the training data."""
        layers = norms_of(learn.model)
        held = (each for each in map(unwrapped, learn.callbacks) if isinstance(each, BatchNormFreeze))
        if not layers or any(each.layers == "all" for each in held):
            return
        momenta = [layer.momentum for layer in layers]
        self._is_refreshing = True
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over the batches
            with loader_undrawn(learn.data.train):
                learn.validate(learn.data.train)
        finally:
            self._is_refreshing = False
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def check_settings(start: Any, lr: Any, anneal_epochs: Any, anneal: Any) -> None:
    """Refuse what cannot be used."""
    if not (type(start) is float and 0 <= start < 1) and not (type(start) is int and start >= 0):
        raise ValueError(
            f"SWA(start={start!r}): write a share of the fit from 0 to below 1, as 0.75, or an epoch, as 10."
        )
    if lr is not None and (not is_number(lr) or lr <= 0):
        raise ValueError(f"SWA(lr={lr!r}): write a rate above 0, or None to leave the rates alone.")
    if type(anneal_epochs) is not int or anneal_epochs < 0:
        raise ValueError(f"SWA(anneal_epochs={anneal_epochs!r}): write a whole number of epochs, 0 or more.")
    if anneal not in ("cos", "linear"):
        raise ValueError(f"SWA(anneal={anneal!r}): there are 'cos' and 'linear'.")
    if anneal_epochs and lr is None:
        raise ValueError(f"SWA(anneal_epochs={anneal_epochs}): to which rate? Give lr too, as lr=0.01.")


def check_others(learn: LearnerProtocol) -> None:
    """Raise an error for a callback that replaces the averaged weights when the fit ends."""
    for each in map(unwrapped, learn.callbacks):
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
def put_back_on_error(model: nn.Module) -> Iterator[None]:
    """Put all weights and buffers back where the block fails."""
    kept = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    try:
        yield
    except BaseException:
        put_weights(model, kept)
        raise


@contextmanager
def loader_undrawn(loader: Any) -> Iterator[None]:
    """Put a `DataLoader`'s own generators back at the block's end."""
    parts = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    states = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
