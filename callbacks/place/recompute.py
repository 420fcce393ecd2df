"""Compute activations anew in the backward pass, instead of keeping them."""

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

# They write to their running statistics without counting up the tensors' versions (PyTorch 2.13).
NORMS = nn.modules.batchnorm._NormBase


class ActivationCheckpointing(Callback):
    """Keep the inputs of chosen layers only, and compute what is within them anew in the backward pass.

    A model takes less memory then and about a third more time. Choose its blocks, as `"layers.*"` of an
    encoder: what is kept is one input a block, and the inside of one block at a time. Gradients, weights and
    buffers have the same bits as without, with dropout and batch norm too: random state is put back for the
    second time, and buffers are as they were at the first. Names in the state dict stay as they are.
    Validation is as before.

    A hook on a module *within* a chosen layer is called twice in a training step. A layer that keeps a state
    from call to call, in other attributes than buffers, computes something else the second time; torch raises
    an error where the shapes show it. (Hugging Face's models have a switch of their own:
    `model.gradient_checkpointing_enable({"use_reentrant": False})`, from transformers 5 on
    `model.activation_checkpointing_enable()`; use one of the two.)

    Args:
        layers: names of modules, with `*` for any letters, or of classes, as `"TransformerEncoderLayer"`. Of
            modules within each other the outermost is taken.

    Raises:
        TypeError, ValueError: `layers` are no names; at the fit's begin: the model has no such layer, or
            another plug-in has chosen it already.

    Source: Chen et al. 2016, arXiv:1604.06174; `torch.utils.checkpoint`, the variant that is not reentrant.
    """

    order = Order.PREPARE

    def __init__(self, layers: str | Sequence[str], *, name: str | None = None):
        super().__init__(name=name)
        if layers is None:
            raise TypeError(
                "ActivationCheckpointing(None): name the layers, as 'layers.*', or their class, as "
                "'TransformerEncoderLayer'. print(model) shows both."
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
    """Those that are not within another one; one under two names once."""
    inner = {part for each in found.values() for part in each.modules() if part is not each}
    by_module = {each: name for name, each in reversed(found.items()) if each not in inner}
    return {name: each for each, name in reversed(by_module.items())}


class Recomputed:
    """Takes the place of a module's `forward`; an object, so that a copy of the model gets a copy.

    Args:
        module: the module.
        own: what it had for `forward` beside its class's.
    """

    def __init__(self, module: nn.Module, own: Callable[..., Any] | None):
        self.module, self.own = module, own
        self.__wrapped__ = own or MethodType(type(module).forward, module)  # whose signature is told

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
    """Lets the second computation begin with the buffers of the first, and leave them as they are.

    Batch norm would else count each batch twice, and a spectral norm go on by one step.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.begun: list[tuple[nn.Module, str, Tensor]] = []

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """The first computation: keep copies of what it changes."""
        there = [
            (part, name, each, each._version, each.clone())
            for part in self.module.modules()
            for name, each in part._buffers.items()
            if each is not None
        ]
        yield
        self.begun = [
            (part, name, copy)
            for part, name, each, version, copy in there
            if part._buffers.get(name) is not each or each._version != version or isinstance(part, NORMS)
        ]

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """The second: on copies, as what the first has kept for the backward pass must not change."""
        now = [(part, name, part._buffers[name]) for part, name, _ in self.begun]
        for part, name, begun in self.begun:
            part._buffers[name] = begun.clone()
        try:
            yield
        finally:
            for part, name, tensor in now:
                part._buffers[name] = tensor
