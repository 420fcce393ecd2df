"""The settings that a sweep varies: `optimizer.lr=1e-4..1e-1` is a range, `data.size=16,32` are choices."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from learner.recipes.names import signature_of
from learner.recipes.overrides import COMMAND_LINE
from learner.recipes.recipe import Recipe, load_recipe
from learner.recipes.recipe_errors import Place, RecipeError, did_you_mean
from learner.recipes.sections import KEYS
from learner.recipes.yaml_tree import Node, as_scalar, parse

#: Ratio of the ends of a range from which its scale is logarithmic.
DECADES: dict[type, int] = {float: 10, int: 100}


@dataclass(frozen=True)
class Setting:
    """A setting that varies."""

    path: str  #: its path in the recipe
    #: low, high: the ends of a range, both included; None for choices
    low: Any = None
    high: Any = None
    choices: tuple[Any, ...] = ()  #: the values to choose from; empty for a range

    @property
    def is_log(self) -> bool:
        """Is the range searched on a logarithmic scale?"""
        return not self.choices and self.low > 0 and self.high / self.low >= DECADES[type(self.low)]

    @property
    def labels(self) -> list[Any]:
        """The choices as Optuna stores them: a list or mapping as text."""
        return [json.dumps(each) if isinstance(each, (list, dict)) else each for each in self.choices]

    def distribution(self, optuna: Any) -> Any:
        """Optuna's distribution of the values."""
        if self.choices:
            return optuna.distributions.CategoricalDistribution(self.labels)
        kind = "IntDistribution" if isinstance(self.low, int) else "FloatDistribution"
        return getattr(optuna.distributions, kind)(self.low, self.high, log=self.is_log)

    def override(self, value: Any) -> str:
        """The override that sets a value, which may be a label."""
        labels = [json.dumps(each) for each in self.labels]
        text = json.dumps(value)
        return f"{self.path}={json.dumps(self.choices[labels.index(text)]) if self.choices else text}"

    def __str__(self) -> str:
        if self.choices:
            return f"{self.path}: {', '.join(map(str, self.labels))}"
        return f"{self.path}: {self.low} to {self.high}{', logarithmic' if self.is_log else ''}"


def read_settings(words: Iterable[str], path: str, allow: Iterable[str]) -> tuple[list[Setting], list[str]]:
    """The settings that vary, and the other overrides, from words such as `lr=1e-4..1e-1`.

    Raises:
        RecipeError: the recipe or a word has problems, also with the values at the ends or one of the
            choices.
    """
    read = [Word(text, number) for number, text in enumerate(words, 1)]
    plain = [word for word in read if word.setting is None]
    recipe = load_recipe(
        path, [word.text for word in plain if "." in word.key or word.key in KEYS], allow=allow
    )
    known = paths_of(recipe)
    for word in read:
        word.resolve(known)
    fixed = [word.override for word in plain]
    settings = [word.setting for word in read if word.setting is not None]
    check_distinct(read)
    for setting in settings:
        for value in setting.labels or (setting.low, setting.high):
            load_recipe(path, [*fixed, setting.override(value)], allow=allow)
    return settings, fixed


def check_distinct(words: list[Word]) -> None:
    """Refuse a setting that is given twice, even if one of the names is the short one."""
    seen: set[str] = set()
    for word in words:
        if word.path in seen:
            raise word.error(f"{word.path} is given twice", "Write each setting once.")
        seen.add(word.path)


RANGE_HINT = "Write low..high: 1e-4..1e-1 or 16..128."


