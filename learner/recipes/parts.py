"""The parts that a recipe names with `use:`: checked first, built later."""

from __future__ import annotations

import ntpath
from dataclasses import dataclass, field
from functools import partial
from pathlib import PureWindowsPath
from typing import Any

from torch import nn

from callbacks import Callback
from learner.recipes.names import Names, signature_of, table
from learner.recipes.overrides import FILE as COMMAND_LINE
from learner.recipes.recipe_errors import Fault, Place
from learner.recipes.signatures import Signature
from learner.recipes.user_code import NameFault, describe_error, mend
from learner.recipes.yaml_tree import Node

USE_WORDS = ("name", "type", "class", "cls", "target", "_target_", "class_path", "kind", "function")


PLACES = ("path", "folder")  # the arguments of callbacks that say where files are written
PLACE_HINT = "Write a relative path without `..`; another place is given on the command line, as {path}=PATH."


@dataclass
class Part:
    """A component of a recipe: what it is, and its arguments.

    Attributes:
        kind: a key of `KINDS`.
        name: as the recipe has it.
        target: the class or function of that name.
        arguments: by name; parts, and lists with parts, are not built yet.
        node: where it stands.
        items: of a model that is a list of layers, these.
        starred: the argument whose list is given item by item.
    """

    kind: str
    name: str
    target: Any
    node: Node
    arguments: dict[str, Any] = field(default_factory=dict)
    items: list[Part] = field(default_factory=list)
    starred: str | None = None

    def build(self) -> Any:
        """The component: an instance, or for optimizers, schedulers and functions a factory with arguments.

        Raises:
            Exception: whatever its constructor raises.
        """
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

    def explain(self, error: Exception, names: Names) -> Fault:
        """An error of its constructor as a fault, at the argument that the words name where they name one."""
        place = self.node.place
        words = str(error)
        if isinstance(self.node.value, dict):
            for name, node in self.node.value.items():
                if f"{name}=" in words or f"{name} " in words or (name == "lr" and "learning rate" in words):
                    place = node.place
        shown = describe_error(error, names.code.folder)
        own_words = isinstance(error, (ValueError, TypeError)) and "\n" not in shown
        message = words if own_words else shown
        remedy = (
            f"`learner ls {self.name}` tells about its arguments." if self.name in table(self.kind) else ""
        )
        return Fault(place, f"{self.name} cannot be built: {message}", remedy if own_words else mend(error))


def built(value: Any) -> Any:
    """An argument with the parts in it built."""
    if isinstance(value, Part):
        return value.build()
    if isinstance(value, list):
        return [built(item) for item in value]
    if isinstance(value, tuple):
        return tuple(built(item) for item in value)
    return {key: built(item) for key, item in value.items()} if isinstance(value, dict) else value


