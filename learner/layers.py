"""Which layer of a model failed, read off the frames of a traceback."""

from __future__ import annotations

from types import FrameType
from typing import Any

from torch import Tensor, nn

WIDTHS = (
    "in_features",
    "in_channels",
    "num_features",
    "normalized_shape",
    "input_size",
    "embed_dim",
    "num_embeddings",
)


def describe_layer(frames: list[FrameType], model: nn.Module) -> str | None:
    """Path of the innermost layer on the way to the error, what it expects and what it was given."""
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
        f"{name} of shape {tuple(value.shape)}"
        for frame in inside
        if frame.f_locals["self"] is layer and frame.f_code.co_name == "forward"
        for name, value in arguments_of(frame).items()
    ]
    expected = [f"{name}={getattr(layer, name)}" for name in WIDTHS if hasattr(layer, name)]
    path = names[id(layer)]
    title = f"{type(layer).__name__} at model.{path}" if path else f"the model, {type(layer).__name__}"
    return (
        f"in layer {title}"
        + (f" ({', '.join(expected)})" if expected else "")
        + (f", given {', '.join(given)}" if given else "")
    )


def arguments_of(frame: FrameType) -> dict[str, Any]:
    """The tensors among a function's arguments."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return {name: frame.f_locals[name] for name in names if isinstance(frame.f_locals.get(name), Tensor)}
