"""A recipe. All of it is checked before anything is built; then it builds a Learner."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from callbacks import Callback
from learner.data.seeds import seed_everything
from learner.learner import Learner
from learner.recipes.names import Names
from learner.recipes.overrides import apply_overrides
from learner.recipes.parts import Part, shown
from learner.recipes.recipe_errors import Problem, RecipeError
from learner.recipes.sections import ADDED_NAMES, Sections
from learner.recipes.user_code import in_words, is_within
from learner.recipes.yaml_tree import Node, dump, read_recipe


def load_recipe(path: str | Path, overrides: Iterable[str] = (), *, allow: Iterable[str] = ()) -> Recipe:
    """Read a recipe and check all of it, without building it; the Python files that it names are run.

    Args:
        path: the YAML file.
        overrides: `key.path=value`, as on the command line.
        allow: packages from which `package.module:Name` may be imported.
    """
    absolute = Path(path).resolve()
    tree = read_recipe(absolute, str(path))
    if not isinstance(tree.value, dict):
        what = "empty" if tree.value is None else f"{shown(tree.plain())}, not a mapping"
        hint = "Write `key: value` lines; `learner init` writes a recipe to start from."
        raise RecipeError.at(tree.place, f"this recipe is {what}", hint)
    overrides, allow = tuple(overrides), tuple(allow)
    apply_overrides(tree, overrides)
    recipe = Recipe(absolute, tree, Names(absolute.parent, allow))
    recipe.overrides, recipe.allow = overrides, allow
    return recipe


class Recipe:
    """A recipe that was read and checked; `build()` returns its Learner."""

    overrides: tuple[str, ...] = ()  # it was read with them
    allow: tuple[str, ...] = ()

    def __init__(self, path: Path, tree: Node, names: Names):
        self.path, self.tree, self.names = path, tree, names
        self.sections = Sections(tree, names)
        self.n_epochs = self.sections.n_epochs

    def build(self, *, data: Any = None) -> Learner:
        """Build the Learner.

        Callbacks, metrics and loss are built first; then the seed is set; then data and model are built.

        Args:
            data: replaces the data of the recipe.
        """
        with self.importable():
            problems: list[Problem] = []
            self._try_optimizer(problems)
            sections = self.sections
            callbacks = [self._callback(key, part, problems) for key, part in sections.callbacks.items()]
            defaults = [self._built(part, problems) for part in sections.defaults]
            metrics = [self._built(part, problems) for part in sections.metrics]
            loss_func, splitter = self._parts(problems, "loss", "splitter")
            if sections.seed is not None:
                seed_everything(sections.seed)
            if data is None:
                (data,) = self._parts(problems, "data")
            model, optimizer = self._parts(problems, "model", "optimizer")
            try:
                return Learner(
                    *(model, data, loss_func, optimizer, callbacks, metrics),
                    defaults=defaults,
                    splitter=splitter,
                    decay_norms=sections.decay_norms,
                )
            except Exception as error:
                raise self.error_at(error) from error

    def _parts(self, problems: list[Problem], *keys: str) -> list[Any]:
        """Build the parts of some keys; raise if there are problems by then."""
        built = [self._built(self.sections.parts[key], problems) for key in keys]
        if problems:
            raise RecipeError(problems)
        return built

    def importable(self) -> AbstractContextManager[None]:
        """A context in which the recipe's Python files can import each other."""
        return self.names.code.importable()

    def resolved(self) -> str:
        """The recipe with its overrides applied, as YAML. Callbacks that an override removed are left out."""
        plain = self.tree.plain()
        for name, node in self.sections.callback_nodes.items():
            if node.value is None and not node.written:
                plain["callbacks"][name] = {}
            elif node.value is None and name not in ADDED_NAMES:
                del plain["callbacks"][name]
        return dump(plain)

    def error_at(self, error: BaseException) -> RecipeError:
        """Convert an error of the composed Learner, placed at the callback or key that it is about."""
        return RecipeError.at(self._node_of(error).key_place, *in_words(error, self.names.code.folder))

    def _node_of(self, error: BaseException) -> Node:
        """The node of the callback whose hook raised the error, or of the key that the message mentions."""
        nodes = self.sections.callback_nodes
        callback = callback_in(error.__traceback__)
        for key, node in nodes.items():
            if callback is not None and key in (callback.name, type(callback).__name__):
                return node
        message = str(error)
        for key, part in self.sections.callbacks.items():
            if key in message or part.name.rpartition(":")[2] in message:
                return nodes.get(key, part.node)
        for key, found in WORDS_OF_KEYS.items():
            if key in self.tree.value and any(word in message for word in found):
                return self.tree.value[key]
        return self.tree

    def _built(self, part: Part | None, problems: list[Problem]) -> Any:
        """Build the part. None if it is None or cannot be built; the latter adds a problem."""
        if part is None:
            return None
        try:
            return part.build()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - reported with its place in the recipe
            problems.append(part.explain(error, self.names))
            return None

    def _callback(self, key: str, part: Part, problems: list[Problem]) -> Any:
        """Build a callback. If its key is not its class name, the key becomes its `name`."""
        callback = self._built(part, problems)
        if callback is not None and key not in (part.name, type(callback).__name__, "device"):
            callback.name = key
        return callback

    def _try_optimizer(self, problems: list[Problem]) -> None:
        """Build the optimizer for a dummy parameter, so that its arguments are checked early."""
        part = self.sections.parts["optimizer"]
        if part is None or not isinstance(part.target, type):
            return
        try:
            part.build()([torch.nn.Parameter(torch.zeros(2, 2))])
        except Exception as error:  # noqa: BLE001 - reported with its place in the recipe
            problems.append(part.explain(error, self.names))


