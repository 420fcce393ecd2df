"""Which layer of a model failed, and what did not fit, from the frames of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

# What a layer calls its width, and the shape of inputs that it means.
WIDTHS = {
    "in_features": "(..., {})",
    "in_channels": "(items, {}, ...)",
    "num_channels": "(items, {}, ...)",
    "num_features": "(items, {}, ...)",
    "normalized_shape": "(..., {})",
    "input_size": "(..., {})",
    "embed_dim": "(..., {})",
    "num_embeddings": "whole numbers from 0 to below {}",
}


def describe_layer(frames: list[FrameType], model: nn.Module) -> str | None:
    """The innermost layer on the way to the error, what it expects and received, and how to fix it."""
    names = {id(module): name for name, module in model.named_modules()}
    inside = [
        frame
        for frame in frames
        if id(frame.f_locals.get("self")) in names and isinstance(frame.f_locals["self"], nn.Module)
    ]
    if not inside:
        return None
    layer = inside[-1].f_locals["self"]
    given = [
        (name, value)
        for frame in inside
        if frame.f_locals["self"] is layer and frame.f_code.co_name == "forward"
        for name, value in arguments_of(frame).items()
    ]
    path = names[id(layer)]
    kind = type(layer).__name__
    title = f"layer {kind} at model.{path}" if path else f"the model, {kind}"
    shown = [f"{name} of shape {tuple(value.shape)}" for name, value in given]
    width, expected = width_of(layer)
    wrong = [fix for name, value in given[:1] for fix in fixes(layer, name, value)]
    advice = wrong or [expected] * bool(expected)
    return (
        f"in {title}{width}"
        + (f", given {', '.join(shown)}" if shown else "")
        + (f": {'; '.join(advice)}" if advice else "")
    )


def width_of(layer: nn.Module) -> tuple[str, str]:
    """The width of a layer, as ` (in_features=3)`, and `it takes (..., 3)`; or nothing."""
    for name, form in WIDTHS.items():
        width = getattr(layer, name, None)
        if width is not None and not callable(width):
            shown = ", ".join(map(str, width)) if isinstance(width, (tuple, list)) else width
            return f" ({name}={shown})", f"it takes {form.format(shown)}"
    return "", ""


def fixes(layer: nn.Module, name: str, value: Tensor) -> Iterator[str]:
    """How to fix a tensor whose dtype or device differs from that of the layer."""
    own = next(chain(layer.parameters(recurse=False), layer.buffers(recurse=False)), None)
    if own is None:
        return
    if own.device != value.device:
        devices = f"its weights are on {own.device}, {name} is on {value.device}"
        yield f"{devices}; the callback DevicePlacement moves both"
    whole = isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
    if whole and value.is_floating_point():
        yield f"it takes whole numbers, {name} is {short(value.dtype)}; write {name}.long()"
    elif not whole and own.is_floating_point() and own.dtype != value.dtype:
        write = f"{name}.float()" if own.dtype == torch.float32 else f"{name}.to({own.dtype})"
        yield f"its weights are {short(own.dtype)}, {name} is {short(value.dtype)}; write {write}"


def short(dtype: torch.dtype) -> str:
    """`float32` of `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def arguments_of(frame: FrameType) -> dict[str, Any]:
    """The tensors among a function's arguments."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return {name: frame.f_locals[name] for name in names if isinstance(frame.f_locals.get(name), Tensor)}
