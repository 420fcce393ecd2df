"""The parts that a recipe names with `use:`. They are checked first and built later."""

from __future__ import annotations

import ntpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PureWindowsPath
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from callbacks import Callback
from learner.recipes.names import Names, signature_of, table
from learner.recipes.overrides import COMMAND_LINE
from learner.recipes.recipe_errors import Place, Problem
from learner.recipes.signatures import PART, Signature
from learner.recipes.user_code import UnusableName, in_words
from learner.recipes.yaml_tree import Node
from learner.scripts import expressions

USE_WORDS = ("name", "type", "class", "cls", "target", "_target_", "class_path", "kind", "function")


PLACES = ("path", "folder")  # arguments of callbacks: where to write files
PLACE_HINT = "Write a relative path without `..`. To write elsewhere, use the command line: {path}=PATH."


@dataclass(kw_only=True)
class Part(expressions.Part):
    """A component of a recipe: its kind, a key of `KINDS`, and its node in the recipe's tree."""

    kind: str
    node: Node

    def build(self) -> Any:
        """Build the component: an instance, or a factory for optimizers, schedulers and functions."""
        if self.items:
            return self.target(*(item.build() for item in self.items))
        arguments = {name: built(value) for name, value in self.arguments.items()}
        items = arguments.pop(self.starred, ()) if self.starred else ()
        if isinstance(self.target, Callback):
            return self.target
        is_class = isinstance(self.target, type)
        if self.kind in ("optimizer", "scheduler"):
            return partial(self.target, **arguments)
        if self.kind in ("loss", "metric", "splitter") and not is_class:
            return partial(self.target, **arguments) if arguments else self.target
        return self.target(*items, **arguments)

    def explain(self, error: BaseException, names: Names) -> Problem:
        """Convert an error of its constructor, placed at the argument that the message mentions, if any."""
        place = self.node.place
        message = str(error)
        if isinstance(self.node.value, dict):
            for name, node in self.node.value.items():
                is_rate = name == "lr" and "learning rate" in message
                if is_rate or f"{name}=" in message or f"{name} " in message:
                    place = node.place
        words, hint = in_words(error, names.code.folder)
        listed = f"`learner ls {self.name}` shows its arguments." if self.name in table(self.kind) else ""
        return Problem(place, f"{self.name} cannot be built: {words}", hint or listed)


def built(value: Any) -> Any:
    """Build the parts inside an argument."""
    return tree_map(lambda item: item.build() if isinstance(item, Part) else item, value)