class Word:
    """A word `key=value` of the command line."""

    def __init__(self, text: str, number: int):
        self.text, self.number = text, number
        self.key, equals, self.value = text.partition("=")
        self.path = self.key
        if not equals or not all(self.key.split(".")):
            raise self.error(f"{text!r} is not a setting", "Write key=low..high or key=value,value.")
        self.setting = self._range() or self._choices()

    @property
    def override(self) -> str:
        """The word with the full path."""
        return f"{self.path}={self.value}"

    def error(self, message: str, hint: str) -> RecipeError:
        """A problem with this word."""
        return RecipeError.at(Place(COMMAND_LINE, self.number, 1, self.text), message, hint)

    def resolve(self, known: dict[str, bool]) -> None:
        """Find the full path of a short name; the ends of a range become floats for a float argument."""
        if "." not in self.key and self.key not in KEYS:
            self.path = self._full(known)
        if self.setting is None:
            return
        low, high = self.setting.low, self.setting.high
        if not self.setting.choices and known.get(self.path):
            low, high = float(low), float(high)
        self.setting = Setting(self.path, low, high, self.setting.choices)

    def _full(self, known: Iterable[str]) -> str:
        found = [each for each in known if each.rpartition(".")[2] == self.key]
        if len(found) > 1:
            raise self.error(f"{self.key} is ambiguous", f"Write one of: {', '.join(found)}.")
        if not found:
            names = dict.fromkeys(each.rpartition(".")[2] for each in known)
            raise self.error(f"the recipe has no setting {self.key!r}", did_you_mean(self.key, names))
        return found[0]

    def _range(self) -> Setting | None:
        words = self.value.split("..") if not self.value.startswith(("'", '"', "[", "{")) else []
        ends: list[Any] = [as_scalar(word) for word in words]
        numeric = [type(end) in (int, float) for end in ends]
        if len(ends) != 2 or not any(numeric):
            return None
        if not all(numeric) or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
            is_reversed = all(numeric) and ends[0] > ends[1]
            hint = f"The lower end comes first: {words[1]}..{words[0]}." if is_reversed else RANGE_HINT
            raise self.error(f"{self.value!r} is not a range", hint)
        if not all(type(end) is int for end in ends):
            ends = [float(end) for end in ends]
        return Setting(self.path, *ends)

    def _choices(self) -> Setting | None:
        if "," not in self.value:
            return None
        tree = parse(f"[{self.value}]", COMMAND_LINE, shown=self.text, line=self.number)
        values = tree.plain()
        if len(values) < 2:
            return None
        if len({json.dumps(value) for value in values}) < len(values):
            raise self.error("a choice is given twice", "Write each choice once.")
        return Setting(self.path, choices=tuple(values))


def paths_of(recipe: Recipe) -> dict[str, bool]:
    """The full paths of all settings, of those in the recipe and of all arguments; are they floats?"""
    sections = recipe.sections
    callbacks = {f"callbacks.{key}": sections.callbacks.get(key) for key in sections.callback_nodes}
    found = {path: type(value) is float for path, value in leaves(recipe.tree)}
    for key, part in {**sections.parts, **callbacks}.items():
        if part is not None and not (key == "model" and isinstance(part.node.value, list)):
            for name, each in signature_of(part.kind, part.target).parameters.items():
                found[f"{key}.{name}"] = is_float(each) or found.get(f"{key}.{name}", False)
    return {path: each for path, each in found.items() if not path.endswith(".use")}


def is_float(parameter: inspect.Parameter) -> bool:
    """Is an argument a float, and not also a number of items?"""
    if parameter.annotation is parameter.empty:
        return type(parameter.default) is float
    words = set(re.findall(r"\w+", str(parameter.annotation)))
    return "float" in words and not words & {"int", "tuple", "Tuple", "Mapping"}


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Any]]:
    """The paths of the values below a node, with the values."""
    pairs = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
    for key, each in pairs:
        place = f"{path}.{key}".lstrip(".")
        if isinstance(each.value, (dict, list)):
            yield from leaves(each, place)
        else:
            yield place, each.value


def combinations(settings: Iterable[Setting], n_most: int) -> list[dict[str, Any]]:
    """All combinations of choices; of ranges of whole numbers too, if there are `n_most` or fewer.

    Empty if there are more, or if a range has numbers between the whole ones.
    """
    settings = list(settings)
    if any(not each.choices and type(each.low) is float for each in settings):
        return []
    values = [each.labels or range(each.low, each.high + 1) for each in settings]
    if any(not each.choices for each in settings) and math.prod(map(len, values)) > n_most:
        return []
    paths = [each.path for each in settings]
    return [dict(zip(paths, chosen, strict=True)) for chosen in itertools.product(*values)]
