"""`learner sweep`: train a recipe many times with other settings, which Optuna suggests."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from callbacks import OptunaPruning, Progress
from callbacks.core.missing_names import import_extra
from callbacks.core.output import print_line
from callbacks.save.folder_lock import FolderLock
from learner.files.run_files import BEST, FINAL, SUFFIXES, read_facts, shown_path, write_facts
from learner.recipes.recipe_errors import Mistake, mistaken
from learner.report.curves import Axis
from learner.report.sweep_page import Sweep, Trial, setting, sweep_report
from learner.runs.run_folder import first_files, new_folder, numbered
from learner.runs.running import keep_recipe, train
from learner.runs.search_space import combinations
from learner.runs.sweep_plan import Plan

PLAN, STORAGE, TRIALS = "sweep.json", "journal.log", "trials"
N_TRIALS = 20  # unless the user passes a number, or all combinations are tried


def place_for(plan: Plan, runs: Path, *, resume: bool) -> Path:
    """The folder of the sweep: a new one, or the newest one of the recipe."""
    title = Path(f"{Path(plan.recipe).stem}-sweep")
    if not resume:
        folder = new_folder(runs.absolute(), title)
        with first_files(folder):
            (folder / PLAN).write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
        return folder
    found = {n: each for n, each in numbered(runs.absolute(), title).items() if (each / PLAN).is_file()}
    if not found:
        raise Mistake(f"{plan.recipe} has no sweep in {shown_path(runs)}. Omit --resume to start one.")
    folder = found[max(found)]
    then, now = json.loads((folder / PLAN).read_text(encoding="utf-8")), json.loads(json.dumps(asdict(plan)))
    other = [name for name in now if then.get(name) != now[name]]
    if other:
        raise Mistake(
            f"the sweep in {shown_path(folder)} has another {' and '.join(other)}: "
            f"{then.get(other[0])} there, {now[other[0]]} here. Repeat its command, or omit --resume."
        )
    return folder


def sweep(plan: Plan, folder: Path, n_trials: int | None) -> Sweep:
    """Run trials until there are `n_trials`, those of an earlier start included, and write the report.

    A trial that fails is recorded, and the others are run. Ctrl-C keeps what is done.
    """
    try:
        lock = FolderLock(folder)
    except RuntimeError as error:
        raise Mistake(f"sweep: {error}") from error
    try:
        return run_trials(plan, folder, n_trials)
    finally:
        lock.release()


def run_trials(plan: Plan, folder: Path, n_trials: int | None) -> Sweep:
    """The same, in a folder that is locked."""
    optuna = import_optuna()
    study = open_study(plan, folder, optuna)
    grid = combinations(plan.settings, n_trials or N_TRIALS)
    n_trials = min(n_trials or len(grid), len(grid)) if grid else n_trials or N_TRIALS
    for params in grid[:n_trials]:
        study.enqueue_trial(params, skip_if_exists=True)
    try:
        while len(ended(study)) < n_trials:
            run_trial(plan, study, folder, optuna)
    finally:
        axes = {each.path: Axis(each.low, each.high, each.is_log, each.labels) for each in plan.settings}
        found = Sweep(folder, plan.monitor, plan.direction, trials_of(study), axes)
        finish(plan, found)
        if len(ended(study)) < n_trials:
            print_line("to continue: the same command with --resume")
    return found


def open_study(plan: Plan, folder: Path, optuna: Any) -> Any:
    """Optuna's study, with the trials of an earlier start; an interrupted trial is to be run again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would print a line per trial of its own
    (folder / f"{STORAGE}.lock").unlink(missing_ok=True)  # Optuna's own lock, which a kill leaves behind
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STORAGE))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=folder.name,
        direction={"min": "minimize", "max": "maximize"}[plan.direction],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        load_if_exists=True,
    )
    for trial in study.trials:
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def import_optuna() -> Any:
    """The package Optuna."""
    with mistaken(ImportError):
        return import_extra("optuna", "sweep")


def ended(study: Any) -> list[Any]:
    """The trials that ended by themselves; one that was interrupted has neither a value nor an error."""
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED") or "error" in t.user_attrs]


