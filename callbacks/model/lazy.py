"""Tensors without values or a shape: of lazy modules before their first batch, and buffers that grow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from callbacks.model.named import named_tensors
from callbacks.model.shards import like

LAZY, NONE, OPEN = "lazy", "none", "any shape"  # why a tensor has no values, or no definite shape
NO_SHAPE = "no shape yet"


def tensors_without_values(module: nn.Module) -> dict[str, str]:
    """The names of the tensors without values or a definite shape, each with the reason."""
    lazy = {name: LAZY for name, each in named_tensors(module).items() if is_lazy(each)}
    none = {
        f"{path}.{name}" if path else name: NONE
        for path, each in module.named_modules()
        for name, buffer in each._buffers.items()
        if buffer is None and not type(each).__module__.startswith("torch.")  # torch's stay None
    }
    grows = {
        f"{path}.{name}" if path else name: OPEN
        for path, each in module.named_modules()
        for name, buffer in each._buffers.items()
        if buffer is not None and not is_lazy(buffer) and may_grow(each, buffer)
    }
    return lazy | none | grows


def may_grow(module: nn.Module, buffer: Tensor) -> bool:
    """Does a buffer take values of any shape? It is empty, or its module loads its own state.

    The observers of torch's quantization have one value until the first batch shows the number of channels.
    """
    loads_itself = type(module)._load_from_state_dict is not nn.Module._load_from_state_dict
    return buffer.numel() < (2 if loads_itself and not isinstance(module, NORMS) else 1)


NORMS = nn.modules.batchnorm._NormBase


def shape_problems(
    module: nn.Module,
    shapes: dict[str, tuple[int, ...]],
    empties: dict[str, str],
    without: Iterable[Tensor] = (),
) -> dict[str, tuple[Any, Any]]:
    """The names for which a state does not fit a module, each with the saved and the current shape.

    A tensor without values or a definite shape takes any shape, and a buffer may become None again. A
    parameter of a lazy module does not lose its shape again.
    """
    taken = set(map(id, without))
    own = {name: each for name, each in named_tensors(module).items() if id(each) not in taken}
    now = {name: tuple(each.shape) for name, each in own.items() if not is_lazy(each)}
    now_empty = tensors_without_values(module)
    found = {}
    for name in {**shapes, **empties, **now, **now_empty}:
        then_shape = shapes.get(name, NO_SHAPE if name in empties else None)
        now_shape = now.get(name, NO_SHAPE if name in now_empty else None)
        fits = then_shape == now_shape or now_shape == NO_SHAPE or empties.get(name) == NONE
        if not fits and not (name in shapes and now_empty.get(name) == OPEN):
            found[name] = (then_shape, now_shape)
    return found


@torch.no_grad()
def put_tensors(module: nn.Module, tensors: dict[str, Tensor], empties: dict[str, str] | None = None) -> None:
    """Copy values into the tensors of these names; give a shape to those without one.

    A buffer of another shape, or None, is replaced.
    """
    for name, tensor in named_tensors(module).items():
        if name not in tensors:
            continue
        if is_lazy(tensor):
            tensor.materialize(tensors[name].shape)  # type: ignore[attr-defined]
            note_shape(module.get_submodule(name.rpartition(".")[0]), tensors[name].shape)
        if tensor.shape == tensors[name].shape:
            tensor.copy_(like(tensors[name], tensor))
        else:
            put_buffer(module, name, tensors[name].to(tensor.device, tensor.dtype, copy=True))
    device = next((each.device for each in module.parameters()), None)
    for name in tensors.keys() - named_tensors(module).keys():
        put_buffer(module, name, tensors[name].to(device or tensors[name].device, copy=True))
    for name, reason in (empties or {}).items():
        if reason == NONE:
            put_buffer(module, name, None)


def note_shape(module: nn.Module, shape: torch.Size) -> None:
    """Set the sizes that one of torch's lazy modules infers at its first batch, if some are missing."""
    own: Any = module
    if vars(own).get("num_features") == 0:
        own.num_features = shape[0]
    if len(shape) < 2:
        return
    if vars(own).get("in_features") == 0:
        own.in_features = shape[1]
    if vars(own).get("in_channels") == 0:
        own.in_channels = shape[0] if own.transposed else shape[1] * own.groups


def put_buffer(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Replace a buffer, if the module has one of that name."""
    path, _, own = name.rpartition(".")
    owner = dict(module.named_modules()).get(path)
    if owner is not None and own in owner._buffers:
        owner._buffers[own] = tensor


class LazyState:
    """A lazy module's state before its first batch, to be restored later."""

    def __init__(self, module: nn.Module):
        self.module, self.kind = module, type(module)
        tensors = [*module._parameters.values(), *module._buffers.values()]
        self.tensors = [(one, type(one), one.dtype) for one in tensors if one is not None and is_lazy(one)]
        self.settings = {name: each for name, each in vars(module).items() if type(each) is int}

    def restore(self) -> None:
        """Remove its values; it then waits for its first batch again."""
        module: Any = self.module
        module.__class__ = self.kind
        tensor: Any
        for tensor, kind, dtype in self.tensors:
            tensor.grad = None
            tensor.data = torch.empty(0, dtype=dtype, device=tensor.device)
            tensor.__class__ = kind
        vars(module).update(self.settings)
        if "_initialize_hook" not in vars(module):
            module._load_hook = module._register_load_state_dict_pre_hook(module._lazy_load_hook)
            infer = module._infer_parameters
            module._initialize_hook = module.register_forward_pre_hook(infer, prepend=True, with_kwargs=True)

    def __deepcopy__(self, memo: Any) -> LazyState:
        return self  # it is of this module


def lazy_states(module: nn.Module) -> list[LazyState]:
    """The modules in it that wait for their first batch."""
    return [
        LazyState(each)
        for each in module.modules()
        if isinstance(each, LazyModuleMixin) and each.has_uninitialized_params()  # type: ignore[misc]
    ]
