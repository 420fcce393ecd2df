"""Run, resume or verify a recipe. The run's folder keeps the resolved recipe, Python files and results."""

from __future__ import annotations

import platform
import shlex
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from callbacks import BlackBox
from callbacks.core.output import print_line
from callbacks.core.ranks import Ranks, is_first_process, is_launched
from callbacks.core.warning import warn
from callbacks.guard.blackbox import FILE
from callbacks.history.drawing import why_undrawn
from callbacks.model import shards
from callbacks.record.unsaved_weights import note_kept
from callbacks.save.checkpoint_folder import saved_in
from learner.checks.process_checks import check_processes, ranks_of
from learner.files.run_files import FINAL, send_files_to, shown_path, weights_file
from learner.learner import Learner
from learner.recipes.recipe import Recipe, is_refusal, load_recipe, mismatch
from learner.recipes.recipe_errors import Mistake, RecipeError, mistaken
from learner.recipes.verify import Report, Trial, verify
from learner.resume.resumption import Resume
from learner.runs.launched import check_same_recipe, folder_of_run
from learner.runs.run_folder import (
    check_optimizer,
    check_saves,
    closing_lines,
    first_files,
    keep_results,
    kept_recipe,
    runs_of,
)
from learner.runs.run_recorder import RunRecorder, noted_warnings
from learner.state.fingerprint import own_version
from learner.tools.replay import replay


def run(recipe: Recipe, runs: Path | None = Path("runs")) -> Learner:
    """Build the recipe's Learner, fit it, and keep the run in a new folder, even if training fails.

    The folder is `<recipe's name>-<number>` in `runs`; None keeps nothing.
    """
    learn = recipe.build()
    ranks = joined_ranks(learn)
    check_same_recipe(recipe, ranks)
    if runs is None:
        return train(recipe, learn, None)
    folder, is_saved = ranks.first(lambda: started_folder(recipe, runs.absolute()))
    try:
        return train(recipe, learn, folder, resume="must" if is_saved else "never")
    except RecipeError:
        if not is_saved and is_first_process():
            shutil.rmtree(folder)  # created above, and nothing was trained
        raise


def started_folder(recipe: Recipe, runs: Path) -> tuple[Path, bool]:
    """The folder of a run with its recipe, and whether it has a checkpoint to resume from."""
    folder, is_saved = folder_of_run(recipe, runs)
    if not is_saved:
        with first_files(folder):
            keep_recipe(recipe, folder)
    return folder, is_saved


def run_or_resume(recipe: Recipe, runs: Path, differ: Iterable[str] = ()) -> Learner:
    """Resume the newest run of a recipe that has checkpoints, or start a new one."""
    check_saves(recipe)
    learn = recipe.build()
    ranks = joined_ranks(learn)
    folder = ranks.first(lambda: next((each for each in runs_of(recipe.path, runs) if saved_in(each)), None))
    if folder is None:
        place = shown_path(runs)
        print_line(f"no run of {recipe.path.name} with a checkpoint in {place}: starting a new one")
        return run(recipe, runs)
    if kept_recipe(folder) != recipe.resolved():
        raise Mistake(
            f"{recipe.path.name} has changed since the run in {shown_path(folder)}. To resume the run with "
            f"its own recipe: learner resume {shown_path(folder)}. To start a new run, omit --resume."
        )
    return train(recipe, learn, folder, resume="must", allow=differ)


def resume_run(recipe: Recipe, differ: Iterable[str] = ()) -> Learner:
    """Resume the run whose folder has this recipe."""
    folder = recipe.path.parent
    check_saves(recipe)
    if not saved_in(folder):
        raise Mistake(f"{shown_path(folder)} has no checkpoint. Start a new run with `learner run`.")
    check_optimizer(recipe)
    learn = recipe.build()
    joined_ranks(learn)
    train(recipe, learn, folder, resume="must", allow=differ)
    if recipe.overrides and is_first_process():
        write_recipe(recipe, folder)
    return learn


def verify_recipe(recipe: Recipe, n_kills: int = 10) -> Report:
    """Verify that runs of a recipe resume with the same bits; see `verify_resume`."""
    build = partial(built, recipe.path, recipe.overrides, recipe.allow)
    return verify(Trial(build, recipe.n_epochs, "1 epoch"), n_kills, 0)


def built(path: Path, overrides: tuple[str, ...], allow: tuple[str, ...]) -> tuple[Learner, Any]:
    """A recipe's learner and the context for its fit, in any process."""
    recipe = load_recipe(path, overrides, allow=allow)
    return recipe.build(), recipe.importable()


