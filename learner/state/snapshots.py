"""Copy everything that determines how a learner continues, and restore it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from callbacks.core import draws
from callbacks.core.contract import Callback
from callbacks.core.modules import LOSS, loss_module, modules_beside
from callbacks.core.when import saved_part
from callbacks.model.declared import put_values, values_of
from callbacks.model.lazy import lazy_states, tensors_without_values
from callbacks.model.lazy import put_tensors as put_named
from callbacks.model.module_state import extra_states, frozen_in, put_extra, put_frozen, tensors_of
from callbacks.model.plain_attributes import plain_state, put_plain
from callbacks.optim.optimizers import members_of, set_mode
from callbacks.optim.saved_state import put_optimizer, wrapped_states
from callbacks.record.unsaved_weights import not_meant_to_last
from callbacks.step.mixed_loss import MixedLoss
from learner.data.batching import TensorLoader
from learner.data.generators import kind_of
from learner.passes import moved_values, own_positions, positions
from learner.state import membership, optimizer_modes, unkept
from learner.state.attributes import CLOCK
from learner.state.fingerprint import loader_of
from learner.state.identity import is_of_loader, loaders_with_state, objects_of, token_of
from learner.state.loss_state import loss_state, put_loss
from learner.state.moved_numbers import moved_in
from learner.state.protocol import FullLearner
from learner.state.snapshot_fits import check_fits, title_of


def take(learn: FullLearner, *, on_cpu: bool = False) -> dict[str, Any]:
    """A snapshot: a copy of `contents_of`. With `on_cpu` the model's tensors are copied to main memory."""
    with optimizer_modes.in_eval_mode(learn) as training_weights:
        state = {**contents_of(learn), "history": learn.history.state_dict()}
        model = {
            name: tensor.to("cpu" if on_cpu else tensor.device, copy=True)
            for name, tensor in state.pop("model").items()
        }
        state = copy.deepcopy(state)
    return {
        "model": model,
        **state,
        "training_weights": training_weights,
        "optimizer_kind": title_of(learn.optimizer),
        "lazy": [
            each for module in (learn.model, *modules_beside(learn).values()) for each in lazy_states(module)
        ],
        "missing": {owner.name: missing_in(owner) for owner in learn.callbacks},
        "missing_in_learner": missing_in(learn),
        "objects": {name: token_of(each) for name, each in objects_of(learn)},
        "data": {name: loader_of(loader) for name, loader in loaders_with_state(learn.data)},
    }


def contents_of(learn: FullLearner) -> dict[str, Any]:
    """The states of model, loss, optimizer, callbacks, loaders and random generators, and the clock.

    Nothing is copied.
    """
    return {
        "model": tensors_of(learn.model),
        "empty": tensors_without_values(learn.model),
        "extra": extra_states(learn.model),
        "frozen": frozen_in(learn.model),
        "plain": plain_state(learn.model),
        "optimizer": learn.optimizer.state_dict() if learn.optimizer is not None else None,
        "wrapped": wrapped_states(learn.optimizer),
        "callbacks": {**states_of_callbacks(learn), **learn.ranks.joined},
        "learner": values_of(learn, learn.state),
        LOSS: loss_state(learn),
        "loaders": {name: own_positions.state_of(each) for name, each in loaders_with_state(learn.data)},
        "random": learn.ranks.random,
        "ranks": learn.ranks.state_dict(),
        "clock": {name: getattr(learn, name) for name in CLOCK},
        "results": dict(learn.results),
    }


def states_of_callbacks(learn: FullLearner) -> dict[str, Any]:
    """The state of each callback that has one; before the first fit, `before_fit` may not have created it."""
    found = {}
    for callback in learn.callbacks:
        try:
            found[callback.name] = saved_part(callback).state_dict()
        except Exception as error:
            is_new = not learn.fitting and not learn.history
            if is_new and may_be_created(callback, error):
                continue
            error.add_note(f"in {type(callback).__name__}.state_dict, of the callback {callback.name!r}")
            raise
    return found


