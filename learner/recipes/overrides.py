"""`key.path=value` on the command line, applied to a recipe's tree."""

from __future__ import annotations

from collections.abc import Iterable

from learner.recipes.recipe_errors import Fault, Place, RecipeError
from learner.recipes.yaml_tree import Node, parse

FILE = "command line"


def apply_overrides(tree: Node, overrides: Iterable[str]) -> None:
    """Put each value where its path leads, making what is missing on the way; the last of one path wins.

    Raises:
        RecipeError: an override has no `=`, no path, a value that is no YAML, or leads through a plain value.
    """
    faults: list[Fault] = []
    for number, text in enumerate(overrides, 1):
        try:
            apply(tree, text, number)
        except RecipeError as error:
            faults += error.faults
    if faults:
        raise RecipeError(faults)


def apply(tree: Node, text: str, number: int) -> None:
    """Apply one override; `number` counts them from 1, and stands as its line in messages."""
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        message = f"{text!r} is no override" + ("" if equals else ": it has no =")
        raise RecipeError(
            [Fault(Place(FILE, number, 1, text), message, "Write key.path=value, as optimizer.lr=0.1.")]
        )
    padding = " " * (len(path) + 1)  # so that columns are those of the override
    new = parse(padding + value, FILE, shown=text, line=number)
    node, column = tree, 1
    for key in keys[:-1]:
        node = step_into(node, key, Place(FILE, number, column, text))
        column += len(key) + 1
    put(node, keys[-1], Node(new.value, new.place, Place(FILE, number, column, text)))


def step_into(node: Node, key: str, place: Place) -> Node:
    """The node below a key; made where it is missing or empty."""
    open_up(node, place)
    if isinstance(node.value, list):
        return node.value[index_of(node, key, place)]
    found = node.value.get(key)
    if found is None or found.value is None:
        found = node.value[key] = Node({}, place, place)
    return found


def put(node: Node, key: str, new: Node) -> None:
    """Set a key of a mapping, or an item of a list."""
    open_up(node, new.key_place)
    if isinstance(node.value, list):
        node.value[index_of(node, key, new.key_place)] = new
    else:
        new.replaced = key in node.value
        node.value[key] = new


def open_up(node: Node, place: Place) -> None:
    """Make `optimizer: SGD` the `optimizer: {use: SGD}` that it stands for, so that it can take arguments."""
    if isinstance(node.value, str):
        node.value = {"use": Node(node.value, node.place, node.key_place)}
    if not isinstance(node.value, (dict, list)):
        message = f"the recipe has the value {node.value!r} here, which has nothing below it"
        hint = f"It stands in {node.place}. Shorten the path, as in {place.text[: place.column - 2]}=value."
        raise RecipeError([Fault(place, message, hint)])


def index_of(node: Node, key: str, place: Place) -> int:
    """The number of a list's item, from 0."""
    if key.isdecimal() and int(key) < len(node.value):
        return int(key)
    raise RecipeError(
        [Fault(place, f"the recipe has a list of {len(node.value)} here", "Write an item's number, from 0.")]
    )
