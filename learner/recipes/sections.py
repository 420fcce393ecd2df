"""The keys of a recipe, and the checks of their values."""

from __future__ import annotations

from typing import Any

from callbacks import DevicePlacement
from callbacks.core.foreign_names import RECIPE_WORDS
from learner.data.seeds import MAX_SEED
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.recipes.names import Names, known, table
from learner.recipes.overrides import COMMAND_LINE
from learner.recipes.parts import Part, PartReader, shown
from learner.recipes.recipe_errors import Place, RecipeError, closest
from learner.recipes.yaml_tree import Node

KEYS = {
    "recipe": "a description of the recipe, in one line",
    "seed": "an integer; it is set before any random number is drawn",
    "data": 'the data, as digits or {use: "data.py:make_data", n: 100}',
    "model": 'the model, as {use: "models.py:Net", hidden: 50}, or a list of layers',
    "loss": "the loss, as mse; omit it if the model's output has a .loss",
    "optimizer": "the optimizer, as {use: SGD, lr: 0.1}",
    "splitter": 'a function that returns the layer groups of the model, as "models.py:split"',
    "decay_norms": "whether weight decay applies to biases and norms too: true or false",
    "callbacks": "the callbacks, a mapping, as EarlyStopping: {patience: 3}",
    "metrics": "a list, as [accuracy]",
    "fit": "{epochs: 10}",
    "device": "auto, cpu, cuda, cuda:1 or mps",
    "defaults": "a list of callbacks to use instead of the default callbacks; [] for none",
}
REQUIRED = ("data", "model", "optimizer", "fit")

INNER_KEYS = {
    "epochs": "fit: {epochs: 10}, or fit.epochs=10",
    "n_epochs": "fit: {epochs: 10}, or fit.epochs=10",
    "max_epochs": "fit: {epochs: 10}, or fit.epochs=10",
    "lr": "optimizer: {use: SGD, lr: 0.1}, or optimizer.lr=0.1",
    "learning_rate": "optimizer: {use: SGD, lr: 0.1}, or optimizer.lr=0.1",
    "batch_size": "data: {use: digits, batch_size: 64}, or data.batch_size=64",
}


DEFAULT_NAMES = tuple(default.__name__ for default in DEFAULT_CALLBACKS)
ADDED_NAMES = (*DEFAULT_NAMES, "BlackBox")  # not written in the recipe; BlackBox only in runs with a folder


