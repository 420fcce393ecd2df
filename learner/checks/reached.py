"""Modules that a loss function uses through a closure, a global or an attribute, and that are not saved."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from callbacks.core.modules import loss_module, modules_beside
from callbacks.core.output import with_article
from callbacks.model.named import named_tensors
from learner.data.generators import cells_of
from learner.messages.problems import LearnerWarning, listed
from learner.state.protocol import FullLearner

LONGEST, DEEPEST = 20, 4
Mark = tuple[nn.Module, dict[str, tuple[int, int]]]


def marks_of(learn: FullLearner) -> list[Mark]:
    """The modules that the loss uses and that are not saved, with marks that change as their tensors do."""
    own = [each for each in vars(learn).values() if isinstance(each, nn.Module) and each is not learn.model]
    found = list(modules_in([loss_module(learn.loss_func) or learn.loss_func, *own]))
    if not found:
        return []
    kept = (learn.model, *modules_beside(learn).values())
    known = {id(part) for module in kept for part in module.modules()}
    known |= {id(each) for module in kept for each in named_tensors(module).values()}
    unique = {id(each): each for each in found if id(each) not in known}
    return [(each, tensor_marks(each, known)) for each in unique.values()]


def unkept_problems(marks: list[Mark], held: set[int]) -> Iterator[Exception]:
    """Warn of such modules that a batch has changed, or whose gradients no known optimizer uses."""
    for module, before in marks:
        found = named_tensors(module)
        given = {name for name in before if found[name].grad is not None and id(found[name]) not in held}
        now = tensor_marks(module, set())
        changed = {name for name, mark in now.items() if before.get(name, mark) != mark}
        if given | changed:
            names = listed(sorted(given or changed))
            what = (
                f"gets gradients, in {names}, that no known optimizer uses" if given else f"changes {names}"
            )
            yield LearnerWarning(
                f"the loss uses {with_article(module)} that {what}, and that snapshots and checkpoints "
                "do not save. Pass the module itself as loss_func (or a partial or a method of it), or "
                "list it, and its optimizer, in the `state` of a callback or of a subclass of Learner."
            )


def tensor_marks(module: nn.Module, known: set[int]) -> dict[str, tuple[int, int]]:
    """For each name the identity of the tensor, and how many times it was written to."""
    found = {name: each for name, each in named_tensors(module).items() if id(each) not in known}
    return {name: (id(each), each._version) for name, each in found.items() if not is_lazy(each)}


def modules_in(parts: list[Any]) -> Iterator[nn.Module]:
    """The modules that some objects lead to in a few steps."""
    seen: set[int] = set()
    left = [(part, 0) for part in parts]
    while left:
        part, depth = left.pop()
        if id(part) in seen or depth > DEEPEST:
            continue
        seen.add(id(part))
        if isinstance(part, nn.Module):
            yield part
        else:
            left += [(each, depth + 1) for each in within(part)]


def within(part: Any) -> list[Any]:
    """What a callable or a short container holds; empty for data and for torch's own functions."""
    if isinstance(part, (list, tuple, dict)):
        items = list(part.values() if isinstance(part, dict) else part)
        return items if len(items) <= LONGEST else []
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, types.MethodType):
        return [part.__self__, part.__func__]
    if isinstance(part, types.FunctionType):
        return [] if part.__module__ and part.__module__.startswith("torch.") else variables_of(part)
    is_plain = callable(part) and not isinstance(part, (type, Tensor, types.BuiltinFunctionType))
    return list(vars(part).values()) if is_plain and hasattr(part, "__dict__") else []


def variables_of(function: types.FunctionType) -> list[Any]:
    """The variables that a function closes over, its defaults, and the globals that its code names."""
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    kinds = (nn.Module, Optimizer, types.FunctionType, functools.partial)
    return [*defaults, *cells_of(function).values(), *(each for each in named if isinstance(each, kinds))]