# Words in error messages that show which key of the recipe they are about, tried in this order.
WORDS_OF_KEYS: dict[str, tuple[str, ...]] = {
    "splitter": ("splitter",),
    "decay_norms": ("decay_norms",),
    "callbacks": ("zeroes the gradients", "two callbacks"),
    "fit": ("n_epochs",),
    "optimizer": ("lr must", "optimizer"),
    "loss": ("loss",),
    "model": ("preds", "model", "parameter"),
    "data": ("data", "batch", "targets"),
}


def is_refusal(error: BaseException, learn: Learner) -> bool:
    """Did the Learner or one of our callbacks refuse to train before the first step?"""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    is_ours = is_within(module, "learner") or is_within(module, "callbacks")
    return is_ours and learn.global_step == 0 and isinstance(error, (ValueError, TypeError))


def mismatch(error: BaseException, learn: Learner) -> str | None:
    """The message of an error of torch if layers, loss and data of the recipe do not fit together.

    None if a step was made, or if code of the user or a callback has raised it: the traceback shows where.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    is_ours = all(any(is_within(each, own) for own in ("learner", "callbacks", "torch")) for each in modules)
    is_computed = not {frame.f_code.co_name for frame in frames}.isdisjoint(("forward", "compute_loss"))
    notes = list(takewhile(lambda note: not note.startswith("at epoch"), getattr(error, "__notes__", [])))
    is_from_callback = any(note.startswith("in callback") for note in notes)
    is_one = is_ours and is_computed and not is_from_callback and type(error) in MISMATCHES
    if not is_one or learn.global_step:
        return None
    return "; ".join([f"{type(error).__name__}: {error}".rstrip("."), *notes])


# What torch raises for shapes, dtypes and classes that do not fit; not the subclasses, as of memory.
MISMATCHES = (RuntimeError, IndexError, ValueError, TypeError)


def callback_in(trace: TracebackType | None) -> Callback | None:
    """The callback whose method raised the error, if one did."""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, Callback):
            return owner
        trace = trace.tb_next
    return None