class Sections:
    """The values of a recipe's keys, all checked.

    Attributes:
        seed: is set before data and model are built, or None.
        parts: `data`, `model`, `loss`, `optimizer` and `splitter`; None if missing.
        decay_norms: whether weight decay applies to biases and norms.
        metrics: in their order.
        callbacks: by key.
        defaults: the default callbacks.
        n_epochs: number of epochs to train.

    Raises:
        RecipeError: there are problems; it has all of them.
    """

    def __init__(self, tree: Node, names: Names):
        self.tree, self.reader = tree, PartReader(names)
        self._check_keys()
        self.seed = self._whole_number("seed", self.value("seed"), MAX_SEED)
        self.parts = {key: self._part(key) for key in ("data", "model", "loss", "optimizer", "splitter")}
        self.decay_norms = self._switch("decay_norms")
        self.metrics = self._list("metrics", "metric") or []
        self.callbacks = self._callbacks()
        self.defaults = self._defaults()
        self.n_epochs = self._epochs()
        if self.reader.problems:
            raise RecipeError(self.reader.problems)

    def value(self, key: str) -> Node | None:
        """The node of a key; None if it is missing or empty."""
        node = self.tree.value.get(key)
        return None if node is None or node.value is None else node

    @property
    def callback_nodes(self) -> dict[str, Node]:
        """The node of each callback, by key."""
        node = self.value("callbacks")
        return node.value if node is not None and isinstance(node.value, dict) else {}

    @property
    def removed(self) -> set[str]:
        """Callbacks set to `null`."""
        return {name for name, node in self.callback_nodes.items() if node.value is None and node.written}

    def _check_keys(self) -> None:
        meant = set()
        for key, node in self.tree.value.items():
            if key not in KEYS:
                hint = self._full_override(key, node.key_place) or hint_for_key(key)
                self.reader.problem(node.key_place, f"a recipe has no key {key!r}", hint)
                meant.add(key_meant(key))
        for key in REQUIRED:
            if self.value(key) is None and key not in meant:
                there = self.tree.value.get(key)
                place = there.key_place if there else self.tree.place
                self.reader.problem(place, f"the recipe has no {key}", f"Write `{key}:`, {KEYS[key]}.")
        title = self.value("recipe")
        if title is not None and isinstance(title.value, (dict, list)):
            self.reader.problem(title.place, f"recipe is {shown(title.plain())}", "Write a one-line title.")

    def _full_override(self, key: str, place: Place) -> str | None:
        """The override with the full name, if a setting of the recipe ends in this key; None otherwise."""
        sections = {name: node for name, node in self.tree.value.items() if isinstance(node.value, dict)}
        sections |= {f"callbacks.{name}": node for name, node in self.callback_nodes.items()}
        owners = [
            name for name, each in sections.items() if isinstance(each.value, dict) and key in each.value
        ]
        rest = place.text.removeprefix(key)
        words = [f"{name}.{key}{rest}" for name in owners]
        return f"Write its full name: {' or '.join(words)}." if words and place.file == COMMAND_LINE else None

    def _whole_number(self, path: str, node: Node | None, high: int) -> int | None:
        if node is None:
            return None
        if type(node.value) is not int or not 0 <= node.value <= high:
            hint = f"Write a whole number from 0 to {high}."
            self.reader.problem(node.place, f"{path} is {shown(node.plain())}", hint)
            return None
        return node.value

    def _switch(self, key: str) -> bool:
        """A key that is true if it is missing."""
        node = self.value(key)
        if node is not None and not isinstance(node.value, bool):
            self.reader.problem(node.place, f"{key} is {shown(node.plain())}", "Write true or false.")
        return node is None or bool(node.value)

    def _part(self, key: str) -> Part | None:
        node = self.value(key)
        return None if node is None else self.reader.part(key, node, key)

    def _list(self, key: str, kind: str) -> list[Part] | None:
        node = self.value(key)
        if node is None:
            return None
        if not isinstance(node.value, list):
            alone = isinstance(node.value, str) and ":" not in node.value
            names = [node.value] if alone else list(node.value) if isinstance(node.value, dict) else []
            hint = f"Write a list, as [{', '.join(names) or known(kind)[-1]}]."
            self.reader.problem(node.place, f"{key} is {shown(node.plain())}", hint)
            return []
        parts = [self.reader.part(kind, item, f"{key}.{number}") for number, item in enumerate(node.value)]
        return [part for part in parts if part is not None]

    def _callbacks(self) -> dict[str, Part]:
        node = self.value("callbacks")
        if node is not None and not isinstance(node.value, dict):
            items = node.value if isinstance(node.value, list) else [node]
            texts = {item.value: "{}" for item in items if isinstance(item.value, str)}
            texts |= {name: "{...}" for item in items if isinstance(item.value, dict) for name in item.value}
            pairs = [f"{name}: {text}" for name, text in (texts or {"ZeroGrad": "{}"}).items()]
            hint = f"Write a mapping, without dashes, as {{{', '.join(pairs)}}}."
            self.reader.problem(node.place, f"callbacks is {shown(node.plain())}", hint)
        found = {}
        for name, each in self.callback_nodes.items():
            if name in self.removed:
                self._check_removed(name, each)
                continue
            part = self.reader.part("callback", each, f"callbacks.{name}", name)
            if part is not None:
                found[name] = part
        return found | self._device()

    def _check_removed(self, name: str, node: Node) -> None:
        """`LogRMSE: null` removes it; this is an error if the recipe has no callback of that name."""
        in_file = node.place.file != COMMAND_LINE
        if name in ADDED_NAMES or node.replaced or (in_file and name in known("callback")):
            return
        there = [*(key for key in self.callback_nodes if key not in self.removed), *ADDED_NAMES]
        close = closest(name, there)
        hint = f"Did you mean {close}? " if close else ""
        message = f"callbacks.{name}: the recipe has no callback of that name to remove"
        self.reader.problem(node.key_place, message, f"{hint}It has: {', '.join(dict.fromkeys(there))}.")

    def _device(self) -> dict[str, Part]:
        """The callback for `device:`."""
        node = self.value("device")
        if node is None:
            return {}
        if not isinstance(node.value, str):
            self.reader.problem(node.place, f"device is {shown(node.plain())}", f"Write {KEYS['device']}.")
        if "DevicePlacement" in self.callback_nodes:
            message = "the device is set twice: here and by the callback DevicePlacement"
            self.reader.problem(node.key_place, message, "Remove one of them.")
        arguments: dict[str, Any] = {"device": node.value}
        return {"device": Part("DevicePlacement", DevicePlacement, arguments, kind="callback", node=node)}

    def _defaults(self) -> list[Part]:
        chosen = self._list("defaults", "callback")
        if chosen is None:
            ours = zip(DEFAULT_NAMES, DEFAULT_CALLBACKS, strict=True)
            chosen = [Part(name, each, kind="callback", node=self.tree) for name, each in ours]
        return [part for part in chosen if part.name not in self.removed]

    def _epochs(self) -> int:
        node = self.value("fit")
        if node is None:
            return 0
        if not isinstance(node.value, dict):
            self.reader.problem(node.place, f"fit is {shown(node.plain())}", f"Write {KEYS['fit']}.")
            return 0
        for key, each in node.value.items():
            if key != "epochs":
                hint = FIT_KEYS.get(key, f"Write {KEYS['fit']}.") + (SPACE_HINT if ":" in key else "")
                self.reader.problem(each.key_place, f"fit has no key {key!r}", hint)
        if "epochs" not in node.value:
            self.reader.problem(node.key_place, "fit has no `epochs`", f"Write {KEYS['fit']}.")
        elif node.value["epochs"].value is None:
            self.reader.problem(
                node.value["epochs"].key_place, "fit.epochs is empty", f"Write {KEYS['fit']}."
            )
            return 0
        return self._whole_number("fit.epochs", node.value.get("epochs"), 10**9) or 0


