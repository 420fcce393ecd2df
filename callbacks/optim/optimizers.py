"""Several optimizers as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from callbacks.optim.joined_state import JoinedState
from callbacks.optim.parameter_rules import (
    Named,
    Part,
    as_part,
    check_distinct,
    missing_of,
    shares_of,
    warn_of_empty,
)

HOOKS = "_optimizer_"  # the beginning of the names under which torch keeps hooks
SET_BY_TORCH = ("step", "_opt_called", "_zero_grad_profile_name")  # by its schedulers, and for profiles


class Optimizers(torch.optim.Optimizer):
    """Combine several optimizers, or factories of optimizers, into one.

        Optimizers((partial(Muon, lr=0.02), lambda name, p: p.ndim == 2), partial(AdamW, lr=1e-3))
        Optimizers(Adam(generator.parameters()), SGD(critic.parameters(), lr=0.1))

    `Learner(optimizer=[...])` is the same as `Learner(optimizer=Optimizers(...))`. If you pass factories,
    this object is a factory too: the learner, or a call with `model.named_parameters()`, makes the optimizer.
    Each parameter goes to the one optimizer whose rule is true for it, or else to the last optimizer, if that
    has no rule. An optimizer that gets no parameter is left out, with a warning; it is made once it gets one,
    for example after `learn.unfreeze()`.

    It is a `torch.optim.Optimizer`. Its `param_groups` are the groups of its members, one after the other, as
    the same dicts; `step`, `zero_grad` and the state dict cover all members. You can also step one member
    alone, as in `learn.optimizer.members[0].step()`, which does not affect the others. A closure is passed to
    each member in turn, so each computes the loss at the weights that the members before it have updated.

    Args:
        given: optimizers, factories, and pairs of a factory and a rule. A rule takes `(name, parameter)` and
            returns whether the parameter belongs to this factory. Only the last factory can omit its rule.

    Raises:
        TypeError: an argument is something else.
        ValueError: there is no argument; two members hold the same parameter; a factory that is not the last
            has no rule; when it is made: two rules match a parameter, or none does.
    """

    is_made: bool  #: does it have members? Otherwise it is a factory of them
    _parts: tuple[Part, ...]
    _made: dict[int, Any]  # the member of each part that has parameters
    _places: list[tuple[int, int]]  # of each parameter group: its member's part, and its position there

    def __init__(self, *given: Any):
        flat = [each for one in given for each in (one.flat() if isinstance(one, Optimizers) else (one,))]
        parts = tuple(as_part(each, n, n == len(flat) - 1) for n, each in enumerate(flat))
        if not parts:
            raise ValueError("Optimizers(): pass at least one optimizer or factory.")
        made = {n: part.given for n, part in enumerate(parts) if part.is_ready}
        check_distinct(made.values())
        super().__setstate__(
            {"_parts": parts, "_made": made, "is_made": len(made) == len(parts), "_places": []}
        )

    def __call__(self, parameters: Iterable[Any], *, frozen: Iterable[Named] = ()) -> Optimizers:
        """Make the optimizers of these parameters; this object stays a factory.

        Parameters are tensors, pairs of name and tensor, or groups of either, as torch's optimizers take
        them. Rules get "" as the name of a bare tensor. A rule that matches one of `frozen` gives no warning.
        """
        shares = shares_of(self._parts, parameters)
        warn_of_empty(self._parts, shares, frozen)
        new = type(self).__new__(type(self))
        made = {
            n: made_of(part, share) for n, (part, share) in enumerate(zip(self._parts, shares, strict=True))
        }
        made = {n: each for n, each in made.items() if each is not None}
        check_distinct(made.values())
        new.__setstate__({**self.__getstate__(), "_made": made, "is_made": True, "_places": []})
        return new

    def flat(self) -> tuple[Any, ...]:
        """The arguments to create it again: its members, or the factories and rules."""
        if self.is_made:
            return self.members
        return tuple(part.given if part.rule is None else (part.given, part.rule) for part in self._parts)

    @property
    def members(self) -> tuple[Any, ...]:
        """The optimizers, in the order in which they were given.

        Raises:
            AttributeError: there are none yet, only factories.
        """
        check_made(self)
        return tuple(self._made[position] for position in sorted(self._made))

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of all members: a new list of the members' own dicts.

        A group that is added to a member comes last, so the positions of the others do not change.
        """
        check_made(self)
        groups = {at: self._made[at].param_groups for at in sorted(self._made)}
        places = [(at, n) for at, found in groups.items() for n in range(len(found))]
        if len(places) != len(self._places):
            kept = [each for each in self._places if each in places]
            self._places = list(dict.fromkeys([*kept, *places]))
        return [groups[at][n] for at, n in self._places]

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of all members by parameter: a view, through which each member's own is changed."""
        return JoinedState(self.members)

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The settings that all members have, with the first one's values."""
        first, *others = [getattr(each, "defaults", {}) for each in self._made.values()] or [{}]
        return {name: value for name, value in first.items() if all(name in each for each in others)}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step each member; with a closure, each with the closure. Returns the first loss."""
        if closure is None:
            for member in self.members:
                member.step()
            return None
        losses = [member.step(closure) if takes_closure(member) else member.step() for member in self.members]
        return next((loss for loss in losses if loss is not None), None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all members' parameters."""
        for member in self.members:
            member.zero_grad() if set_to_none else member.zero_grad(set_to_none=False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the parameters of a group to the members whose rules match them.

        Args:
            param_group: as for torch's method, with pairs `(name, parameter)` if the rules use names.

        Raises:
            ValueError: no rule, or more than one, matches a parameter: call `members[...].add_param_group`.
        """
        shares = shares_of(self._parts, [param_group])
        for position, (part, share) in enumerate(zip(self._parts, shares, strict=True)):
            if share and position not in self._made:
                self._made[position] = made_of(part, share)
            elif share:
                for group in share:
                    self._made[position].add_param_group(group)

    def train(self) -> None:
        """Switch the members that have modes, such as schedule-free optimizers, to training mode."""
        set_mode(self, training=True)

    def eval(self) -> None:
        """Switch the members that have modes, such as schedule-free optimizers, to evaluation mode."""
        set_mode(self, training=False)

    def state_dict(self) -> dict[str, Any]:
        """The state dicts of all members: `{"members": [...], "kinds": [...]}`, kinds being class names."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state: dict[str, Any] = {
            "members": [member.state_dict() for member in self.members],
            "kinds": [type(member).__name__ for member in self.members],
        }
        for hook in self._optimizer_state_dict_post_hooks.values():
            state = hook(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: it belongs to other optimizers or another order; then nothing has been changed.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        check_kinds(self, state_dict)
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not is_from_torch(name)}

    def __repr__(self) -> str:
        shown = [str(part) for n, part in enumerate(self._parts) if not self.is_made or n in self._made]
        return f"Optimizers({', '.join(shown)})"


