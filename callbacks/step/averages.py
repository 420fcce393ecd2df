"""Averages of a model's weights: `EMA` and `SWA` each hold one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.registry import describe
from callbacks.core.when import When, window_of
from callbacks.model import shards
from callbacks.model.named import named_tensors
from callbacks.model.places import Places
from callbacks.step.noise import WeightNoise


class Averages:
    """Averages of a model's floating-point weights by name, each in float32 at least.

    Args:
        with_buffers: average floating-point buffers too.

    Attributes:
        tensors: the averages by the weights' names, on the weights' devices; None before there are any.
            Assign them to continue from others.
        places: the averaged model and its tensors when they were looked up; None before that.
    """

    def __init__(self, *, with_buffers: bool = False):
        self.with_buffers = with_buffers
        self._tensors: dict[str, Tensor] | None = None
        self._lists: tuple[list[Tensor], list[Tensor]] | None = None  # averages, and the weights themselves
        self._versions: list[int] = []  # of the weights, when they got the averages
        self.places: Places | None = None

    @property
    def tensors(self) -> dict[str, Tensor] | None:
        """The averages by name."""
        return self._tensors

    @tensors.setter
    def tensors(self, tensors: dict[str, Tensor] | None) -> None:
        self._tensors, self._lists = tensors, None

    def match(self, model: nn.Module) -> None:
        """Look up the model's weights; a weight without an average starts with its own value."""
        found = named_weights(model, with_buffers=self.with_buffers)
        if any(is_lazy(each) for each in found.values()):
            return  # they have no values before the first batch
        old = self._tensors or {}
        self._tensors = {name: begun(old.get(name), weight) for name, weight in found.items()}
        self._lists = list(self._tensors.values()), list(found.values())
        self.places = Places(model, with_buffers=self.with_buffers)

    @torch.no_grad()
    def update(self, model: nn.Module, share: float) -> None:
        """Move each average towards its weight, by this share of their difference."""
        averages, weights = self._matched(model)
        if not averages:
            return
        if any(one.dtype != other.dtype for one, other in zip(averages, weights, strict=True)):
            weights = [other.to(one.dtype) for one, other in zip(averages, weights, strict=True)]
        torch._foreach_lerp_(averages, weights, share)  # type: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def put(self, model: nn.Module) -> None:
        """Copy the averages into the model's weights."""
        averages, weights = self._matched(model)
        if averages:
            here = [shards.local(each) for each in weights], [shards.local(each) for each in averages]
            torch._foreach_copy_(*here)  # type: ignore[reportPrivateImportUsage]
            self._versions = [each._version for each in here[0]]

    def written_over(self) -> list[str]:
        """The names of parameters that no longer have the averages that `put` has copied into them."""
        averages, weights = self._lists or ([], [])
        found: list[str] = []
        names, versions = self._tensors or (), self._versions
        for name, average, weight, then in zip(names, averages, weights, versions, strict=False):
            here = shards.local(weight)
            is_written = isinstance(weight, nn.Parameter) and here._version != then
            if is_written and not torch.equal(here, shards.local(average).to(here)):  # waits, but only then
                found.append(name)
        return found

    def share_buffers(self, learn: LearnerProtocol) -> None:
        """Take the averages of the first process for buffers, as each process has seen other items."""
        averages = self._tensors or {}
        names = [name for name, _ in learn.model.named_buffers() if name in averages]
        if names and self.with_buffers and learn.ranks.size > 1:
            found = learn.ranks.first(lambda: {name: averages[name].cpu() for name in names})
            for name, each in found.items():
                averages[name].copy_(each)

    def copy_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """A copy of the weights that are averaged, by name."""
        weights = named_weights(model, with_buffers=self.with_buffers)
        return {name: weight.detach().clone() for name, weight in weights.items()}

    @contextmanager
    def there(self, model: nn.Module) -> Iterator[None]:
        """Use the averages as the model's weights within the block."""
        kept = self.copy_weights(model)
        self.put(model)
        try:
            yield
        finally:
            put_weights(model, kept)

    def forget_model(self) -> None:
        """Release the model's weights."""
        self._lists = self.places = None

    def are_of_another(self, model: nn.Module) -> bool:
        """Was the averaged model replaced by this one?"""
        return self.places is not None and self.places.model is not model

    def _matched(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        if self._lists is None or self.places is None or not self.places.are_of(model):
            self.match(model)
        return self._lists or ([], [])


def named_weights(model: nn.Module, *, with_buffers: bool) -> dict[str, Tensor]:
    """Parameters, and on request buffers, that hold floating-point or complex numbers."""
    buffers = model.named_buffers() if with_buffers else ()
    return {
        name: each
        for name, each in (*model.named_parameters(), *buffers)
        if each.is_floating_point() or each.is_complex()
    }


def begun(average: Tensor | None, weight: Tensor) -> Tensor:
    """The average on the weight's device, or a new one that starts with the weight."""
    if average is not None and average.shape == weight.shape:
        return shards.like(average.to(weight.device), weight)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


@torch.no_grad()
def put_weights(model: nn.Module, weights: dict[str, Tensor], then: dict[str, Tensor] | None = None) -> None:
    """Restore what `copy_weights` returned.

    A tensor that has replaced one of `then`, those that were copied, stays as it is.
    """
    for name, tensor in named_tensors(model).items():
        if name in weights and (then is None or then.get(name, tensor) is tensor):
            tensor.copy_(shards.like(weights[name], tensor))


def take_off_noise(learn: LearnerProtocol) -> None:
    """Remove the noise that a cancelled batch has left on the weights.

    `WeightNoise` itself would remove it only after the averages are updated, whose phase comes first.
    """
    for each in learn.callbacks:
        if isinstance(each, WeightNoise):
            each.take_off()


def check_alone(callback: Callback, learn: LearnerProtocol) -> None:
    """Refuse a second callback that averages the weights, and a `When` that skips epochs of this one."""
    window = window_of(callback)
    if window is not None:
        check_when(window, type(callback).__name__)
    for other in learn.callbacks:
        if other is not callback and other.averages_weights:
            raise ValueError(
                f"{describe(callback)} and {describe(other)} both average the weights, but a model can "
                "have only one average at a time: leave one of them out."
            )


def check_when(when: When, title: str) -> None:
    """Refuse windows that skip epochs: the averages would stay in the model when they should be removed."""
    if when.until is not None or (when.every or "").rstrip("s ").endswith("epoch"):
        raise ValueError(
            f"{when!r}: {title} must run in each epoch until the fit ends, to remove the averages from the "
            f"model again. Use start= alone, as in When({title}(), start='5 epochs')."
        )
