"""The command `learner`: run, check and show recipes, go on with runs, list names, examine the machine.

Exit codes: 0 all went well; 1 an error in training; 2 a mistake in what was written; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from callbacks import Callback, ParamScheduler, Progress
from callbacks.core.output import print_line, reported
from callbacks.core.registry import describe
from learner.cli import machine
from learner.learner import Learner
from learner.recipes import listing, starter
from learner.recipes.recipe import Recipe, load_recipe
from learner.recipes.recipe_errors import Mistake, RecipeError, closest
from learner.recipes.runs import go_on, run, run_or_go_on
from learner.tools.lr_find import SUGGESTIONS

TRAINING = (["run"], ["resume"])  # whose exit code says how the training ended, also without an output
VERBS = ("run", "resume", "check", "show", "lr-find", "verify-resume", "replay", "ls", "init", "doctor")

EXAMPLES = """\
examples:
  learner init first                write a recipe and a model into first/
  learner run first/recipe.yaml     train, and keep the run in runs/
  learner run first/recipe.yaml fit.epochs=3 callbacks.Progress=null
  learner ls callbacks              what there is to name in a recipe
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = dispatch(make_parser(), words)
    except SystemExit as ending:  # argparse's, or a SIGTERM's in a fit
        code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    except KeyboardInterrupt:
        print_line("interrupted", "stderr")
        code = 130
    has_output = flush_output()
    return code if has_output or words[:1] in TRAINING else code or 1


def flush_output(text: str = "") -> bool:
    """Print a text, flush standard output, and return whether that works.

    What follows a failure goes nowhere: Python flushes again as it exits.
    """
    if sys.stdout is None:
        return True
    try:
        print(text, end="", flush=True)
        return True
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        has_left = isinstance(error, BrokenPipeError)  # the reader of our output, as `head` does
        if not has_left and "stdout" not in reported:
            print_line(f"learner: standard output failed ({error})", "stderr")
        return False


def dispatch(parser: Parser, arguments: list[str]) -> int:
    """Call the verb's function; the user's mistakes become exit code 2."""
    known, rest = parser.parse_known_args(arguments)
    if "function" not in known:
        parser.print_help(sys.stderr)
        return 2
    if "overrides" in known:  # argparse leaves those that follow an option
        strange = [word for word in rest if word.startswith("-")]
        known.overrides = [*known.overrides, *(word for word in rest if not word.startswith("-"))]
    else:
        strange = rest
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    try:
        return known.function(known)
    except RecipeError as error:
        return complain(error, known)
    except Mistake as mistake:
        print(f"learner: {mistake}", file=sys.stderr)
        return 2
    except Exception as error:
        if known.function is do_replay:
            raise  # whole, so that `python -m pdb` stops where it came up
        if not isinstance(error, OSError) or flush_output("\n"):  # else it is our output that fails
            traceback.print_exc()
        return 1


