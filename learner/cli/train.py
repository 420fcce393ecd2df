"""The commands that train: `run`, `resume`, `sweep`, `verify-resume` and `replay`."""

from __future__ import annotations

import argparse
from pathlib import Path

from callbacks import Progress
from callbacks.core.output import print_line
from callbacks.history.direction import Direction
from learner.cli.parser import Commands, Parser, add_plain_command, add_recipe_command, load, unreadable
from learner.learner import Learner
from learner.recipes.recipe_errors import Mistake, closest, mistaken
from learner.runs.running import replay_run, resume_run, run, run_or_resume, verify_recipe
from learner.runs.sweep import import_optuna, place_for, sweep
from learner.runs.sweep_plan import make_plan


def add_commands(commands: Commands[Parser]) -> None:
    """Add the commands to the command line."""
    run_command = add_recipe_command(commands, "run", "train, and save the run in a new folder")
    text = "folder in which the run folder is created (default: runs)"
    run_command.add_argument("--runs", metavar="FOLDER", type=Path, default=Path("runs"), help=text)
    run_command.add_argument("--keep-nothing", action="store_true", help="create no run folder")
    text = "resume the newest run of this recipe that has a checkpoint, or start a new one"
    run_command.add_argument("--resume", action="store_true", help=text)
    run_command.set_defaults(function=do_run)
    resume = add_recipe_command(
        commands, "resume", "resume a run that was interrupted", argument="run", what="a run's folder"
    )
    resume.set_defaults(function=do_resume)
    for parser in (run_command, resume):
        text = "resume even if this differs, such as batch_size; the error shows the name"
        parser.add_argument("--differ", action="append", default=[], metavar="NAME", help=text)
    verify = add_recipe_command(
        commands, "verify-resume", "test that a killed run resumes with the same bits"
    )
    verify.add_argument("--kills", type=int, default=10, metavar="N", help="number of kills (default: 10)")
    verify.set_defaults(function=do_verify_resume)
    add_sweep(commands)
    replay = add_plain_command(commands, "replay", "run the failed step of a run again")
    replay.add_argument("run", type=Path, help="a run's folder")
    replay.set_defaults(function=do_replay)


def add_sweep(commands: Commands[Parser]) -> None:
    """Add the command `sweep`."""
    parser = add_recipe_command(
        commands,
        "sweep",
        "search for settings, such as optimizer.lr=1e-4..1e-1",
        override="vary an entry, as optimizer.lr=1e-4..1e-1 or model.hidden=8,32, or set it: fit.epochs=5",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="total number of trials (default: 20)")
    better = parser.add_mutually_exclusive_group()
    better.add_argument(
        "--minimize",
        metavar="RESULT",
        help="the result to minimize (default: the one that the recipe monitors)",
    )
    better.add_argument("--maximize", metavar="RESULT", help="the result to maximize")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the suggestions (default: 0)"
    )
    text = "folder in which the sweep folder is created (default: runs)"
    parser.add_argument("--runs", metavar="FOLDER", type=Path, default=Path("runs"), help=text)
    parser.add_argument("--resume", action="store_true", help="continue the newest sweep of this recipe")
    parser.set_defaults(function=do_sweep)


def do_run(options: argparse.Namespace) -> int:
    """Train."""
    if options.resume and options.keep_nothing:
        raise Mistake(
            "--resume and --keep-nothing: a run that keeps nothing cannot be resumed. Omit one of them."
        )
    if options.resume:
        learn = run_or_resume(load(options), options.runs, options.differ)
    else:
        learn = run(load(options), None if options.keep_nothing else options.runs)
    return report_stop(learn)


def do_resume(options: argparse.Namespace) -> int:
    """Resume a run."""
    folder = Path(options.recipe)
    if not (folder / "recipe.yaml").is_file():
        raise Mistake(f"{folder} is not a run's folder: it has no recipe.yaml.{other_run(folder)}")
    options.recipe = str(folder / "recipe.yaml")
    return report_stop(resume_run(load(options), options.differ))


def other_run(given: Path) -> str:
    """Suggest a run instead of what was given."""
    runs = sorted(str(each.parent) for each in Path().glob("runs/*/recipe.yaml"))
    close = closest(str(given), runs)
    meant = f" Did you mean {close}?" if close else f" Available: {', '.join(runs[-8:])}." if runs else ""
    if given.is_file():
        meant += f" To resume the newest run of a recipe: `learner run {given} --resume`."
    return meant


def do_verify_resume(options: argparse.Namespace) -> int:
    """Kill, resume and compare."""
    with mistaken(ValueError):
        report = verify_recipe(load(options), options.kills)
    print(report)
    return 0 if report.ok else 1


def do_sweep(options: argparse.Namespace) -> int:
    """Train with many settings; the exit code is 1 if no trial finished."""
    if options.trials is not None and options.trials < 1:
        raise Mistake(f"sweep: --trials is {options.trials}. Pass a number of at least 1.")
    if options.seed < 0:
        raise Mistake(f"sweep: --seed is {options.seed}. Pass a number of at least 0.")
    import_optuna()
    wanted: Direction | None = "min" if options.minimize else "max" if options.maximize else None
    try:
        goal = (options.minimize or options.maximize, wanted)
        plan = make_plan(options.recipe, options.overrides, goal, allow=options.allow, seed=options.seed)
    except OSError as error:
        raise unreadable(options.recipe, error) from error
    folder = place_for(plan, options.runs, resume=options.resume)
    best = f"{plan.monitor}: the {'lowest' if plan.direction == 'min' else 'highest'} is best"
    print("\n".join([*map(str, plan.settings), best, ""]), flush=True)
    return 0 if sweep(plan, folder, options.trials).best is not None else 1


def do_replay(options: argparse.Namespace) -> int:
    """Run a step again. What it raises is not caught, so that `python -m pdb` stops there."""
    return replay_run(options.run)


def report_stop(learn: Learner) -> int:
    """Print why a run stopped, unless Progress did."""
    if learn.stop_reason and Progress not in learn.callbacks:
        print_line(f"stopped: {learn.stop_reason}")
    return 0
