"""What is known about a run, read from its folder or from a learner."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from torch.nn.parameter import is_lazy

from callbacks.core.settings import is_number as is_finite
from callbacks.history.direction import Direction, guess_direction
from callbacks.optim.optimizers import title_of
from learner.files.run_files import facts_in, shown_path
from learner.report.learner_parts import checkpoint_folder, composition, monitored_by
from learner.state.fingerprint import versions
from learner.state.protocol import FullLearner

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
NOT_RESULTS = ("epoch", "seconds")  # columns of a history that do not measure the model
PARTS = ("data", "model", "loss", "optimizer", "metrics", "callbacks", "fit", "seed")  # first in tables


@dataclass
class Best:
    """The best value of a result: the value, its epoch, and the direction in which it is better."""

    value: float
    epoch: int
    direction: Direction


@dataclass
class Record:
    """What is known about a run; what is not known is empty."""

    name: str  #: the folder's name, or the model's class
    title: str = ""  #: one line that describes the run
    folder: Path | None = None  #: the run's folder
    #: the settings by dotted path, such as `optimizer.lr`, each as text
    recipe: dict[str, str] = field(default_factory=dict)
    recipe_text: str = ""  #: the resolved recipe as YAML
    rows: list[dict[str, Any]] = field(default_factory=list)  #: a row of results per epoch
    #: values of each training step by name
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    #: the direction in which a result is better, where it is declared
    directions: Mapping[str, Direction | None] = field(default_factory=dict)
    #: `(epoch, reason)` for each fit that ended early
    stops: list[tuple[int, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  #: the content of `run.json`
    images: list[Path] = field(default_factory=list)  #: files with images
    missing: list[str] = field(default_factory=list)  #: what the page leaves out, each with the reason

    @property
    def results(self) -> list[str]:
        """The numeric columns that measure the model, without the learning rate."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [
            name
            for name in names
            if name not in (*NOT_RESULTS, "lr") and any(is_number(row.get(name)) for row in self.rows)
        ]

    @property
    def epochs(self) -> list[int]:
        """The number of the epoch of each row."""
        found = [row.get("epoch") for row in self.rows]
        return [epoch if isinstance(epoch, int) else number for number, epoch in enumerate(found)]

    @property
    def n_epochs(self) -> int:
        """The number of epochs, even of a run that recorded no results."""
        noted = self.facts.get("n_epochs")
        return len(self.rows) or (noted if isinstance(noted, int) else 0)

    def direction(self, name: str) -> Direction | None:
        """The direction in which a result is better; None if it is not known."""
        declared = self.directions.get(name)
        return declared if declared in ("min", "max") else guess_direction(name)

    def best(self, name: str) -> Best | None:
        """The best value of a result; None if no epoch has a finite number or the direction is not known."""
        direction = self.direction(name)
        pairs = zip(self.rows, self.epochs, strict=True)
        found = [(row[name], epoch) for row, epoch in pairs if is_finite(row.get(name))]
        if direction is None or not found:
            return None
        value, epoch = (min if direction == "min" else max)(found, key=lambda pair: pair[0])
        return Best(value, epoch, direction)

    @property
    def main_result(self) -> str | None:
        """The most important result: the monitored one, otherwise a validation metric, otherwise a loss."""
        monitored = self.facts.get("monitored", {}).get("name") or monitored_in(self.recipe)
        metrics = [name for name in self.results if name.startswith("valid_") and name != "valid_loss"]
        for name in (monitored, *metrics, "valid_loss", "train_loss", *self.results):
            if name in self.results and self.best(name) is not None:
                return name
        return None

    @property
    def seconds(self) -> float | None:
        """The duration of the fit."""
        if is_number(self.facts.get("seconds")):
            return self.facts["seconds"]
        found = [row["seconds"] for row in self.rows if is_number(row.get("seconds"))]
        return sum(found) if found else None


