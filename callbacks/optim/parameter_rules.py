"""Share parameters among optimizers by rules, each parameter once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from callbacks.core.output import listed
from callbacks.core.warning import warn

Rule = Callable[[str, Tensor], Any]
Named = tuple[str, Tensor]
NEEDED = ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict")
EXAMPLE = "Optimizers((partial(Muon, lr=0.02), lambda name, p: p.ndim == 2), partial(AdamW, lr=1e-3))"


@dataclass(frozen=True)
class Part:
    """One of several optimizers: a ready one, or a factory with the rule by which it gets parameters.

    The rule takes name and parameter, and is true for those of this part; None for all that are left.
    """

    given: Any
    rule: Rule | None = None
    is_ready: bool = False

    def __str__(self) -> str:
        made = getattr(self.given, "func", self.given)
        return type(made).__name__ if self.is_ready else getattr(made, "__name__", repr(made))

    def held(self) -> set[int]:
        """The ids of the parameters that a ready optimizer holds."""
        return set(map(id, parameters_of(self.given))) if self.is_ready else set()


def missing_of(item: Any) -> list[str]:
    """The names in `NEEDED` that an object lacks to be an optimizer."""
    return list(NEEDED) if isinstance(item, type) else [name for name in NEEDED if not hasattr(item, name)]


def parameters_of(optimizer: Any) -> list[Tensor]:
    """All parameters that an optimizer holds, in its order."""
    return [each for group in optimizer.param_groups for each in group["params"]]


def as_part(given: Any, position: int, is_last: bool) -> Part:
    """The part that an argument of `Optimizers` describes."""
    if not missing_of(given):
        return Part(given, is_ready=True)
    factory, *rule = given if isinstance(given, (tuple, list)) else (given,)
    if len(rule) > 1 or not callable(factory) or not all(map(callable, rule)):
        lacks = "" if callable(factory) or len(missing_of(given)) > 2 else f" It lacks {missing_of(given)}."
        raise TypeError(
            f"Optimizers: argument {position} is {given!r} ({type(given).__name__}).{lacks} Pass an "
            f"optimizer, a factory, or a pair of a factory and a rule, such as {EXAMPLE}."
        )
    part = Part(factory, rule[0] if rule else None)
    if part.rule is None and not is_last:
        raise ValueError(
            f"Optimizers: argument {position}, {part}, has no rule, so it would get all parameters. Only the "
            f"last one may have none, as in {EXAMPLE}."
        )
    return part


def named_groups(parameters: Iterable[Any]) -> list[tuple[dict[str, Any], list[Named]]]:
    """Parameters as optimizers take them, as groups: settings, and parameters with their names."""
    given = list(parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    found = []
    for group in groups:
        settings = {name: value for name, value in group.items() if name != "params"}
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        pairs = [each if isinstance(each, (tuple, list)) else ("", each) for each in params]
        found.append((settings, [(str(name), each) for name, each in pairs]))
    return found


def shares_of(parts: Sequence[Part], parameters: Iterable[Any]) -> list[list[dict[str, Any]]]:
    """The groups of each part; a ready optimizer gets none, and no other part gets its parameters."""
    shares: list[list[dict[str, Any]]] = [[] for _ in parts]
    problems: dict[str, list[str]] = {}
    held = [part.held() for part in parts]
    for settings, pairs in named_groups(parameters):
        own: list[list[Tensor]] = [[] for _ in parts]
        for name, parameter in pairs:
            found = takers(parts, held, name, parameter)
            if len(found) == 1:
                own[found[0]].append(parameter)
            else:
                who = " and ".join(str(parts[each]) for each in found) or "no rule"
                problems.setdefault(who, []).append(name or f"a parameter of shape {tuple(parameter.shape)}")
        for share, params, part in zip(shares, own, parts, strict=True):
            if params and not part.is_ready:
                share.append({**settings, "params": params})
    if problems:
        raise ValueError(problem_text(problems))
    return shares


def takers(parts: Sequence[Part], held: list[set[int]], name: str, parameter: Tensor) -> list[int]:
    """The positions of the parts that take a parameter: by holding it, by their rules, or as the rest."""
    holders = [position for position, ids in enumerate(held) if id(parameter) in ids]
    if holders:
        return holders
    found = [position for position, part in enumerate(parts) if part.rule and matches(part, name, parameter)]
    rest = [position for position, part in enumerate(parts) if not part.is_ready and part.rule is None]
    return found or rest


def matches(part: Part, name: str, parameter: Tensor) -> bool:
    """Is the rule true for a parameter?"""
    assert part.rule is not None
    try:
        return bool(part.rule(name, parameter))
    except Exception as error:
        shape = tuple(parameter.shape)
        error.add_note(f"in the rule of {part}, which was asked for rule({name!r}, <parameter of {shape}>)")
        raise


def problem_text(problems: dict[str, list[str]]) -> str:
    """The error for rules that do not assign each parameter to one optimizer."""
    words = [
        f"{who} {'matches' if who == 'no rule' else 'both match'} {listed(names)}"
        for who, names in problems.items()
    ]
    return (
        f"Optimizers: {'; '.join(words)}. Each parameter belongs to exactly one optimizer: change the "
        "rules, omit the last one's rule, so that it gets the remaining parameters, or call "
        "add_param_group on one of the optimizers."
    )


def warn_of_empty(parts: Sequence[Part], shares: list[list[dict[str, Any]]], frozen: Iterable[Named]) -> None:
    """Warn of parts that get no parameter; a rule that matches frozen ones may get them later."""
    held = [part.held() for part in parts]
    waiting = {position for name, each in frozen for position in takers(parts, held, name, each)}
    for position, (part, share) in enumerate(zip(parts, shares, strict=True)):
        if not (share or part.is_ready or position in waiting):
            why = "no parameter is left for it" if part.rule is None else "its rule matches no parameter"
            warn(f"Optimizers: {part} is left out, because {why}.")


def check_distinct(members: Iterable[Any]) -> None:
    """Refuse a parameter that two optimizers hold, as both would update it."""
    holders: dict[int, Any] = {}
    for member in members:
        own = parameters_of(member)
        for parameter in own:
            other = holders.get(id(parameter))
            if other is not None:
                raise ValueError(
                    f"Optimizers: {type(other).__name__} and {type(member).__name__} both have a "
                    f"parameter of shape {tuple(parameter.shape)}, so each step would update it twice. "
                    "Pass it to only one of them."
                )
        holders |= dict.fromkeys(map(id, own), member)
