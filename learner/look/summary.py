"""The layers of a model: output shapes, parameters, floating-point operations and memory."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.utils.flop_counter import FlopCounterMode

from callbacks.history.tables import html_table
from callbacks.model.named import COMPILED, short_label
from callbacks.place.device import tensors_in
from learner.data.items import in_batch
from learner.inference.exporting import unchanged
from learner.inference.given_inputs import as_inputs
from learner.inference.predictions import predicting
from learner.look.showing import a_batch
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner

WIDTH = 79
HEAD = ("layer", "output shape", "parameters", "FLOPs", "memory")
WIDTHS = (34, 14, 12, 8, 9)
SHARED, FROZEN = "shared", "*"


@dataclass
class Layer:
    """A module in the order of the calls.

    Attributes:
        name: as in `model.named_modules()`.
        kind: its class.
        shapes: of the outputs of its last call; empty if it was not called.
        n_parameters: its own, without those of its submodules; 0 if another layer before it has them.
        is_frozen: does it have parameters, and none requires a gradient?
        is_shared: are its parameters counted at another layer?
        flops: floating-point operations of all its calls, without those of its submodules.
        n_bytes: of the outputs of all its calls.
        n_calls: how often it was called.
    """

    name: str
    kind: str
    n_parameters: int = 0
    is_frozen: bool = False
    is_shared: bool = False
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    flops: int = 0
    n_bytes: int = 0
    n_calls: int = 0

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        calls = f" x{self.n_calls}" if self.n_calls > 1 else ""
        name = short_label(self.name, self.kind, WIDTHS[0] - len(calls)) + calls
        shape = "x".join(map(str, self.shapes[0])) if self.shapes else "" if self.n_calls else "not called"
        shape += f" +{len(self.shapes) - 1}" if len(self.shapes) > 1 else ""
        n = SHARED if self.is_shared else f"{self.n_parameters:,}{FROZEN if self.is_frozen else ''}"
        return name, shape, n, in_units(self.flops, 1000), in_bytes(self.n_bytes)


@dataclass(repr=False)
class Summary:
    """What `learn.summary()` found; `print` shows a table that fits 80 columns.

    Attributes:
        layers: the layers, in the order in which they were called first.
        n_parameters: all parameters of the model, each counted once.
        n_trained: those that require a gradient.
        flops: floating-point operations of the forward pass of the batch, as torch counts them.
        n_bytes: of the parameters and buffers.
        n_output_bytes: of the outputs of all layers.
        n_items: items in the batch.
    """

    layers: list[Layer]
    n_parameters: int
    n_trained: int
    flops: int
    n_bytes: int
    n_output_bytes: int
    n_items: int

    def _notes(self) -> list[str]:
        frozen = self.n_parameters - self.n_trained
        per_item = in_units(self.flops // max(self.n_items, 1), 1000)
        found = [
            f"Parameters: {self.n_parameters:,}; {self.n_trained:,} are trained, {frozen:,} are frozen.",
            f"Forward pass of {self.n_items} items: {in_units(self.flops, 1000)} FLOPs, {per_item} per item.",
            f"Memory: {in_bytes(self.n_bytes)} for parameters and buffers, "
            f"{in_bytes(self.n_output_bytes)} for the outputs.",
        ]
        return found + ([f"{FROZEN} frozen"] if any(each.is_frozen for each in self.layers) else [])

    def __repr__(self) -> str:
        rows = [HEAD, *(each.cells() for each in self.layers)]
        lines = [
            f"{row[0]:{WIDTHS[0]}} {row[1]:{WIDTHS[1]}.{WIDTHS[1]}}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(row[2:], WIDTHS[2:], strict=True))
            for row in rows
        ]
        return "\n".join([*(line.rstrip() for line in lines), "", *self._notes()])

    def _repr_html_(self) -> str:
        table = html_table([each.cells() for each in self.layers], HEAD)
        return table + "".join(f"<p>{escape(note)}</p>" for note in self._notes())


@suggest_keywords
def summary(learn: FullLearner, inputs: Any = None) -> Summary:
    """List the layers of the model with output shape, parameters, floating-point operations and memory.

    The model runs once, in evaluation mode; modes, buffers, weights and random states stay as they are. If
    the model has lazy layers, a copy runs. Layers are the modules without submodules, and those with their
    own parameters. FLOPs are counted for matrix products and convolutions, by `torch.utils.flop_counter`.

    Args:
        learn: the learner.
        inputs: a batch of inputs, as for `predict`; by default the first batch of the training data.

    Returns:
        The table, which `print` and a notebook show.

    Raises:
        TypeError: the inputs are a shape.
        ValueError: there is no batch.
    """
    if isinstance(inputs, (tuple, list)) and inputs and all(type(each) is int for each in inputs):
        raise TypeError(f"summary({inputs!r}): pass a batch, such as torch.randn{tuple(inputs)}.")
    batch = a_batch(learn, learn.data.train, "summary") if inputs is None else as_inputs(inputs, learn)[0]
    with predicting(learn), unchanged(learn), runnable_model(learn) as model, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)  # of the counter's hooks
        if "torch._dynamo" in sys.modules:  # hooks and the counter need the model uncompiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        counter = stack.enter_context(FlopCounterMode(display=False))
        watch = Watch(model, counter)
        stack.callback(watch.remove)
        learn.batch = batch
        learn.loop.run_model(learn)
        n_items = in_batch(learn.data, batch) if inputs is None else learn.n_items
    called = watch.layers()
    parameters = {id(each): each for each in model.parameters()}.values()
    tensors = [*parameters, *model.buffers()]
    return Summary(
        called,
        sum(each.numel() for each in parameters),
        sum(each.numel() for each in parameters if each.requires_grad),
        counter.get_total_flops(),
        sum(each.numel() * each.element_size() for each in tensors),
        sum(each.n_bytes for each in called),
        n_items,
    )


@contextmanager
def runnable_model(learn: FullLearner) -> Iterator[nn.Module]:
    """The model; for the block a copy of it, if it has lazy layers, which the first batch would change."""
    model = learn.model
    if not any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        yield model
        return
    lazy = [each for each in model.buffers() if isinstance(each, UninitializedBuffer)]
    new = {
        id(each): UninitializedBuffer(device=each.device, dtype=each.dtype)  # pyright: ignore[reportCallIssue]
        for each in lazy
    }
    learn.model = copy.deepcopy(model, new)  # torch cannot copy the buffers itself
    try:
        yield learn.model
    finally:
        learn.model = model


class Watch:
    """Hooks that note the calls of layers in their rows."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode):
        self._counter, self._handles = counter, []
        named = [(name.replace(COMPILED, ""), m) for name, m in model.named_modules() if is_layer(m)]
        self._layers = {module: Layer(name, type(module).__name__) for name, module in named}
        self._order: dict[nn.Module, None] = {}
        self._stack: list[list[int]] = []  # operations before each call under way, and those of calls within
        for module in self._layers:
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave))

    def remove(self) -> None:
        """Remove the hooks."""
        for each in self._handles:
            each.remove()

    def _enter(self, module: nn.Module, *_: Any) -> None:
        self._order[module] = None
        self._stack.append([self._counter.get_total_flops(), 0])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        before, within = self._stack.pop()
        total = self._counter.get_total_flops() - before
        if self._stack:
            self._stack[-1][1] += total
        layer, outputs = self._layers[module], [each for each in tensors_in(output) if not each.is_nested]
        layer.shapes = [tuple(each.shape) for each in outputs]
        layer.n_bytes += sum(each.numel() * each.element_size() for each in outputs)
        layer.flops += total - within
        layer.n_calls += 1

    def layers(self) -> list[Layer]:
        """The layers in the order of their first calls; those that were not called come last."""
        seen: set[int] = set()
        found = {module: self._layers[module] for module in (*self._order, *self._layers)}
        for module, layer in found.items():
            own = {id(each): each for each in module.parameters(recurse=False)}
            new = [each for key, each in own.items() if key not in seen]
            seen |= set(own)
            layer.n_parameters = sum(each.numel() for each in new if not is_lazy(each))
            layer.is_frozen = bool(own) and not any(each.requires_grad for each in own.values())
            layer.is_shared = bool(own) and not new
        return list(found.values())


def is_layer(module: nn.Module) -> bool:
    """Does it have no submodules, or its own parameters?"""
    return not any(module.children()) or any(True for _ in module.parameters(recurse=False))


def in_units(number: int, base: int) -> str:
    """A number with k, M, G or T, in powers of 1000 or 1024."""
    value, unit = float(number), ""
    for unit in ("", "k", "M", "G", "T", "P"):
        if value < base - 0.5 or unit == "P":
            break
        value /= base
    return f"{value:.{0 if value >= 100 or not unit else 1}f} {unit}".rstrip()


def in_bytes(number: int) -> str:
    """A number of bytes."""
    return in_units(number, 1024) + ("B" if number >= 1024 else " B")