class PartReader:
    """Reads parts from a recipe's tree and collects their problems."""

    def __init__(self, names: Names):
        self.names, self.problems = names, list[Problem]()

    def problem(self, place: Place, message: str, hint: str = "") -> None:
        """Add a problem."""
        self.problems.append(Problem(place, message, hint))

    def part(self, kind: str | None, node: Node, path: str, default_name: str | None = None) -> Part | None:
        """Read the part in a node: `use:` and arguments, a bare name, or a list of layers for models.

        A `kind` of None accepts any. `path` has the keys of the node, joined by dots, for messages. Without
        `use:`, the name is `default_name`, from the key of the node. Returns None if there are `problems`.
        """
        if kind == "model" and isinstance(node.value, list) and node.value:
            return self._sequential(node, path)
        if isinstance(node.value, str) and default_name is None:
            return self._found(kind, node.value, node.place, node, {})
        values = {} if node.value is None and default_name else node.value
        use = values.get("use") if isinstance(values, dict) else None
        if not isinstance(values, dict):
            self._no_part(kind, node, path, default_name)
        elif use is None and default_name is None:
            self._without_use(kind, node, path, values)
        elif use is not None and not isinstance(use.value, str):
            self.problem(use.place, f"{path}.use is {shown(use.value)}", f"Write a name{examples(kind)}.")
        else:
            name, place = (str(use.value), use.place) if use else (str(default_name), node.key_place)
            given = {key: value for key, value in values.items() if key != "use"}
            return self._found(kind, name, place, node, given, path)
        return None

    def _sequential(self, node: Node, path: str) -> Part | None:
        layers = [self.part("model", item, f"{path}.{number}") for number, item in enumerate(node.value)]
        items = [layer for layer in layers if layer is not None]
        is_whole = len(items) == len(layers)
        part = Part("Sequential", nn.Sequential, items=items, kind="model", node=node)
        return part if is_whole else None

    def _found(
        self, kind: str | None, name: str, place: Place, node: Node, given: dict[str, Node], path: str = ""
    ) -> Part | None:
        try:
            kind, target = self.names.find_any(name) if kind is None else (kind, self.names.find(kind, name))
        except UnusableName as problem:
            self.problem(place, problem.message, problem.hint)
            return None
        part = Part(name, target, kind=kind, node=node)
        before = len(self.problems)
        if isinstance(target, Callback):
            for key, value in given.items():
                self.problem(value.key_place, f"{path}.{key}: {name} is an instance and takes no arguments")
        else:
            self._read_arguments(part, given, path or kind, place)
        return part if len(self.problems) == before else None

    def _read_arguments(self, part: Part, given: dict[str, Node], path: str, place: Place) -> None:
        """Check arguments against the signature, and store them in the part."""
        signature = signature_of(part.kind, part.target)
        part.starred = signature.starred
        for name, node in given.items():
            hint = signature.unknown(name)
            if hint is not None:
                hint = comma_hint(name, given) or hint
                self.problem(node.key_place, f"{path}.{name}: {part.name} has no such argument", hint)
                continue
            value = self._argument(node, f"{path}.{name}")
            self._check_value(part, signature, name, value, node, f"{path}.{name}")
            part.arguments[name] = signature.convert(name, value)
        missing = [name for name in signature.required if name not in given]
        if missing:
            tail = path.rpartition(".")[2]
            where = path if tail.isdecimal() else tail
            hint = f"Add `{missing[0]}:` below `{where}`. It takes: {', '.join(signature.parameters)}."
            words = " and ".join(", ".join(missing).rsplit(", ", 1))
            self.problem(place, f"{path}: {part.name} needs {words}", hint)

    def _check_value(
        self, part: Part, signature: Signature, name: str, value: Any, node: Node, path: str
    ) -> None:
        wanted = None if holds_part(value) else signature.wrong_value(name, value)
        if wanted is not None:
            default = signature.parameters[name].default
            default = list(default) if isinstance(default, tuple) else default
            usual = f"; the default is {default!r}" if isinstance(default, (str, int, float, list)) else ""
            is_name = isinstance(value, str) and PART in wanted
            name_hint = f", as {{use: {value}}}" if is_name else number_hint(node.value)
            hint = f"Write {wanted}{name_hint}{usual}."
            given = f"{path}: {part.name} cannot take {shown(node.plain())}"
            self.problem(node.place, given if node.value is not None else f"{path} is empty", hint)
        if part.kind == "callback" and name in PLACES and leaves(node):
            message = f"{path}: {shown(node.value)} is not below the run's folder"
            self.problem(node.place, message, PLACE_HINT.format(path=path))

    def _argument(self, node: Node, path: str) -> Any:
        """Read an argument's value; a mapping with `use` is a part."""
        if isinstance(node.value, dict) and "use" in node.value:
            return self.part(None, node, path)
        if isinstance(node.value, dict):
            return {key: self._argument(item, f"{path}.{key}") for key, item in node.value.items()}
        if isinstance(node.value, list):
            return [self._argument(item, f"{path}.{number}") for number, item in enumerate(node.value)]
        return node.value

    def _no_part(self, kind: str | None, node: Node, path: str, default_name: str | None) -> None:
        if default_name is None:
            hint = f"Write a name{examples(kind)}, or `{{use: name, argument: value}}`."
        else:
            hint = f"Write its arguments as a mapping, `{default_name}: {{argument: value}}`"
            callback = table("callback").get(default_name)
            first = next(iter(Signature(callback).parameters), None) if callback else None
            is_switch = isinstance(node.value, bool)
            hint += f", as {{{first}: {node.value}}}" if first and not is_switch else ""
            hint += "; without arguments write {}" + (", and to remove it null." if is_switch else ".")
        self.problem(node.place, f"{path} is {shown(node.plain())}, which does not name a part", hint)

    def _without_use(self, kind: str | None, node: Node, path: str, values: dict[str, Node]) -> None:
        word = next((word for word in USE_WORDS if word in values), None)
        place = values[word].key_place if word else node.place
        hint = f"Write `use:` instead of `{word}:`." if word else f"Add `use:` and a name{examples(kind)}."
        self.problem(place, f"{path} has no `use`, so it does not name a part", hint)


def leaves(node: Node) -> bool:
    """Does a path in a recipe lead out of the run's folder, by the rules of any operating system?"""
    if not isinstance(node.value, str) or node.place.file == COMMAND_LINE:
        return False
    windows = PureWindowsPath(node.value)
    return bool(windows.anchor) or ntpath.normpath(node.value).split("\\")[0] == ".."


def holds_part(value: Any) -> bool:
    """Is it a part, or does it contain one?"""
    return any(isinstance(item, Part) for item in tree_leaves(value))


def examples(kind: str | None) -> str:
    """An example of a kind, for hints."""
    known = {
        "model": '"models.py:Net"',
        "data": "digits",
        "loss": "mse",
        "optimizer": "Adam",
        "metric": "RMSE",
    }
    return f", as {known[kind]}" if kind in known else ""


def comma_hint(name: str, given: Mapping[str, Node]) -> str | None:
    """A hint for a decimal comma, as YAML reads `lr: 0,01` as `lr: 0` and an argument `01`."""
    names = list(given)
    before = names[names.index(name) - 1]
    value = given[before].value
    if not name.isdecimal() or type(value) is not int or given[name].value is not None:
        return None
    return f"A comma starts the next argument. Write a decimal number with a point: {before}: {value}.{name}."


def number_hint(value: Any) -> str:
    """A hint for a number in quotes."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return ", without quotes"
    return ""


def shown(value: Any) -> str:
    """Describe a plain value, for messages."""
    words = {None: "empty", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, dict):
        return f"a mapping of {', '.join(list(value)[:4])}" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the text {value!r}" if isinstance(value, str) else f"the number {value!r}"