def is_from_torch(name: str) -> bool:
    """Is an attribute one that torch sets on an optimizer, and does not copy?"""
    return name.startswith(HOOKS) or name in SET_BY_TORCH


def check_made(optimizer: Optimizers) -> None:
    """Refuse to be used as an optimizer before there are parameters."""
    if not optimizer.is_made:
        raise AttributeError(
            f"{optimizer!r} contains factories, but no parameters yet: pass it to a Learner, or call it "
            "with model.named_parameters()."
        )


def is_made(item: Any) -> bool:
    """Is it `Optimizers` with members?"""
    return isinstance(item, Optimizers) and item.is_made


def members_of(optimizer: Any) -> tuple[Any, ...]:
    """The optimizers in an optimizer: its members, or itself; none of None."""
    if optimizer is None:
        return ()
    return optimizer.members if isinstance(optimizer, Optimizers) else (optimizer,)


def title_of(optimizer: Any) -> str:
    """Its class's name, or those of its members: `Muon + AdamW`."""
    return " + ".join(type(each).__name__ for each in members_of(optimizer)) or "None"


def made_of(part: Part, share: list[dict[str, Any]]) -> Any:
    """The optimizer that a factory makes from its groups, or the ready one; None without parameters."""
    if part.is_ready or not share:
        return part.given if part.is_ready else None
    made = part.given(share[0]["params"] if len(share) == 1 and len(share[0]) == 1 else share)
    if missing_of(made):
        lacks = ", no ".join(missing_of(made))
        raise TypeError(f"Optimizers: {part} made {made!r}, which is not an optimizer: it has no {lacks}.")
    return made


def check_kinds(optimizer: Optimizers, state: Any) -> None:
    """Refuse the state of other optimizers."""
    own = [type(member).__name__ for member in optimizer.members]
    then = state.get("kinds") if isinstance(state, dict) else None
    if then != own:
        shown = "one optimizer" if then is None else " + ".join(then)
        raise ValueError(
            f"the state belongs to {shown}, but these are {' + '.join(own)}: load it into the same "
            "optimizers in the same order."
        )


def takes_closure(optimizer: Any) -> bool:
    """Can its `step` be called with a closure?"""
    return bool(can_call(optimizer.step, None))


def needs_closure(optimizer: Any) -> bool:
    """Must its `step`, or a member's, be called with an argument, as for `torch.optim.LBFGS`?"""
    return any(
        # a scheduler of torch replaces `step` by a function whose signature still has `self`
        can_call(member.step) is False
        and can_call(getattr(type(member), "step", member.step), member) is not True
        for member in members_of(optimizer)
    )


def can_call(function: Callable[..., Any], *arguments: Any) -> bool | None:
    """Can it be called with these arguments? None for a builtin without a signature."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return None
    return True


def has_modes(optimizer: Any) -> bool:
    """Does it, or a member, have a training and an evaluation mode, like schedule-free optimizers?"""
    return any(
        callable(getattr(each, "train", None)) and callable(getattr(each, "eval", None))
        for each in members_of(optimizer)
    )


def set_mode(optimizer: Any, *, training: bool) -> None:
    """Put those that have modes into one of them."""
    for member in members_of(optimizer):
        if has_modes(member):
            member.train() if training else member.eval()
