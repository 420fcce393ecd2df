"""Resolve the names in a recipe: from our tables, from installed packages, and from the user's own code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch
from torch import nn

import callbacks
from callbacks import Callback
from callbacks.core.foreign_names import CALLBACK_WORDS
from callbacks.core.output import with_article
from callbacks.schedule import annealers
from learner.data import datasets
from learner.data.data import Data
from learner.engine import groups
from learner.recipes.recipe_errors import closest, did_you_mean
from learner.recipes.signatures import Signature
from learner.recipes.user_code import UnusableName, UserCode, full_name

SHORT_LOSSES = {
    "mse": "mse_loss",
    "l1": "l1_loss",
    "mae": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
    "nll": "nll_loss",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
}


MAX_LISTED = 15  # names of a kind in a hint beside the one that was probably meant


@dataclass(frozen=True)
class Kind:
    """One kind of component."""

    plural: str  #: the table's name, in lists and in entry points (`plainlearner.<plural>`)
    wanted: str  #: describes a component of this kind, for messages
    accepts: Callable[[Any], bool]  #: tests whether a class or function is one
    n_given: int = 0  #: number of leading arguments that the loop passes, not the recipe


def is_subclass(base: type) -> Callable[[Any], bool]:
    """A test for proper subclasses of `base`."""
    return lambda item: isinstance(item, type) and issubclass(item, base) and item is not base


def is_function(item: Any) -> bool:
    """Is it callable, but neither a class, a module nor a callback?"""
    return callable(item) and not isinstance(item, type) and not isinstance(item, (nn.Module, Callback))


def is_metric(item: Any) -> bool:
    """Is it a class with `reset`, `update` and `compute`, or a function?"""
    methods = all(hasattr(item, name) for name in ("reset", "update", "compute"))
    return (isinstance(item, type) and methods) or is_function(item)


is_module = is_subclass(nn.Module)
is_optimizer = is_subclass(torch.optim.Optimizer)

KINDS = {
    "model": Kind(
        "models",
        "a subclass of nn.Module, or a function that returns a model",
        lambda item: is_module(item) or is_function(item),
    ),
    "data": Kind(
        "data",
        "a function that returns data, or a subclass of Data",
        lambda item: is_function(item) or is_subclass(Data)(item),
    ),
    "loss": Kind(
        "losses",
        "a subclass of nn.Module, or a function of (preds, targets)",
        lambda item: is_module(item) or is_function(item),
        2,
    ),
    "optimizer": Kind(
        "optimizers",
        "a subclass of torch.optim.Optimizer, or a function of parameters that returns one",
        lambda item: is_optimizer(item) or is_function(item),
        1,
    ),
    "annealer": Kind("annealers", "a function that returns a function of progress", is_function),
    "splitter": Kind("splitters", "a function of the model that returns its layer groups", is_function, 1),
    "scheduler": Kind(
        "schedulers", "a subclass of LRScheduler", is_subclass(torch.optim.lr_scheduler.LRScheduler), 1
    ),
    "callback": Kind(
        "callbacks",
        "a subclass of Callback",
        lambda item: is_subclass(Callback)(item) or isinstance(item, Callback),
    ),
    "metric": Kind(
        "metrics", "a function of (preds, targets), or a class with reset, update and compute", is_metric, 2
    ),
}


class Names:
    """Resolves the names in a recipe.

    Python files must be in or below its `folder`; `package.module:Name` may be imported from the packages in
    `allow`.
    """

    def __init__(self, folder: Path, allow: Iterable[str] = ()):
        self.code = UserCode(folder, allow)

    def find(self, kind: str, name: str) -> Any:
        """The class or function with this kind and name."""
        if ":" in name:
            found = self.code.find(name)
        elif name in table(kind):
            found = table(kind)[name]
        elif name in installed(kind):
            found = load_entry_point(installed(kind)[name])
        else:
            hint = self.code.hint_beside(name) or suggest(kind, name)
            raise UnusableName(f"there is no {kind} called {name!r}", hint)
        if not KINDS[kind].accepts(found):
            raise UnusableName(
                f"{name} is not a valid {kind}: it is {describe(found)}",
                f"A {kind} must be {KINDS[kind].wanted}.",
            )
        return found

    def find_any(self, name: str) -> tuple[str, Any]:
        """The kind and the object of a name in any table; user code gets the first kind that accepts it."""
        if ":" in name:
            found = self.code.find(name)
            return next((kind for kind in FROM_NARROW if KINDS[kind].accepts(found)), "data"), found
        for kind in FROM_NARROW:
            if name in table(kind) or name in installed(kind):
                return kind, self.find(kind, name)
        names = [each for kind in KINDS for each in known(kind)]
        short = [each for each in table("annealer") if name.lower().startswith(each)]  # cos for cosine
        close = short or [each for each in [closest(name, names)] if each]
        hint = f"Did you mean {close[0]}?" if close else "`learner ls` lists all names."
        raise UnusableName(f"nothing is named {name!r}", hint)


# The narrow kinds come first: a model or data can be any function.
FROM_NARROW = ("callback", "optimizer", "scheduler", "annealer", "metric", "loss", "model", "data")


@cache
def table(kind: str) -> dict[str, Any]:
    """The built-in names of a kind."""
    if kind == "loss":
        return losses()
    if kind == "model":
        taken = {"Container", *losses()}
        return {name: item for name, item in public(nn) if is_module(item) and name not in taken}
    if kind == "data":
        return {name: getattr(datasets, name) for name in datasets.__all__}
    if kind == "optimizer":
        return {name: item for name, item in public(torch.optim) if is_optimizer(item)}
    if kind == "scheduler":
        return {name: item for name, item in public(torch.optim.lr_scheduler) if KINDS[kind].accepts(item)}
    if kind == "splitter":
        return {"by_children": groups.by_children, "body_and_head": groups.body_and_head}
    if kind == "annealer":
        return {name: getattr(annealers, name) for name in annealers.__all__}
    ours = {name: getattr(callbacks, name) for name in sorted(callbacks.__all__, key=str.lower)}
    if kind == "callback":
        return {name: item for name, item in ours.items() if is_subclass(Callback)(item)}
    return {
        name: item for name, item in ours.items() if hasattr(item, "higher_is_better") or name == "accuracy"
    }


def losses() -> dict[str, Any]:
    """Short names, functions of torch.nn.functional, and classes of torch.nn."""
    functional = nn.functional
    short = {name: getattr(functional, full) for name, full in SHORT_LOSSES.items()}
    functions = {
        name: item
        for name, item in public(functional)
        if name.endswith(("_loss", "entropy", "entropy_with_logits", "kl_div"))
    }
    classes = {name: one for name, one in public(nn) if is_module(one) and name.endswith(("Loss", "Loss2d"))}
    return {**short, **functions, **classes}


def public(module: Any) -> list[tuple[str, Any]]:
    """The public names of a module, in alphabetical order."""
    return sorted((name, item) for name, item in vars(module).items() if not name.startswith("_"))


def installed(kind: str) -> dict[str, EntryPoint]:
    """Names that installed packages provide by entry points; nothing is imported."""
    found = entry_points(group=f"plainlearner.{KINDS[kind].plural}")
    return {each.name: each for each in found if each.name not in table(kind)}


def load_entry_point(entry: EntryPoint) -> Any:
    """Load the object that an installed package provides under a name."""
    try:
        return entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise UnusableName(
            f"the installed package {package} provides {entry.name}, but cannot be imported: "
            f"{type(error).__name__}: {error}",
            f"Fix or remove it: pip install --upgrade {package}, or pip uninstall {package}.",
        ) from error


def known(kind: str) -> list[str]:
    """All names of a kind; nothing is loaded."""
    return [*table(kind), *installed(kind)]


def suggest(kind: str, name: str) -> str:
    """Suggest what to write instead of an unknown name."""
    others = [other for other in KINDS if other != kind and name in known(other)]
    if kind == "callback" and "scheduler" in others:
        return f"Pass it to a callback: TorchScheduler: {{scheduler: {{use: {name}, ...}}}}."
    if others:
        return f"{name} is in: {', '.join(KINDS[other].plural for other in others)}."
    tail = name.rpartition(".")[2]
    if "." in name and tail in table(kind):
        return f"Write {tail}, without its package."
    if name.endswith(")") and name.partition("(")[0] in table(kind):
        return f"Write a mapping with its arguments as keys: {{use: {name.partition('(')[0]}, ...}}."
    ours = set(known(kind))
    instead = CALLBACK_WORDS.get(name) if kind in ("callback", "metric") else None
    if instead and (meant := [word for word in re.findall(r"\w+", instead) if word in ours]):
        return f"Its name here is {' or '.join(meant)}; see `learner ls {meant[0]}`."
    own = f'Write your own code as `use: "models.py:{tail if tail.isidentifier() else "Name"}"`.'
    if "." in name:
        package, _, attribute = name.rpartition(".")
        own = f'{own[:-1]}, a package as `use: "{package}:{attribute}"` with `--allow`.'
    names, plural = known(kind), KINDS[kind].plural
    close = closest(name, names)
    if close and len(names) > MAX_LISTED:
        return f"Did you mean {close}? `learner ls {plural}` lists all {plural}. {own}"
    return f"{did_you_mean(name, names)} {own}"


def describe(found: Any) -> str:
    """Describe a class or function, for messages."""
    if not isinstance(found, type):
        return f"the function {full_name(found)}" if inspect.isroutine(found) else with_article(found)
    bases = [
        base.__name__ for base in (nn.Module, Callback, torch.optim.Optimizer) if issubclass(found, base)
    ]
    return f"the class {full_name(found)}{f', a subclass of {bases[0]}' if bases else ''}"


def signature_of(kind: str, target: Any) -> Signature:
    """The arguments that a recipe can give to a class or function of this kind."""
    makes_it = kind in ("loss", "metric") and isinstance(
        target, type
    )  # the loop calls the instance, not the class
    return Signature(target, 0 if makes_it else KINDS[kind].n_given)


def first_line(item: Any) -> str:
    """The first sentence of a docstring, for lists."""
    text = (inspect.getdoc(item) or "").strip().split("\n\n")[0]
    return " ".join(text.split())