def complain(error: RecipeError, known: argparse.Namespace) -> int:
    """Print the faults."""
    if known.traceback:
        traceback.print_exception(error)
    else:
        print(error, file=sys.stderr)
    n_faults = len(error.faults)
    plural = "fault" if n_faults == 1 else "faults"
    print(f"\n{n_faults} {plural} in {known.recipe}; nothing was trained.", file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """argparse's, with suggestions."""

    def error(self, message: str) -> NoReturn:
        word = message.partition("invalid choice: '")[2].partition("'")[0]
        if word and word not in VERBS:
            close = closest(word, VERBS)
            looks_like_file = word.endswith((".yaml", ".yml"))
            meant = f"learner run {word}" if looks_like_file else f"learner {close}" if close else ""
            message = f"there is no verb {word!r}. " + (f"Did you mean `{meant}`? " if meant else "")
            message += f"The verbs are: {', '.join(VERBS)}."
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` tells more.\n")


def make_parser() -> Parser:
    """The command line's grammar."""
    parser = Parser(
        prog="learner",
        description="Train PyTorch models from recipes: YAML files that name the parts of a Learner.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="verb", parser_class=Parser)
    run_verb = add_recipe_verb(verbs, "run", "train, and keep the run in a folder of its own")
    where = "where run folders are made (runs)"
    run_verb.add_argument("--runs", metavar="FOLDER", type=Path, default=Path("runs"), help=where)
    run_verb.add_argument("--keep-nothing", action="store_true", help="make no run folder")
    about = "go on with the newest run of this recipe that was cut, or begin one"
    run_verb.add_argument("--resume", action="store_true", help=about)
    add_differ(run_verb)
    run_verb.set_defaults(function=do_run)
    resume = add_recipe_verb(verbs, "resume", "go on with a run that was cut", what="a run's folder")
    add_differ(resume)
    resume.set_defaults(function=do_resume)
    verify = add_recipe_verb(verbs, "verify-resume", "kill it at many places, go on, and compare the bits")
    verify.add_argument("--kills", type=int, default=10, metavar="N", help="at how many places (10)")
    verify.set_defaults(function=do_verify_resume)
    replay = verbs.add_parser(
        "replay", help="run the step again in which an error came up", allow_abbrev=False
    )
    replay.add_argument("run", type=Path, help="a run's folder")
    replay.set_defaults(function=do_replay)
    check = add_recipe_verb(verbs, "check", "build it, examine it on one batch, train nothing")
    check.set_defaults(function=do_check)
    find = add_recipe_verb(verbs, "lr-find", "search for a learning rate, and train nothing")
    find.add_argument("--steps", type=int, default=100, metavar="N", help="how many to try (100)")
    find.add_argument("--plot", type=Path, metavar="FILE", help="draw losses and suggestions, as lr.png")
    find.set_defaults(function=do_lr_find)
    show = add_recipe_verb(verbs, "show", "print the resolved recipe and the composed loop")
    show.set_defaults(function=do_show)
    ls = verbs.add_parser("ls", help="list what a recipe can name, or tell about one", allow_abbrev=False)
    ls.add_argument("what", nargs="?", help="callbacks, losses, optimizers, ..., or one name")
    ls.set_defaults(function=do_ls)
    init = verbs.add_parser("init", help="write a recipe and a model to begin with", allow_abbrev=False)
    init.add_argument("folder", nargs="?", type=Path, default=Path(), help="where to write them (here)")
    init.set_defaults(function=do_init)
    examine = verbs.add_parser(
        "doctor", help="tell versions, devices, and what is broken", allow_abbrev=False
    )
    examine.set_defaults(function=do_doctor)
    return parser


def add_recipe_verb(
    verbs: argparse._SubParsersAction[Parser], name: str, about: str, what: str = "a YAML file"
) -> Parser:
    """A verb that takes a recipe and overrides."""
    parser = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    parser.add_argument("recipe", metavar="run" if "folder" in what else "recipe", help=what)
    about = "as optimizer.lr=0.1 or callbacks.LogRMSE=null"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help=about)
    about = "let the recipe import from this package"
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=about)
    parser.add_argument("--traceback", action="store_true", help="show where in the code a fault came up")
    return parser


def add_differ(parser: Parser) -> None:
    """What may differ from the run that goes on."""
    about = "go on although this differs, as batch_size; a refusal names it"
    parser.add_argument("--differ", action="append", default=[], metavar="NAME", help=about)


def load(known: argparse.Namespace) -> Recipe:
    """The recipe of a command line, checked.

    Raises:
        RecipeError: it has faults.
        Mistake: its file cannot be read.
    """
    try:
        return load_recipe(known.recipe, known.overrides, allow=known.allow)
    except OSError as error:
        raise Mistake(f"{known.recipe}: {error.strerror or error}. {other_file(known.recipe)}") from error


def other_file(given: str) -> str:
    """Which file was probably meant, of those beside the one that was given."""
    path = Path(given)
    if path.is_dir():
        inside = sorted(str(each) for each in path.glob("*.y*ml"))
        return f"Name a recipe in it: {', '.join(inside)}." if inside else "There is no recipe in it."
    if "=" in given:
        return "The recipe comes first, then the overrides."
    beside = [str(each) for pattern in ("*.yaml", "*.yml") for each in path.parent.glob(pattern)]
    below = [] if path.is_absolute() else [str(each) for each in Path().glob("*/*.yaml")]
    close = closest(given, [*beside, *below])
    if close:
        return f"Did you mean {close}?"
    return f"There are: {', '.join(sorted(beside)[:8])}." if beside else "`learner init` makes a recipe."


def do_run(known: argparse.Namespace) -> int:
    """Train."""
    if known.resume and known.keep_nothing:
        raise Mistake("--resume and --keep-nothing: what is not kept cannot be gone on with. Leave one out.")
    if known.resume:
        learn = run_or_go_on(load(known), known.runs, known.differ)
    else:
        learn = run(load(known), None if known.keep_nothing else known.runs)
    return tell_stop(learn)


def do_resume(known: argparse.Namespace) -> int:
    """Go on with a run."""
    folder = Path(known.recipe)
    if not (folder / "recipe.yaml").is_file():
        there = sorted(str(each.parent) for each in Path().glob("runs/*/recipe.yaml"))
        close = closest(known.recipe, there)
        meant = (
            f" Did you mean {close}?" if close else f" There are: {', '.join(there[-8:])}." if there else ""
        )
        if folder.is_file():
            meant += f" The newest run of a recipe goes on with `learner run {known.recipe} --resume`."
        raise Mistake(f"{known.recipe} is no run's folder: it has no recipe.yaml.{meant}")
    known.recipe = str(folder / "recipe.yaml")
    return tell_stop(go_on(load(known), known.differ))


def do_verify_resume(known: argparse.Namespace) -> int:
    """Cut it, go on, compare."""
    from learner.recipes.verify import verify_recipe

    try:
        report = verify_recipe(load(known), known.kills)
    except ValueError as error:
        raise Mistake(str(error)) from error
    print(report)
    return 0 if report.ok else 1


def do_replay(known: argparse.Namespace) -> int:
    """Run a step again; what it raises goes on, so that `python -m pdb` stops there."""
    from learner.tools.replay import replay_run

    return replay_run(known.run)


def tell_stop(learn: Learner) -> int:
    """Say why a run was stopped, where no plug-in has."""
    if learn.stop_reason and Progress not in learn.callbacks:
        print_line(f"stopped: {learn.stop_reason}")
    return 0


def do_check(known: argparse.Namespace) -> int:
    """Build, and examine on one batch."""
    recipe = load(known)
    learn = recipe.build()
    with recipe.importable():
        report = learn.check()
    if not report.ok:
        raise RecipeError(
            fault for words in report.errors for fault in recipe.error_at(ValueError(words)).faults
        )
    print(f"{known.recipe}: the recipe has no faults.")
    return 0


def sets_rate(plugin: Callback) -> bool:
    """Does a plug-in set the rate, whatever the optimizer was given?"""
    return isinstance(plugin, ParamScheduler) and "lr" in plugin.schedules and not plugin.relative


def do_lr_find(known: argparse.Namespace) -> int:
    """Train at growing rates, and print what the losses speak for."""
    recipe = load(known)
    learn = recipe.build()
    try:
        with recipe.importable():
            found = learn.lr_find(n_steps=known.steps)
    except (ValueError, RuntimeError) as error:
        raise Mistake(str(error)) from error
    for name in SUGGESTIONS:
        print(f"{name:<10}{getattr(found, name):.2g}")
    scheduler = next((each for each in learn.callbacks if sets_rate(each)), None)
    if scheduler is None:
        print(f"To take the first: learner run {shlex.quote(known.recipe)} optimizer.lr={found.valley:.2g}")
    else:
        print(f"{describe(scheduler)} sets the rate: write it there, optimizer.lr would have no effect.")
    if known.plot is not None:
        figure: Any = found.plot().figure
        figure.savefig(known.plot)
        print(f"wrote {known.plot}")
    return 0


def do_show(known: argparse.Namespace) -> int:
    """Print the resolved recipe, and who does what in the loop."""
    recipe = load(known)
    print(recipe.resolved())
    recipe.build().explain()
    return 0


def do_ls(known: argparse.Namespace) -> int:
    """List names."""
    print(listing.overview() if known.what is None else listing.about(known.what))
    return 0


def do_init(known: argparse.Namespace) -> int:
    """Write the first recipe."""
    for path in starter.write(known.folder):
        print(f"wrote {path}")
    print(f"\nRun it:  learner run {shlex.quote(str(known.folder / starter.RECIPE))}")
    return 0


def do_doctor(known: argparse.Namespace) -> int:
    """Examine the machine."""
    report, healthy = machine.examine()
    print(report)
    return 0 if healthy else 1