def run_trial(plan: Plan, study: Any, folder: Path, optuna: Any) -> None:
    """Run one trial, and report its result to Optuna and the user."""
    # Each trial has its own seed, so that a sweep that is resumed gets the same suggestions.
    seed = np.random.SeedSequence([plan.seed, len(study.trials)]).generate_state(1).item()
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    trial = study.ask({each.path: each.distribution(optuna) for each in plan.settings})
    start, best = time.monotonic(), best_number(study)
    try:
        value = train_trial(plan, trial, folder / TRIALS / f"trial-{trial.number}")
    except optuna.TrialPruned:
        pruned = study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        outcome = f"pruned after {len(pruned.intermediate_values)} epochs"
    except Exception as error:  # noqa: BLE001 - recorded; the other trials may work
        trial.set_user_attr("error", described(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        outcome = f"failed: {described(error)}"
    else:
        study.tell(trial, value)
        outcome = f"{plan.monitor} {value:.5g}{' *' if best_number(study) == trial.number else ''}"
    for number in {best, trial.number} - {best_number(study), None}:
        drop_weights(folder / TRIALS / f"trial-{number}")
    words = " ".join(f"{path.rpartition('.')[2]}={setting(value)}" for path, value in trial.params.items())
    line = f"trial {trial.number}  {outcome}  {time.monotonic() - start:.1f}s  {words}"
    print_line(line if len(line) <= 80 else f"{line[:77]}...", flush=True)


def best_number(study: Any) -> int | None:
    """The number of the best trial; None if no trial has finished."""
    has_finished = any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))
    return study.best_trial.number if has_finished else None


def drop_weights(folder: Path) -> None:
    """Delete the weights of a trial that is not the best: the weights of all trials would fill the disk."""
    for name in (FINAL, BEST, f"{FINAL}_loss", f"{BEST}_loss"):
        for suffix in SUFFIXES:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    facts = read_facts(folder)
    if facts:
        facts["weights"] = {"final": None, "best": None, "reason": "a sweep keeps those of its best trial"}
        write_facts(folder, facts)


def train_trial(plan: Plan, trial: Any, folder: Path) -> float:
    """Train with the settings of a trial, and return the best value of the result.

    Everything that is printed goes to `output.txt` in the trial's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w", encoding="utf-8") as output, contextlib.redirect_stdout(output):
        recipe = plan.recipe_of(trial.params)
        learn = recipe.build()
        if Progress in learn.callbacks:
            learn.remove_callbacks(Progress)
        learn.add_callbacks(OptunaPruning(trial, plan.monitor))
        keep_recipe(recipe, folder)
        train(recipe, learn, folder, draw_losses=False)  # the report of the sweep has the curves
    value = learn.history.best(plan.monitor, plan.direction)[plan.monitor]
    if not math.isfinite(value):
        raise ValueError(f"the best {plan.monitor} is {value}.")
    return value


def described(error: Exception) -> str:
    """An error in a line."""
    problems = getattr(error, "problems", None)
    words = problems[0].message if problems else str(error)
    return f"{type(error).__name__}: {' '.join(words.split())}"


def trials_of(study: Any) -> list[Trial]:
    """The trials as plain data, without those that are still to run."""
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "interrupted"}
    found = []
    for each in study.get_trials(deepcopy=False):
        if each.state.name in words:
            state = words[each.state.name]
            state = "interrupted" if state == "failed" and "error" not in each.user_attrs else state
            value = each.value if state == "finished" else None
            seconds = None if each.duration is None else each.duration.total_seconds()
            error = each.user_attrs.get("error", "")
            found.append(Trial(each.number, dict(each.params), state, value, seconds, error))
    return found


def finish(plan: Plan, found: Sweep) -> None:
    """Write the report, and the best recipe with its Python files; print where they are."""
    page = shown_path(found.folder / "report.html")
    best = found.best
    if best is not None:
        keep_recipe(plan.recipe_of(best.params), found.folder)
        (found.folder / "recipe.yaml").rename(found.folder / "best.yaml")
    sweep_report(found).save(found.folder / "report.html")
    print_line(f"\n{found}\nwrote {page}")
