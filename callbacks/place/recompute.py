"""Recompute activations in the backward pass instead of storing them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.model.named import as_patterns, find_layers

# They change their running statistics without incrementing the version of the tensors (PyTorch 2.13).
NORMS = nn.modules.batchnorm._NormBase


class ActivationCheckpointing(Callback):
    """Store only the inputs of chosen layers, and recompute their activations in the backward pass.

    The model then takes less memory, and about a third more time. Choose its blocks, such as `"layers.*"` of
    an encoder: one input per block is stored, and the activations of one block at a time. Gradients, weights
    and buffers have the same bits as without this callback, even with dropout and batch norm: the second
    computation starts with the random state and the buffers of the first. Names in the state dict do not
    change, and neither does validation.

    A hook on a module *within* a chosen layer is called twice per training step. If a layer keeps state from
    call to call in attributes other than buffers, the second computation differs; torch raises an error if
    shapes differ. (Hugging Face models have their own switch:
    `model.gradient_checkpointing_enable({"use_reentrant": False})`, from transformers 5 on
    `model.activation_checkpointing_enable()`. Use one of the two.)

    Args:
        layers: names of modules, with `*` for any characters, or of classes, such as
            `"TransformerEncoderLayer"`. If one module contains another, the outer one is chosen.

    Raises:
        TypeError, ValueError: `layers` are not names; at the start of the fit, the model does not have the
            layer, or another callback has chosen it already.

    Source: Chen et al. 2016, arXiv:1604.06174; the variant of `torch.utils.checkpoint` that is not reentrant.
    """

    order = Order.PREPARE

    def __init__(self, layers: str | Sequence[str], *, name: str | None = None):
        super().__init__(name=name)
        if layers is None:
            raise TypeError(
                "ActivationCheckpointing(None): pass the names of layers, such as 'layers.*', or their "
                "class, such as 'TransformerEncoderLayer'. print(model) shows both."
            )
        self.layers = layers
        self._patterns = as_patterns("ActivationCheckpointing", "layers", layers)
        self._changed: list[nn.Module] = []

    def before_fit(self, learn: LearnerProtocol) -> None:
        found = outermost(find_layers(learn.model, self._patterns, "ActivationCheckpointing"))
        for name, module in found.items():
            if isinstance(vars(module).get("forward"), Recomputed):
                raise ValueError(
                    f"{self!r}: another ActivationCheckpointing has chosen the layer {name!r} already: leave "
                    "one of them out."
                )
        for module in found.values():
            module.forward = Recomputed(module, vars(module).get("forward"))
            self._changed.append(module)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        changed, self._changed = self._changed, []
        for module in changed:
            given = vars(module).get("forward")
            if isinstance(given, Recomputed):
                del module.forward
                if given.own is not None:
                    module.forward = given.own


def outermost(found: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules that are not inside another one; a module with two names appears once."""
    inner = {part for each in found.values() for part in each.modules() if part is not each}
    by_module = {each: name for name, each in reversed(found.items()) if each not in inner}
    return {name: each for each, name in reversed(by_module.items())}


class Recomputed:
    """Replaces the `forward` of a module; an object, so that a copy of the model gets a copy."""

    def __init__(self, module: nn.Module, own: Callable[..., Any] | None):
        self.module, self.own = module, own
        self.__wrapped__ = own or MethodType(type(module).forward, module)  # provides the signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.__wrapped__(*args, **kwargs)
        buffers = Buffers(self.module)
        return checkpoint(
            self.__wrapped__,
            *args,
            use_reentrant=False,
            context_fn=lambda: (buffers.first(), buffers.again()),
            **kwargs,
        )


class Buffers:
    """Makes the second computation start with the buffers of the first, and restores them afterwards.

    Otherwise batch norm would count each batch twice, and a spectral norm would take another step.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.at_start: list[tuple[nn.Module, str, Tensor]] = []

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """The first computation: copy the buffers that it changes."""
        there = [
            (part, name, each, each._version, each.clone())
            for part in self.module.modules()
            for name, each in part._buffers.items()
            if each is not None
        ]
        yield
        self.at_start = [
            (part, name, copy)
            for part, name, each, version, copy in there
            if part._buffers.get(name) is not each or each._version != version or isinstance(part, NORMS)
        ]

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """The second computation: use copies, because the backward pass needs the tensors of the first."""
        now = [(part, name, part._buffers[name]) for part, name, _ in self.at_start]
        for part, name, tensor in self.at_start:
            part._buffers[name] = tensor.clone()
        try:
            yield
        finally:
            for part, name, tensor in now:
                part._buffers[name] = tensor