def train(
    recipe: Recipe,
    learn: Learner,
    folder: Path | None,
    *,
    resume: Resume = "never",
    allow: Iterable[str] = (),
    draw_losses: bool = True,
) -> Learner:
    """Fit, and keep the results, even if training fails."""
    note_kept()  # or the user wants nothing to be kept
    if folder is None:
        with recipe.importable(), refusals(recipe, learn):
            learn.fit(recipe.n_epochs, resume=resume, allow=allow)
        return learn
    has_own = BlackBox in learn.callbacks or "BlackBox" in recipe.sections.callback_nodes
    boxes = [] if has_own else [BlackBox(folder / "blackbox" / of_rank(learn))]
    send_files_to(folder, learn)
    recorder = RunRecorder(recipe, folder)
    error: BaseException | None = None
    if draw_losses and (reason := why_undrawn()):
        print_line(f"the losses are not drawn: {reason}")
    try:
        with recipe.importable(), refusals(recipe, learn), noted_warnings(recorder.facts["warnings"]):
            learn.fit(recipe.n_epochs, [*boxes, recorder], resume=resume, allow=allow)
    except BaseException as raised:
        error = raised
        raise
    finally:
        if not isinstance(error, RecipeError):
            with without_sigterm(learn):
                keep_and_report(learn, recorder, error, draw_losses=draw_losses)
    return learn


@contextmanager
def refusals(recipe: Recipe, learn: Learner) -> Iterator[None]:
    """Convert the error of a fit that is refused before the first step to one with a place in the recipe."""
    try:
        yield
    except Exception as error:
        if message := mismatch(error, learn):
            raise recipe.error_at(ValueError(message)) from error
        if is_refusal(error, learn):
            raise recipe.error_at(error) from error
        raise


def keep_and_report(
    learn: Learner, recorder: RunRecorder, error: BaseException | None, *, draw_losses: bool
) -> None:
    """Keep weights and results, and print what the folder contains. The error of a fit is not replaced.

    If the folder cannot be written to, another one gets everything. Only the first process writes.
    """
    if not is_first_process():
        if shards.are_in(learn.model):  # the first process needs the other parts of the weights
            recorder.keep(learn, recorder.folder)
        return
    folder, problem = recorder.folder, ""
    recorder.end(learn, error)
    try:
        recorder.keep(learn, folder)
        keep_results(learn, folder, draw_losses=draw_losses)
    except OSError as raised:
        other = kept_elsewhere(learn, recorder)
        place = (
            f"The run is kept in {other} instead" if other else "The temporary folder cannot be used either"
        )
        problem, folder = f"{folder} cannot be written to: {raised}. {place}.", other or folder
    print_line(closing_lines(folder, recorder.facts))
    if error is not None and saved_in(recorder.folder):
        print_line(f"to resume: learner resume {shlex.quote(str(shown_path(recorder.folder)))}")
    if problem and error is None:
        raise Mistake(problem)
    if problem:
        warn(problem)


@contextmanager
def without_sigterm(learn: Learner) -> Iterator[None]:
    """Delay SIGTERM until the end of the block: a launcher sends it as soon as another process has ended."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if not is_launched() or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
    if received and not (learn.error or learn.interrupted):
        raise SystemExit(128 + signal.SIGTERM)


def kept_elsewhere(learn: Learner, recorder: RunRecorder) -> Path | None:
    """Write the whole run into a temporary folder; None if not even the weights can be written there."""
    folder: Path | None = None
    if shards.are_in(learn.model):
        return None  # the other processes do not take part again
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{recorder.folder.name}-"))
        texts = {
            "recipe.yaml": (recorder.folder / "recipe.yaml").read_text("utf-8"),
            **recorder.facts["code"],
        }
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        recorder.keep(learn, folder)
        keep_results(learn, folder)
    except OSError:
        return folder if folder and weights_file(folder, FINAL) else None
    return folder


def of_rank(learn: Learner) -> str:
    """The subfolder for the files of this process: none for the first one."""
    rank = ranks_of(learn).rank
    return f"rank-{rank}" if rank else ""


def joined_ranks(learn: Learner) -> Ranks:
    """The processes that train together, before a folder is created."""
    with mistaken(RuntimeError):
        check_processes(learn, [])
        return ranks_of(learn)


def keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the resolved recipe and its Python files, so that the folder can be run by itself."""
    write_recipe(recipe, folder)
    for source in recipe.names.code.sources():
        target = folder / source.relative_to(recipe.names.code.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the resolved recipe, with the versions at the top."""
    head = (
        f"# The resolved recipe of this run of {recipe.path.name}, with plainlearner {own_version()},\n"
        f"# torch {torch.__version__}, Python {platform.python_version()} on {platform.system()}.\n"
    )
    (folder / "recipe.yaml").write_text(head + recipe.resolved(), encoding="utf-8")


def replay_run(folder: Path) -> int:
    """Run the saved step of a recipe's run again: implements `learner replay RUN`; returns the exit code 0.

    The folder has its `recipe.yaml`, and `blackbox.pt` in it or in a subfolder.
    """
    path = next(iter(sorted(folder.rglob(FILE))), None)
    if path is None:
        raise Mistake(
            f"{folder} contains no {FILE}: the callback BlackBox writes one when a step raises an error. "
            "Pass the folder of such a run."
        )
    if not (folder / "recipe.yaml").is_file():
        raise Mistake(
            f"{folder} contains no recipe.yaml, so the learner is not known: create it in Python, and call "
            f"replay(learn, {str(path)!r}) of learner.replay."
        )
    recipe = load_recipe(folder / "recipe.yaml")
    learn = recipe.build()
    with recipe.importable():
        replay(learn, path)
    return 0
