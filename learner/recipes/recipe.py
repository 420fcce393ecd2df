"""A recipe: everything in it is checked before anything is built; then it gives a Learner."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
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
from learner.recipes.recipe_errors import Fault, RecipeError
from learner.recipes.sections import UNASKED_NAMES, Sections
from learner.recipes.user_code import describe_error, is_within, mend
from learner.recipes.yaml_tree import Node, dump, read_recipe


def load_recipe(path: str | Path, overrides: Iterable[str] = (), *, allow: Iterable[str] = ()) -> Recipe:
    """Read a recipe and check all of it; nothing is built, but the Python files that it names are run.

    Args:
        path: the YAML file.
        overrides: `key.path=value`, as on the command line.
        allow: packages from which `package.module:Name` may be imported.

    Raises:
        RecipeError: it has faults; each says where, what, and how to mend it.
        OSError: the file cannot be read.
    """
    absolute = Path(path).resolve()
    tree = read_recipe(absolute, str(path))
    if not isinstance(tree.value, dict):
        what = "empty" if tree.value is None else f"{shown(tree.plain())}, not a mapping"
        hint = "Write `key: value` lines; `learner init` makes a recipe to begin with."
        raise RecipeError([Fault(tree.place, f"this recipe is {what}", hint)])
    overrides, allow = tuple(overrides), tuple(allow)
    apply_overrides(tree, overrides)
    recipe = Recipe(absolute, tree, Names(absolute.parent, allow))
    recipe.overrides, recipe.allow = overrides, allow
    return recipe


class Recipe:
    """A recipe that was read and checked; `build()` makes its Learner.

    Args:
        path: its file, absolute.
        tree: what it holds.
        names: finds what its names stand for.

    Raises:
        RecipeError: it has faults.
    """

    overrides: tuple[str, ...] = ()  # with which it was read
    allow: tuple[str, ...] = ()

    def __init__(self, path: Path, tree: Node, names: Names):
        self.path, self.tree, self.names = path, tree, names
        self.sections = Sections(tree, names)

    @property
    def n_epochs(self) -> int:
        """How many epochs it trains."""
        return self.sections.n_epochs

    def build(self) -> Learner:
        """A Learner of the parts: plug-ins, metrics, loss; then, after the seed is set, data, then model.

        Raises:
            RecipeError: a constructor refused its arguments, or the parts do not fit together.
        """
        sections = self.sections
        with self.importable():
            faults: list[Fault] = []
            self._try_optimizer(faults)
            callbacks = [self._callback(key, part, faults) for key, part in sections.callbacks.items()]
            defaults = [self._built(part, faults) for part in sections.defaults]
            metrics = [self._built(part, faults) for part in sections.metrics]
            loss_func = self._built(sections.parts["loss"], faults)
            splitter = self._built(sections.parts["splitter"], faults)
            stop_at(faults)
            if sections.seed is not None:
                seed_everything(sections.seed)
            data = self._built(sections.parts["data"], faults)
            stop_at(faults)
            model = self._built(sections.parts["model"], faults)
            stop_at(faults)
            optimizer = self._built(sections.parts["optimizer"], faults)
            try:
                return Learner(
                    *(model, data, loss_func, optimizer, callbacks, metrics),
                    defaults=defaults,
                    splitter=splitter,
                    decay_norms=sections.decay_norms,
                )
            except Exception as error:
                raise self.error_at(error) from error

    def importable(self) -> AbstractContextManager[None]:
        """Let the recipe's Python files import each other, within the block."""
        return self.names.code.importable()

    def resolved(self) -> str:
        """The recipe with its overrides as YAML; plug-ins that are off, and no defaults, are left out."""
        plain = self.tree.plain()
        for name, node in self.sections.callback_nodes.items():
            if node.value is None and not node.written:
                plain["callbacks"][name] = {}
            elif node.value is None and name not in UNASKED_NAMES:
                del plain["callbacks"][name]
        return dump(plain)

    def error_at(self, error: BaseException) -> RecipeError:
        """An error of the whole composition as a fault, at the plug-in or key of which it speaks."""
        frames = describe_error(error, self.names.code.folder)
        is_own = isinstance(error, (ValueError, TypeError)) and "\n" not in frames
        place = self._node_of(error).key_place
        message, hint = (str(error), "") if is_own else (frames, mend(error))
        return RecipeError([Fault(place, message, hint)])

    def _node_of(self, error: BaseException) -> Node:
        """Where the plug-in stands in whose hook an error was raised, or the key of which its words speak."""
        nodes = self.sections.callback_nodes
        plugin = plugin_in(error.__traceback__)
        for key, node in nodes.items():
            if plugin is not None and key in (plugin.name, type(plugin).__name__):
                return node
        words = str(error)
        for key, part in self.sections.callbacks.items():
            if key in words or part.name.rpartition(":")[2] in words:
                return nodes.get(key, part.node)
        for key, hints in SPEAKS_OF.items():
            if key in self.tree.value and any(hint in words for hint in hints):
                return self.tree.value[key]
        return self.tree

    def _built(self, part: Part | None, faults: list[Fault]) -> Any:
        """The part, built; None where there is none or it cannot be, which is noted."""
        if part is None:
            return None
        try:
            return part.build()
        except Exception as error:  # noqa: BLE001 - told with its place in the recipe
            faults.append(part.explain(error, self.names))
            return None

    def _callback(self, key: str, part: Part, faults: list[Fault]) -> Any:
        """A plug-in; one with a key of its own is reached by that name."""
        plugin = self._built(part, faults)
        if plugin is not None and key not in (part.name, type(plugin).__name__, "device"):
            plugin.name = key
        return plugin

    def _try_optimizer(self, faults: list[Fault]) -> None:
        """Make the optimizer of a parameter that nobody needs, so that its arguments are checked early."""
        part = self.sections.parts["optimizer"]
        if part is None or not isinstance(part.target, type):
            return
        try:
            part.build()([torch.nn.Parameter(torch.zeros(2, 2))])
        except Exception as error:  # noqa: BLE001 - told with its place in the recipe
            faults.append(part.explain(error, self.names))


# Words of errors that tell which key of the recipe they are about, tried in this order.
SPEAKS_OF: dict[str, tuple[str, ...]] = {
    "splitter": ("splitter",),
    "decay_norms": ("decay_norms",),
    "callbacks": ("zeroes the gradients", "two callbacks", "plug-in"),
    "optimizer": ("lr must", "optimizer"),
    "loss": ("loss",),
    "model": ("preds", "model", "parameter"),
    "data": ("data", "batch", "targets"),
}


def stop_at(faults: list[Fault]) -> None:
    """Raise them, where there are any."""
    if faults:
        raise RecipeError(faults)


def is_refusal(error: BaseException, learn: Learner) -> bool:
    """Did the Learner or a plug-in of ours refuse to train, before the first step was done?"""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    is_ours = is_within(module, "learner") or is_within(module, "callbacks")
    return is_ours and learn.global_step == 0 and isinstance(error, (ValueError, TypeError))


def plugin_in(trace: TracebackType | None) -> Callback | None:
    """The plug-in in whose method an error came up."""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, Callback):
            return owner
        trace = trace.tb_next
    return None