def is_number(value: Any) -> TypeGuard[float]:
    """A number that can be drawn or compared; a bool is not one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def monitored_in(recipe: Mapping[str, str]) -> str | None:
    """The result that a callback of the recipe monitors."""
    found = (value for key, value in recipe.items() if key.endswith((".monitor", "Checkpoint.best")))
    return next(found, None)


def record_of_folder(folder: str | Path) -> Record:
    """Read a run's folder. Files that are missing or damaged are left out, and listed in `missing`."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in READERS):
        what = "does not exist" if not folder.exists() else "is not a run's folder"
        raise ValueError(f"{folder} {what}: it has no {', no '.join(READERS)}.{other(folder)}")
    record = Record(folder.resolve().name, folder=folder)
    for name, (what, read) in READERS.items():
        try:
            read(record, (folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            record.missing.append(f"{what}: the folder has no {name}.")
        except (OSError, ValueError, csv.Error, RecursionError) as error:
            record.missing.append(f"{what}: {name} cannot be read ({first_line(error)}).")
    found = [each for each in folder.iterdir() if each.suffix.lower() in IMAGES and each.stem != "losses"]
    record.images, record.title = sorted(found), record.title or record.name
    return record


def other(folder: Path) -> str:
    """Suggest the run of that name in `runs`, or the runs next to or below the given path."""
    if ((meant := folder.parent / "runs" / folder.name) / "recipe.yaml").is_file():
        return f" Did you mean {shown_path(meant)}?"
    for place in (folder, folder / "runs", folder / "trials", folder.parent / "runs", folder.parent):
        found = sorted(each.parent for each in place.glob("*/recipe.yaml"))[-8:] if place.is_dir() else []
        if found:
            return f" Available: {', '.join(map(str, found))}."
    return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_recipe(record: Record, text: str) -> None:
    """Read the resolved recipe. Its values stay text, exactly as they were written."""
    import yaml  # slow to import, and not needed for a learner

    record.recipe_text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    try:
        tree = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from error
    if not isinstance(tree, dict):
        raise ValueError("it is not a mapping")
    record.title = str(tree.pop("recipe", ""))
    record.recipe = flattened(tree)


def flattened(tree: Any, path: str = "") -> dict[str, str]:
    """Values by dotted path, the main parts first."""
    if isinstance(tree, dict) and tree:
        keys = list(tree) if path else sorted(tree, key=lambda key: [*PARTS, key].index(key))
        return {name: text for key in keys for name, text in flattened(tree[key], join(path, key)).items()}
    if isinstance(tree, list) and any(isinstance(each, (dict, list)) for each in tree):
        return flattened(dict(enumerate(tree)), path)
    if isinstance(tree, list):
        return {path: f"[{', '.join(map(str, tree))}]"}
    return {path: "null" if tree in ("", None) else str(tree)}


def join(path: str, key: Any) -> str:
    """A dotted path; the path of a part is that of its name."""
    return path if key == "use" and path else f"{path}.{key}".lstrip(".")


def read_facts(record: Record, text: str) -> None:
    """Read `run.json`."""
    facts = {"monitored": {}, "environment": {}, "directions": {}, "warnings": [], **facts_in(text)}
    record.facts, monitored = facts, facts["monitored"]
    record.title = record.title or str(facts.get("recipe") or "")
    record.directions = {**facts["directions"], monitored.get("name"): monitored.get("direction")}
    if facts.get("stop_reason"):
        n_epochs = facts.get("n_epochs")
        last = n_epochs - 1 if isinstance(n_epochs, int) else 0
        record.stops = [(last, str(facts["stop_reason"]))]


def read_history(record: Record, text: str) -> None:
    """Read the results of the epochs."""
    record.rows = [
        {name: as_value(value) for name, value in row.items() if name is not None}
        for row in csv.DictReader(text.splitlines())
    ]


def as_value(word: str | None) -> Any:
    """A number if the word is one, None if it is empty, otherwise the word."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word or "")
    return word or None


READERS = {
    "recipe.yaml": ("The recipe", read_recipe),
    "run.json": ("Environment, warnings and cost", read_facts),
    "history.csv": ("The results", read_history),
}


def record_of_learner(learn: FullLearner) -> Record:
    """What a learner knows about its fits."""
    history = learn.history
    trained = [each for each in learn.model.parameters() if each.requires_grad and not is_lazy(each)]
    return Record(
        type(learn.model).__name__,
        title=f"{type(learn.model).__name__} trained with {title_of(learn.optimizer)}",
        recipe=composition(learn),
        rows=[dict(row) for row in history.rows],
        steps=history.steps,
        directions={**learn.measured, **history.directions},
        stops=list(history.stops),
        facts={
            "n_parameters": sum(each.numel() for each in trained),
            "environment": versions(learn),
            "monitored": {"name": monitored_by(learn)},
            "checkpoints": checkpoint_folder(learn),
        },
    )
