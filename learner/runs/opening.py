"""`learner.open_run(folder)`: the learner of a run, with its weights and its history."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from callbacks.core.output import print_line
from callbacks.core.warning import warn
from callbacks.history.history import History
from callbacks.history.paths import as_path
from learner.data.data import Data
from learner.data.samples import from_plain
from learner.files.run_files import BEST, FINAL, read_facts, send_files_to, shown_path, weights_file
from learner.learner import Learner
from learner.messages.keywords import suggest_keywords
from learner.recipes.recipe import Recipe, load_recipe
from learner.recipes.recipe_errors import RecipeError
from learner.report.records import other, record_of_folder
from learner.resume.best_weights import load_best, put_loss
from learner.resume.newest import newest_intact
from learner.resume.weights_file import put_weights
from learner.state.fingerprint import versions
from learner.state.pass_modes import leave_in_evaluation_mode

Which = Literal["final", "best", "checkpoint"]
FORMAT = 1  # of run.json
N_LINES = 20  # of a difference
COMPARED = ("plainlearner", "torch")  # versions that may change what a model computes


@suggest_keywords
def open_run(folder: str | Path, weights: Which = "final", *, allow: Iterable[str] = ()) -> Learner:
    """Build the learner of a run again, with its weights and history, to examine it or to continue training.

    The recipe in the folder is built, so the Python files next to it are run: open only runs whose code you
    trust. The weights themselves contain no code. Callbacks that write files write into the run's folder. If
    the data of the run cannot be built, a warning reports it, and the learner can still predict.

    Args:
        folder: the run's folder, such as `"runs/digits-1"`.
        weights: `"final"`: those at the end of the run. `"best"`: those of the best epoch, if a callback
            monitored a result. `"checkpoint"`: everything in the newest file of its `Checkpoint`, including
            the optimizer and the counters, so that `fit(n_epochs, resume="must")` resumes an interrupted run.
        allow: packages that the recipe may import, as with `--allow`.

    Raises:
        FileNotFoundError: the folder is not a run's folder, or has no such weights; the message lists what
            it has.
        RecipeError: the recipe cannot be built.
        ValueError: the weights do not fit the model, for example because its code has changed.
    """
    if weights not in get_args(Which):
        raise ValueError(f"open_run(weights={weights!r}): choose 'final', 'best' or 'checkpoint'.")
    folder = as_path("open_run", "folder", folder, "a run's folder, such as 'runs/digits-1'").absolute()
    if not (folder / "recipe.yaml").is_file():
        hint = hint_for_files(folder) or other(folder)
        raise FileNotFoundError(f"{folder} is not a run's folder: it has no recipe.yaml.{hint}")
    facts = read_facts(folder)
    check_has(folder, weights, facts)
    changes = list(changes_of(folder, facts))
    for change in changes:
        warn(change)
    learn = build(load_recipe(folder / "recipe.yaml", allow=allow), facts)
    learn.run_folder = folder
    send_files_to(folder, learn)
    learn.history = history_of(folder)
    try:
        put(learn, folder, weights)
    except ValueError as error:
        for change in changes:
            error.add_note(change)
        raise
    report_versions(folder, facts, learn)
    leave_in_evaluation_mode(learn.model)
    return learn


def hint_for_files(folder: Path) -> str:
    """How to use a recipe, a file of weights or a folder of `Checkpoint` instead; empty for anything else."""
    if folder.suffix in (".yaml", ".yml"):
        return f" Run the recipe first, and pass the folder that it makes: learner run {shown_path(folder)}."
    if folder.is_file():
        return f" Make the learner and call learn.load({shown_path(folder)!r})."
    if any(folder.glob("*.pt")):
        return f" To load a Checkpoint, make the learner and call learn.load_best({shown_path(folder)!r})."
    return ""


def check_has(folder: Path, weights: Which, facts: dict[str, Any]) -> None:
    """Check that a run can be read by this version, and has the weights."""
    if isinstance(facts.get("format"), int) and facts["format"] > FORMAT:
        raise ValueError(
            f"{folder}: its run.json has format {facts['format']}, but this version of plainlearner reads "
            f"formats up to {FORMAT}. Install a newer version."
        )
    has = {
        "final": weights_file(folder, FINAL),
        "best": weights_file(folder, BEST),
        "checkpoint": next(folder.rglob("step-*.pt"), None),
    }
    if has[weights] is not None:
        return
    reason = (facts.get("weights") or {}).get("reason") if weights == "final" else None
    state = f" (its status is {facts['status']})" if facts.get("status") else ""
    if weights == "best" and not facts.get("monitored"):
        reason = "no callback, such as EarlyStopping, monitors a result"
    there = [f"open_run({shown_path(folder)!r}, {name!r})" for name, path in has.items() if path]
    there += [f"--weights {name} in a command" for name in ("final", "best") if has[name]]
    retrain = f"It has no weights at all. Train it again: learner run {shown_path(folder / 'recipe.yaml')}."
    hint = f"It has other weights: {', or '.join(there)}." if there else retrain
    raise FileNotFoundError(
        f"{folder} has no {weights} {'weights' if weights != 'checkpoint' else 'file'}{state}"
        f"{f': {reason}' if reason else ''}. {hint}"
    )


def changes_of(folder: Path, facts: dict[str, Any]) -> Iterator[str]:
    """The differences between the Python files of a run and those that it was trained with."""
    for name, then in (facts.get("code") or {}).items():
        path = folder / name
        now = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if now == then:
            continue
        lines = list(difflib.unified_diff(then.splitlines(), now.splitlines(), n=0, lineterm=""))[2:]
        more = f"\n... and {len(lines) - N_LINES} more lines" if len(lines) > N_LINES else ""
        what = "has changed since the run" if path.is_file() else "is missing; the run had it"
        shown = "\n".join(lines[:N_LINES])
        yield f"{shown_path(path)} {what} (- then, + now):\n{shown}{more}"


def build(recipe: Recipe, facts: dict[str, Any]) -> Learner:
    """Build the learner; if only its data cannot be built, the data raise that error when they are read."""
    try:
        return recipe.build()
    except RecipeError as error:
        item = facts.get("item") or []
        n_inputs = len(item) if item and isinstance(item[0].get("key"), int) else 1
        try:
            learn = recipe.build(data=Data(MissingData(error), MissingData(error), n_inputs))
        except RecipeError:
            raise error from None
        problem = error.problems[0].message
        warn(f"the data of the run cannot be built, so the learner can only predict: {problem}")
        learn.loop.known.samples = (learn.data, from_plain(item))
        return learn


class MissingData:
    """Stands for data that cannot be built; reading it raises the error."""

    def __init__(self, error: RecipeError):
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError(f"the data of this run cannot be built: {self.error}") from self.error


def put(learn: Learner, folder: Path, weights: Which) -> None:
    """Load the weights."""
    if weights == "checkpoint":
        path = newest_intact(sorted({each.parent for each in folder.rglob("step-*.pt")}))
        assert path is not None
        learn.load(path)
    elif weights == "best":
        load_best(learn, folder)
    else:
        path = weights_file(folder, FINAL)
        assert path is not None
        put_weights(learn.model, path)
        put_loss(learn, path)


def history_of(folder: Path) -> History:
    """The rows of a run's history; empty if there are none."""
    history = History()
    record = record_of_folder(folder)
    history.rows = record.rows
    history.directions = {name: each for name, each in record.directions.items() if each is not None}
    return history


def report_versions(folder: Path, facts: dict[str, Any], learn: Learner) -> None:
    """Print which versions differ from those of the run."""
    then, now = facts.get("environment") or {}, versions(learn)
    found = [
        f"{name} {then[name]}, now {now[name]}"
        for name in COMPARED
        if then.get(name) not in (None, now[name])
    ]
    if found:
        print_line(f"{shown_path(folder)} was trained with {'; '.join(found)}: outputs may differ slightly")