class PartReader:
    """Reads parts from a recipe's tree and collects what is wrong with them.

    Args:
        names: finds what names stand for.
    """

    def __init__(self, names: Names):
        self.names, self.faults = names, list[Fault]()

    def fault(self, place: Place, message: str, hint: str = "") -> None:
        """Note a fault."""
        self.faults.append(Fault(place, message, hint))

    def part(self, kind: str | None, node: Node, path: str, default_name: str | None = None) -> Part | None:
        """The part of a node: `use:` and arguments, a bare name, or for models a list of layers.

        Args:
            kind: a key of `KINDS`, or None for whichever the name is of.
            node: where it stands.
            path: its keys with dots, for messages.
            default_name: the name where there is no `use:`, from the node's key.

        Returns:
            The part, or None where it has faults, which are noted.
        """
        if kind == "model" and isinstance(node.value, list) and node.value:
            layers = [self.part("model", item, f"{path}.{number}") for number, item in enumerate(node.value)]
            items = [layer for layer in layers if layer is not None]
            return (
                Part("model", "Sequential", nn.Sequential, node, items=items)
                if len(items) == len(layers)
                else None
            )
        if isinstance(node.value, str) and default_name is None:
            return self._found(kind, node.value, node.place, node, {})
        values = {} if node.value is None and default_name else node.value
        if not isinstance(values, dict):
            self._no_part(kind, node, path, default_name)
            return None
        use = values.get("use")
        if use is None and default_name is None:
            self._without_use(kind, node, path, values)
            return None
        if use is not None and not isinstance(use.value, str):
            self.fault(use.place, f"{path}.use is {shown(use.value)}", f"Write a name{examples(kind)}.")
            return None
        name, place = (str(use.value), use.place) if use else (str(default_name), node.key_place)
        given = {key: value for key, value in values.items() if key != "use"}
        return self._found(kind, name, place, node, given, path)

    def _found(
        self, kind: str | None, name: str, place: Place, node: Node, given: dict[str, Node], path: str = ""
    ) -> Part | None:
        try:
            kind, target = self.names.find_any(name) if kind is None else (kind, self.names.find(kind, name))
        except NameFault as fault:
            self.fault(place, fault.message, fault.hint)
            return None
        part = Part(kind, name, target, node)
        before = len(self.faults)
        if isinstance(target, Callback):
            for key, value in given.items():
                self.fault(value.key_place, f"{path}.{key}: {name} is made already and takes no arguments")
        else:
            self._read_arguments(part, given, path or kind, place)
        return part if len(self.faults) == before else None

    def _read_arguments(self, part: Part, given: dict[str, Node], path: str, place: Place) -> None:
        """Check arguments against the signature, and keep them."""
        signature = signature_of(part.kind, part.target)
        part.starred = signature.starred
        for name, node in given.items():
            remedy = signature.unknown(name)
            if remedy is not None:
                self.fault(node.key_place, f"{path}.{name}: {part.name} takes no such argument", remedy)
                continue
            value = self._argument(node, f"{path}.{name}")
            wanted = None if holds_part(value) else signature.wrong_value(name, value)
            if wanted is not None:
                default = signature.parameters[name].default
                usual = f"; the default is {default!r}" if isinstance(default, (str, int, float)) else ""
                hint = f"Write {wanted}{number_hint(node.value)}{usual}."
                self.fault(node.place, f"{path}.{name}: {part.name} cannot take {shown(node.plain())}", hint)
            if part.kind == "callback" and name in PLACES and leaves(node):
                message = f"{path}.{name}: {shown(node.value)} is not below the run's folder"
                self.fault(node.place, message, PLACE_HINT.format(path=f"{path}.{name}"))
            part.arguments[name] = signature.convert(name, value)
        missing = [name for name in signature.required if name not in given]
        if missing:
            where = path.rpartition(".")[2]
            hint = f"Add `{missing[0]}:` below `{where}`. It takes: {', '.join(signature.parameters)}."
            self.fault(place, f"{path}: {part.name} needs {' and '.join(missing)}", hint)

    def _argument(self, node: Node, path: str) -> Any:
        """An argument's value; a mapping with `use` is a part of its own."""
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
            hint += f", as {{{first}: {node.value}}}; none are {{}}." if first else "; none are {}."
        self.fault(node.place, f"{path} is {shown(node.plain())}, which names nothing to build", hint)

    def _without_use(self, kind: str | None, node: Node, path: str, values: dict[str, Node]) -> None:
        word = next((word for word in USE_WORDS if word in values), None)
        place = values[word].key_place if word else node.place
        hint = f"Write `use:` in place of `{word}:`." if word else f"Add `use:` and a name{examples(kind)}."
        self.fault(place, f"{path} does not say what it is: it has no `use`", hint)


def leaves(node: Node) -> bool:
    """Does a path leave the folder of a run, by the rules of any system, and is not from the command line?"""
    if not isinstance(node.value, str) or node.place.file == COMMAND_LINE:
        return False
    windows = PureWindowsPath(node.value)
    return bool(windows.anchor) or ntpath.normpath(node.value).split("\\")[0] == ".."


def holds_part(value: Any) -> bool:
    """Is it a part, or does it hold one?"""
    if isinstance(value, (list, tuple)):
        return any(map(holds_part, value))
    return isinstance(value, Part) or (isinstance(value, dict) and any(map(holds_part, value.values())))


def examples(kind: str | None) -> str:
    """Two names of a kind, for hints."""
    known = {
        "model": '"models.py:Net"',
        "data": "digits",
        "loss": "mse",
        "optimizer": "Adam",
        "metric": "RMSE",
    }
    return f", as {known[kind]}" if kind in known else ""


def number_hint(value: Any) -> str:
    """What is wrong with a number in quotes."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return ", without quotes"
    return ""


def shown(value: Any) -> str:
    """A plain value as messages show it."""
    words = {None: "empty", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, dict):
        return f"a mapping of {', '.join(list(value)[:4])}" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the text {value!r}" if isinstance(value, str) else f"the number {value!r}"
