"""Everything that a module keeps, as a state that can be copied, saved and restored."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.model.lazy import put_tensors, shape_problems, tensors_without_values
from callbacks.model.named import named_tensors
from callbacks.model.plain_attributes import plain_state, put_plain

EXTRA = "_extra_state"  # the end of torch's key for what a module's get_extra_state returns


def state_of(module: nn.Module, without: Iterable[Tensor] = ()) -> dict[str, Any]:
    """Parameters, all buffers, extra state, tensors in plain attributes, what is frozen; nothing is copied.

    Args:
        module: whose state it is.
        without: tensors that another module's state holds.
    """
    return {
        "tensors": tensors_of(module, without),
        "empty": tensors_without_values(module),
        "extra": extra_states(module),
        "frozen": frozen_in(module),
        "plain": plain_state(module, without),
    }


def put_state(
    module: nn.Module,
    state: dict[str, Any],
    without: Iterable[Tensor] = (),
    numbers: Collection[str] | None = None,
) -> None:
    """Load what `state_of` returned into the module, in place; the state stays usable.

    Args:
        module: of the same kind.
        state: from `state_of`.
        without: as there.
        numbers: as of `put_plain`.

    Raises:
        ValueError: it belongs to a module with other tensors; then nothing has been changed.
    """
    shapes = {name: tuple(each.shape) for name, each in state["tensors"].items()}
    for name, (then, now) in shape_problems(module, shapes, state["empty"], without).items():
        raise ValueError(
            f"the state of a {type(module).__name__} does not fit: {name!r} has shape {then} in the state, "
            f"and {now} in the module."
        )
    put_tensors(module, state["tensors"], state["empty"])
    put_extra(module, state["extra"])
    put_frozen(module, state["frozen"])
    put_plain(module, state["plain"], without, numbers)


def tensors_of(module: nn.Module, without: Iterable[Tensor] = ()) -> dict[str, Tensor]:
    """Parameters and all buffers by name, detached; a lazy one has no values yet and is left out."""
    taken = set(map(id, without))
    found = named_tensors(module).items()
    return {name: each.detach() for name, each in found if id(each) not in taken and not is_lazy(each)}


def extra_states(module: nn.Module) -> dict[str, Any]:
    """The state of modules other than tensors, by torch's keys."""
    empty = nn.Module.get_extra_state
    return {
        f"{name}.{EXTRA}" if name else EXTRA: each.get_extra_state()
        for name, each in module.named_modules()
        if type(each).get_extra_state is not empty
    }


def put_extra(module: nn.Module, states: dict[str, Any]) -> None:
    """Load what `extra_states` returned into the modules; the states stay usable."""
    for name, each in module.named_modules():
        key = f"{name}.{EXTRA}" if name else EXTRA
        if key in states:
            each.set_extra_state(copy.deepcopy(states[key]))


def frozen_in(module: nn.Module) -> list[str]:
    """The names of the parameters that need no gradient."""
    return [name for name, each in module.named_parameters() if not each.requires_grad]


def put_frozen(module: nn.Module, names: Iterable[str]) -> None:
    """Freeze the parameters of these names, and no others."""
    frozen = set(names)
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name not in frozen  # a lazy one has no `requires_grad_`


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore, at the end of the block, the buffers that a forward pass writes to, such as running means."""
    kept = [(each, each.clone()) for each in model.buffers() if not is_lazy(each)]
    try:
        yield
    finally:
        with torch.no_grad():
            for each, before in kept:
                if not torch.equal(each, before):  # one that is expanded cannot be written to
                    each.copy_(before)