def may_be_created(callback: Callback, error: Exception) -> bool:
    """Is the error of an attribute that the callback's `before_fit` may create?"""
    return isinstance(error, (AttributeError, TypeError)) and callback.listens_to("before_fit")


def restore(learn: FullLearner, snapshot: dict[str, Any], *, before_fit: bool = False) -> None:
    """Check that a snapshot fits, and restore it. It can be restored again later.

    Args:
        learn: the learner.
        snapshot: what `take` returned.
        before_fit: `before_fit` comes next. A callback whose `before_fit` creates its attributes may refuse
            its state now, since the state is restored again afterwards.
    """
    check_fits(learn, snapshot)
    # callbacks come first, because code of the user may raise an error
    put_callback_states(learn, snapshot["callbacks"], before_fit=before_fit)
    put_values(learn, learn.state, copy.deepcopy(snapshot.get("learner", {})))
    for each in snapshot.get("lazy", ()):
        each.restore()
    set_mode(learn.optimizer, training=False)  # the mode in which snapshots are taken
    put_tensors(learn.model, snapshot)
    put_loss(learn, snapshot)
    if learn.optimizer is not None and snapshot["optimizer"] is not None:
        put_optimizer(learn.optimizer, snapshot["optimizer"], snapshot.get("wrapped", {}))
    optimizer_modes.put_training_weights(learn, learn.optimizer, snapshot.get("training_weights"))
    for name, loader in loaders_with_state(learn.data):
        if name in snapshot["loaders"] and is_of_loader(name, loader, snapshot):
            own_positions.load(loader, copy.deepcopy(snapshot["loaders"][name]))
    if not learn.fitting:
        remove_new(learn, snapshot)
    for name, value in snapshot["clock"].items():
        setattr(learn, name, value)
    learn.history.load_state_dict(snapshot["history"])
    learn.results = dict(snapshot["results"])
    learn.ranks.random = snapshot["random"]
    learn.ranks.load_state_dict(learn, snapshot.get("ranks", {}))


def missing_in(owner: Any) -> list[str]:
    """The attributes that `state` declares and that do not exist yet, because `before_fit` creates them."""
    return [name for name in owner.state if not hasattr(owner, name)]


def remove_new(learn: FullLearner, snapshot: dict[str, Any]) -> None:
    """Remove the declared attributes that were missing in the snapshot, so that they are created again."""
    owners = [(each, snapshot.get("missing", {}).get(each.name, ())) for each in learn.callbacks]
    for owner, names in [*owners, (learn, snapshot.get("missing_in_learner", ()))]:
        for name in names:
            vars(owner).pop(name, None)


def put_callback_states(learn: FullLearner, states: dict[str, Any], *, before_fit: bool = False) -> None:
    """Load the states of the callbacks; if one raises an error, all keep their old states."""
    kept: list[tuple[Any, Any]] = []
    for callback in learn.callbacks:
        if callback.name not in states:
            continue
        try:
            part = saved_part(callback)
            kept.append((part, copy.deepcopy(part.state_dict())))
            part.load_state_dict(copy.deepcopy(states[callback.name]))
        except Exception as error:
            if before_fit and may_be_created(callback, error):
                continue
            for each, state in kept:
                each.load_state_dict(state)
            error.add_note(f"while the callback {callback.name!r} loaded its saved state")
            raise


def put_tensors(model: torch.nn.Module, snapshot: dict[str, Any]) -> None:
    """Restore the weights, buffers, other attributes and frozen parameters of a model."""
    put_named(model, snapshot["model"], snapshot.get("empty"))
    put_extra(model, snapshot["extra"])
    put_frozen(model, snapshot["frozen"])
    if "plain" in snapshot:  # missing in files of early versions
        put_plain(model, snapshot["plain"], numbers=moved_in(snapshot, "model"))


