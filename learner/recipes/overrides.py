"""Apply `key.path=value` from the command line to a recipe's tree."""

from __future__ import annotations

from collections.abc import Iterable

from learner.recipes.recipe_errors import Place, Problem, RecipeError
from learner.recipes.yaml_tree import Node, parse

COMMAND_LINE = "command line"


def apply_overrides(tree: Node, overrides: Iterable[str]) -> None:
    """Set each value at its path, creating missing mappings. If a path occurs twice, the last one wins."""
    problems: list[Problem] = []
    for number, text in enumerate(overrides, 1):
        try:
            apply(tree, text, number)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)


def apply(tree: Node, text: str, number: int) -> None:
    """Apply one override; messages show `number`, counted from 1, as its line."""
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        message = f"{text!r} is not an override" + ("" if equals else ": it has no =")
        place = Place(COMMAND_LINE, number, 1, text)
        raise RecipeError.at(place, message, "Write key.path=value, as optimizer.lr=0.1.")
    padding = " " * (len(path) + 1)  # keeps the columns of the override
    new = parse(padding + value, COMMAND_LINE, shown=text, line=number)
    node, column = tree, 1
    for key in keys[:-1]:
        node = step_into(node, key, Place(COMMAND_LINE, number, column, text))
        column += len(key) + 1
    put(node, keys[-1], Node(new.value, new.place, Place(COMMAND_LINE, number, column, text)))


def step_into(node: Node, key: str, place: Place) -> Node:
    """The node below a key; created if it is missing or empty."""
    expand_name(node, place)
    if isinstance(node.value, list):
        return node.value[index_of(node, key, place)]
    found = node.value.get(key)
    if found is None or found.value is None:
        found = node.value[key] = Node({}, place, place)
    return found


def put(node: Node, key: str, new: Node) -> None:
    """Set a key of a mapping, or an item of a list."""
    expand_name(node, new.key_place)
    if isinstance(node.value, list):
        node.value[index_of(node, key, new.key_place)] = new
    else:
        new.replaced = key in node.value
        node.value[key] = new


def expand_name(node: Node, place: Place) -> None:
    """Expand `optimizer: SGD` to `optimizer: {use: SGD}`, so that it can take arguments."""
    if isinstance(node.value, str):
        node.value = {"use": Node(node.value, node.place, node.key_place)}
    if not isinstance(node.value, (dict, list)):
        message = f"the recipe has the plain value {node.value!r} here"
        hint = f"It is at {node.place}. Shorten the path to {place.text[: place.column - 2]}=value."
        raise RecipeError.at(place, message, hint)


def index_of(node: Node, key: str, place: Place) -> int:
    """The index of a list's item."""
    if key.isdecimal() and int(key) < len(node.value):
        return int(key)
    message = f"the recipe has a list of {len(node.value)} here"
    raise RecipeError.at(place, message, "Write the number of an item, from 0.")