SCHEDULE_HINT = (
    "A schedule is a callback, so write it below callbacks: ParamScheduler: {schedules: {lr: {use: "
    "one_cycle, start: 0.001, peak: 0.01, end: 0.0}}}."
)
FIT_KEYS = {  # keys that are often written below fit, and where they belong
    "lr": "The learning rate belongs to the optimizer: optimizer: {use: SGD, lr: 0.1}.",
    "lr_max": SCHEDULE_HINT,
    "one_cycle": SCHEDULE_HINT,
    "schedule": SCHEDULE_HINT,
    "scheduler": SCHEDULE_HINT,
    "callbacks": "callbacks is a key of the recipe, next to fit.",
    "resume": "To resume a run, use the command: learner run recipe.yaml --resume.",
}
SPACE_HINT = " Write a space after the colon of a key."


def hint_for_key(key: str) -> str:
    """Suggest what to write instead of an unknown key."""
    if ":" in key:
        return SPACE_HINT.strip()
    if key in INNER_KEYS:
        return f"It belongs below another key: {INNER_KEYS[key]} on the command line."
    if key in table("callback"):
        return "It is a callback, so write it below `callbacks:`."
    meant = key_meant(key)
    return (f"Did you mean {meant}? " if meant else "") + f"The keys are: {', '.join(KEYS)}."


def key_meant(key: str) -> str | None:
    """The key that was probably meant."""
    word = key.partition(":")[0]
    if word in KEYS:
        return word
    close = str(closest(word, [*KEYS, *RECIPE_WORDS]))
    return RECIPE_WORDS.get(close, close if close in KEYS else None)