class Undo:
    """A copy of everything that loading a checkpoint and training in a sandbox change.

    Args:
        learn: the learner.
        on_cpu: copy the model's tensors to main memory.
    """

    def __init__(self, learn: FullLearner, *, on_cpu: bool = False):
        self.learn, self.snapshot = learn, take(learn, on_cpu=on_cpu)
        self.modules = [learn.model, *modules_beside(learn).values()]
        self.gradients = [(each, each.grad) for module in self.modules for each in module.parameters()]
        self.drawn = [(part, positions.generator_states(part)) for _, part in parts_with_generators(learn)]
        self.values = [(each, moved_values.values_in(each)) for each in learn.data.loaders.values()]

    def restore(self, **others: Any) -> None:
        """Restore it; `others` replace parts of the snapshot."""
        restore(self.learn, {**self.snapshot, **others})
        for part, states in self.drawn:
            positions.set_generator_states(part, states)
        for loader, values in self.values:
            moved_values.put_values(loader, values)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient


@contextmanager
def sandbox(learn: FullLearner) -> Iterator[Any]:
    """Restore, at the end, a snapshot, gradients, modes, callbacks, and how the last fit ended."""
    undo = Undo(learn)
    modes = [(each, each.training) for module in undo.modules for each in module.modules()]
    marks = unkept.hidden_tensors(learn.model)
    ending = learn.stop_reason, learn.error, learn.n_fits, learn.loop.known
    callbacks = tuple(learn.callbacks)
    learn.loop.known = learn.loop.known.without_passes()  # the block may run a few batches only
    parts = {name: getattr(learn, name) for name in ("model", "data", "loss_func", "optimizer")}
    groups = [(each, len(each.param_groups)) for each in members_of(learn.optimizer)]
    for parameter, _ in undo.gradients:
        parameter.grad = None
    try:
        with not_meant_to_last():
            yield learn
    finally:
        put_callbacks(learn, callbacks)
        vars(learn).update(parts)  # the block may have replaced them
        for member, n_groups in groups:
            del member.param_groups[n_groups:]
        undo.restore()
        unkept.report(learn, unkept.changed(learn.model, marks))
        learn.stop_reason, learn.error, learn.n_fits, learn.loop.known = ending
        for module, mode in modes:
            module.training = mode


def put_callbacks(learn: FullLearner, callbacks: tuple[Any, ...]) -> None:
    """Restore this list of callbacks; during a fit, those that come back start again."""
    before = tuple(learn.callbacks)
    if list(map(id, before)) == list(map(id, callbacks)):
        return
    learn.loop.connect(learn, callbacks)
    membership.finish(learn, membership.beside(before, callbacks))
    for callback in membership.beside(callbacks, before) if learn.fitting else ():
        membership.begin(learn, callback)


USUAL = ("builtins", "collections")  # attributes from these packages hold no generator


def parts_with_generators(learn: FullLearner) -> Iterator[tuple[str, Any]]:
    """The loaders, modules and loss, which may hold random generators, by name."""
    yield from learn.data.loaders.items()
    for place, root in {"model": learn.model, **modules_beside(learn)}.items():
        for name, module in root.named_modules():
            if any(kind_of(part) for part in vars(module).values() if type(part).__module__ not in USUAL):
                yield f"{place}.{name}", module
    loss_func = learn.loss_func
    while isinstance(loss_func, MixedLoss):
        loss_func = loss_func.func
    if loss_func is not None and loss_module(loss_func) is None:
        yield LOSS, loss_func


@contextmanager
def keep_random_states(loader: Any = None) -> Iterator[None]:
    """Restore, at the end, the global random states and the next order of the loader."""
    order = loader.state_dict() if isinstance(loader, TensorLoader) else None
    try:
        with draws.undrawn():
            yield
    finally:
        if order is not None:
            loader.load_state_dict(order)
