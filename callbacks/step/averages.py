"""Averages of a model's weights, for plug-ins that make such: each holds one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.registry import describe
from callbacks.core.when import When, unwrapped
from callbacks.model.named import named_tensors
from callbacks.model.places import Places
from callbacks.step.noise import WeightNoise


class Averages:
    """Averages of a model's floating-point weights by name, each in float32 at least.

    Args:
        with_buffers: average floating-point buffers too.

    Attributes:
        tensors: the averages by the weights' names, on the weights' devices; None before there are any.
            Assign them to go on from others.
        places: of which model they are, and what stood where; None where that is not known.
    """

    def __init__(self, *, with_buffers: bool = False):
        self.with_buffers = with_buffers
        self._tensors: dict[str, Tensor] | None = None
        self._lists: tuple[list[Tensor], list[Tensor]] | None = None  # averages, and the weights themselves
        self.places: Places | None = None

    @property
    def tensors(self) -> dict[str, Tensor] | None:
        """The averages by name."""
        return self._tensors

    @tensors.setter
    def tensors(self, tensors: dict[str, Tensor] | None) -> None:
        self._tensors, self._lists = tensors, None

    def match(self, model: nn.Module) -> None:
        """Look up the model's weights anew; what has no average yet begins with its value."""
        found = named_weights(model, with_buffers=self.with_buffers)
        if any(is_lazy(each) for each in found.values()):
            return  # they have no values before the first batch
        old = self._tensors or {}
        self._tensors = {name: begun(old.get(name), weight) for name, weight in found.items()}
        self._lists = list(self._tensors.values()), list(found.values())
        self.places = Places(model, with_buffers=self.with_buffers)

    @torch.no_grad()
    def update(self, model: nn.Module, share: float) -> None:
        """Move each average towards its weight, by this share of what is between them."""
        averages, weights = self._matched(model)
        if not averages:
            return
        if any(one.dtype != other.dtype for one, other in zip(averages, weights, strict=True)):
            weights = [other.to(one.dtype) for one, other in zip(averages, weights, strict=True)]
        torch._foreach_lerp_(averages, weights, share)  # type: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def put(self, model: nn.Module) -> None:
        """Make the averages the model's weights."""
        averages, weights = self._matched(model)
        if averages:
            torch._foreach_copy_(weights, averages)  # type: ignore[reportPrivateImportUsage]

    def copy_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """A copy of the weights of which there are averages, by name."""
        weights = named_weights(model, with_buffers=self.with_buffers)
        return {name: weight.detach().clone() for name, weight in weights.items()}

    @contextmanager
    def there(self, model: nn.Module) -> Iterator[None]:
        """Have the averages as the model's weights within the block."""
        kept = self.copy_weights(model)
        self.put(model)
        try:
            yield
        finally:
            put_weights(model, kept)

    def forget_model(self) -> None:
        """Hold no weight of the model any longer."""
        self._lists = self.places = None

    def are_of_another(self, model: nn.Module) -> bool:
        """Has this model taken the place of that which was averaged?"""
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
    """The average where the weight is, or one that begins with the weight."""
    if average is not None and average.shape == weight.shape:
        return average.to(weight.device)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


@torch.no_grad()
def put_weights(model: nn.Module, weights: dict[str, Tensor], then: dict[str, Tensor] | None = None) -> None:
    """Put back what `copy_weights` gave.

    Args:
        model: whose they are.
        weights: by name.
        then: the tensors themselves that were copied: what has come in the place of one stays as it is.
    """
    for name, tensor in named_tensors(model).items():
        if name in weights and (then is None or then.get(name, tensor) is tensor):
            tensor.copy_(weights[name])


def take_off_noise(learn: LearnerProtocol) -> None:
    """Have the weights without the noise of a batch that a cancel has left in the middle.

    `WeightNoise` would take it off only after those that average, whose phase comes first.
    """
    for each in map(unwrapped, learn.callbacks):
        if isinstance(each, WeightNoise):
            each.take_off()


def check_alone(plugin: Callback, learn: LearnerProtocol) -> None:
    """Refuse a second plug-in that averages the weights, and a `When` that would keep this one from hearing.

    Raises:
        ValueError: names both.
    """
    for each in learn.callbacks:
        other = unwrapped(each)
        if other is plugin and isinstance(each, When):
            check_when(each, type(plugin).__name__)
        elif other is not plugin and isinstance(vars(other).get("_averages"), Averages):
            raise ValueError(
                f"{describe(plugin)} and {describe(other)} both average the weights, and a model can have "
                "one average at a time: leave one of them out."
            )


def check_when(when: When, title: str) -> None:
    """Refuse epochs that are left out: averages would stay in the model where they should be taken out."""
    if when.until is not None or (when.every or "").rstrip("s ").endswith("epoch"):
        raise ValueError(
            f"{when!r}: {title} must hear each epoch to its fit's end, to take the averages out of the model "
            f"again. Use start= alone, as When({title}(), start='5 epochs')."
        )
