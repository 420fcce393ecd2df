"""Load a state dict that `safetensors` or plain `torch.save` has written."""

from __future__ import annotations

import collections
import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.output import with_article
from callbacks.model.lazy import lazy_states, put_tensors
from callbacks.model.module_state import EXTRA, put_extra, state_of
from callbacks.model.shards import like
from learner.files import checkpoint_file
from learner.files.safetensors_file import is_safetensors, read_safetensors
from learner.messages.problems import listed
from learner.resume import wrapped_names

State = dict[str, Any]

WRAPPERS = ("model", "state_dict", "model_state_dict", "weights")  # keys under which others save weights


def is_weights_file(path: str | Path) -> bool:
    """Is it a file of weights, rather than a checkpoint?"""
    return is_safetensors(path) or checkpoint_file.is_plain(path)


def put_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into a model as `load_state_dict` does, all of it or nothing.

    Raises:
        CheckpointError: the file holds no state dict, or more than tensors and plain data.
        ImportError: the package safetensors is needed and missing.
        ValueError: it belongs to another model. Nothing is changed.
    """
    if not is_weights_file(path) and (damage := checkpoint_file.damage_of(path)) is not None:
        raise checkpoint_file.CheckpointError(f"{path}: {damage}")
    contents = read_safetensors(path) if is_safetensors(path) else checkpoint_file.read_plain(path)
    state = state_in(contents, path)
    own = model.state_dict(keep_vars=True)
    names = wrapped_names.matched(own, state)
    state = {names[name]: each for name, each in state.items()}
    check_fits(own, state, path)
    load_state(model, state)
    wrapped_names.note(path, names)


def state_in(contents: Any, path: Path) -> State:
    """The state dict in a file."""
    if is_state(contents) or contents == {}:  # of a model without weights
        return items_of(contents)
    found = items_of(contents) if isinstance(contents, dict) else {}
    if {"format", "fingerprint"} <= found.keys():
        raise checkpoint_file.CheckpointError(
            f"{path} is a checkpoint whose end is missing. {checkpoint_file.ANOTHER}"
        )
    states = [key for key in found if is_state(found[key])]
    within = [key for key in WRAPPERS if key in states] or states
    if len(within) == 1:
        return items_of(found[within[0]])
    what = f"a dict with {listed([repr(key) for key in found])}" if found else with_article(contents)
    raise checkpoint_file.CheckpointError(
        f"{path} contains {what}, which has {'several state dicts' if states else 'no state dict'}. It "
        f"must be a state dict, or contain one under a key; the keys {', '.join(map(repr, WRAPPERS))} are "
        "tried first. Save the weights with torch.save(model.state_dict(), path)."
    )


def items_of(contents: dict[Any, Any]) -> State:
    """A plain dict of the contents, because a dict from a file may have any attributes."""
    kind: Any = collections.OrderedDict if isinstance(contents, collections.OrderedDict) else dict
    return dict(list(kind.items(contents)))


def is_state(contents: Any) -> bool:
    """Is this a mapping of names to tensors?"""
    if not isinstance(contents, dict) or not contents:
        return False
    return all(
        type(name) is str and (isinstance(each, Tensor) or name.endswith(EXTRA))
        for name, each in items_of(contents).items()
    )


def check_fits(own: State, state: State, path: Path) -> None:
    """Refuse the state of another model, before anything is changed."""
    there = {id(own[name]) for name in state.keys() & own.keys()}
    # a tied weight needs one name; torch adds the count that batch norms had not before torch 0.4.1
    missing = [
        name
        for name in own
        if name not in state and id(own[name]) not in there and not name.endswith("num_batches_tracked")
    ]
    kinds = {
        "missing in the file": missing,
        "only in the file": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {shape_of(state[name])} (here {shape_of(own[name])})"
            for name in state
            if name in own and not fits(own[name], state[name])
        ],
    }
    problems = [f"{listed(names)} {words}" for words, names in kinds.items() if names]
    if problems:
        raise ValueError(
            f"{path} belongs to another model, so nothing was loaded: {'; '.join(problems)}. Load it into "
            "that model, or load parts of it with model.load_state_dict(..., strict=False)."
            f"{prefix_hint(own, state)}"
        )


def prefix_hint(own: State, state: State) -> str:
    """How to load a file whose names all have a prefix, like those that Lightning writes."""
    name, other = next(iter(own), ""), next(iter(state), "")
    prefix = other.removesuffix(name)
    if not name or not prefix or prefix == other or {prefix + each for each in own} - state.keys():
        return ""
    return (
        f" In the file, the names begin with {prefix!r}: "
        f"model.load_state_dict({{name.removeprefix({prefix!r}): each for name, each in state.items()}})."
    )


def fits(own: Any, given: Any) -> bool:
    """Can the values be copied? A lazy tensor can have any shape."""
    if not isinstance(own, Tensor) or not isinstance(given, Tensor):
        return isinstance(own, Tensor) == isinstance(given, Tensor)
    return is_lazy(own) or own.shape == given.shape


def shape_of(value: Any) -> Any:
    """The shape of a tensor, or the type of something else."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def load_state(model: nn.Module, state: State) -> None:
    """Load a state dict with torch; if torch raises an error, the model is unchanged."""
    before, lazy = copy.deepcopy(state_of(model)), lazy_states(model)
    own = model.state_dict(keep_vars=True)
    by_tensor = {id(own[name]): state[name] for name in state}
    tied = {name: by_tensor[id(each)] for name, each in own.items() if id(each) in by_tensor}
    try:
        model.load_state_dict({name: like(each, own[name]) for name, each in {**tied, **state}.items()})
    except Exception:
        for each in lazy:
            each.restore()
        put_tensors(model, before["tensors"], before["empty"])
        put_extra(model, before["extra"])
        raise
