"""The command `learner`: train recipes, resume runs, check recipes, list names, examine the machine.

Exit codes: 0 success; 1 an error in training; 2 wrong input; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from callbacks.core.contract import LearnerWarning
from callbacks.core.output import print_line, reported
from callbacks.core.ranks import is_first_process, is_launched
from callbacks.distributed.heartbeat import SAME_AS_FIRST
from callbacks.distributed.rendezvous import OtherRankError
from learner.cli import examine, leave, listing, machine, predicting, reports, starter, train
from learner.cli.parser import Parser
from learner.data.tensors import counted
from learner.recipes.recipe_errors import Mistake, RecipeError
from learner.state.fingerprint import own_version

TRAINING = (["run"], ["resume"])  # their exit code reports how training ended, even if the output fails
LONG = (*TRAINING, ["sweep"], ["verify-resume"])  # report at once that the output has failed, and continue
PATIENCE = 10.0  # seconds in which the launcher ends the other processes once the first one has ended

EXAMPLES = """\
examples:
  learner init first                write a recipe and a model into first/
  learner run first/recipe.yaml     train, and save the run in runs/
  learner run first/recipe.yaml fit.epochs=3 callbacks.Progress=null
  learner ls callbacks              list the callbacks for recipes
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of the process, and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] not in LONG:  # `flush_output` reports a failure
        reported["stdout"] = sys.stdout
    try:
        with plain_warnings():
            code = dispatch(make_parser(), words)
    except SystemExit as ending:  # from argparse, or from a SIGTERM in a fit
        code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    except KeyboardInterrupt:
        print_line("interrupted", "stderr")
        code = 130
    has_output = flush_output(words)
    if words[:1] not in LONG:
        reported.pop("stdout", None)
    return code if has_output or words[:1] in TRAINING else code or 1


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show our warnings within the block without the line of code that called, which is one of ours."""
    usual = warnings.formatwarning

    def formatted(message: Any, category: type[Warning], *place: Any, **options: Any) -> str:
        if issubclass(category, LearnerWarning):
            return f"warning: {message}\n"
        return usual(message, category, *place, **options)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def make_parser() -> Parser:
    """The parser of the command line, with all commands."""
    parser = Parser(
        prog="learner",
        description="Train PyTorch models from recipes: YAML files that list the parts of a Learner.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = f"plainlearner {own_version()}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="command", parser_class=Parser)
    for each in (train, examine, predicting, reports, leave, listing, starter, machine):
        each.add_commands(commands)
    return parser


def dispatch(parser: Parser, arguments: list[str]) -> int:
    """Call the command's function. Mistakes of the user become exit code 2."""
    options = parse(parser, arguments)
    if "function" not in options:
        parser.print_help(sys.stderr)
        return 2
    try:
        check_command(arguments)
        return options.function(options)
    except RecipeError as error:
        let_first_print()
        return print_problems(error, options)
    except Mistake as mistake:
        let_first_print()
        print(f"learner: {mistake}", file=sys.stderr)
        return 2
    except OtherRankError as error:
        if not error.is_ended:
            let_first_print()
        print(f"learner: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if options.function is train.do_replay:
            raise  # uncaught, so that `python -m pdb` stops where it was raised
        if SAME_AS_FIRST in getattr(error, "__notes__", ()):
            let_first_print()
        if not isinstance(error, OSError) or flush_output(arguments, "\n"):  # otherwise our own output failed
            traceback.print_exc()
        return 1


def check_command(arguments: list[str]) -> None:
    """Refuse a command that needs only one process if there are several."""
    if is_launched() and os.environ["WORLD_SIZE"] != "1" and arguments[:1] not in TRAINING:
        raise Mistake(f"`learner {arguments[0]}` runs in one process: start it without torchrun.")


def let_first_print() -> None:
    """Give the first process time to print the same mistake; then the launcher ends the others."""
    if not is_first_process():
        time.sleep(PATIENCE)


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments; overrides may also follow options, which argparse does not support."""
    options, rest = parser.parse_known_args(arguments)
    if "overrides" in options:
        options.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        command, hint = f"{parser.prog} {arguments[0]}" if "function" in options else parser.prog, ""
        if "overrides" in options:
            hint = " Entries of the recipe have no --, as in fit.epochs=3."
        parser.exit(
            2, f"{command}: unrecognized arguments: {' '.join(rest)}.{hint}\nSee `{command} --help`.\n"
        )
    return options


def print_problems(error: RecipeError, options: argparse.Namespace) -> int:
    """Print the problems of a recipe."""
    if options.traceback:
        traceback.print_exception(error)
    else:
        print(error, file=sys.stderr)
    n_problems = counted(len(error.problems), "problem", "problems")
    print(f"\n{n_problems} in {options.recipe}; nothing was trained.", file=sys.stderr)
    return 2


def flush_output(words: list[str], text: str = "") -> bool:
    """Print a text, flush standard output, and return whether that works; report it if it does not.

    After a failure, output is discarded: Python flushes again at exit.
    """
    if sys.stdout is None:
        return True
    try:
        print(text, end="", flush=True)
        return True
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        was_closed = isinstance(error, BrokenPipeError)  # by its reader, such as `head`
        is_reported = words[:1] in LONG and "stdout" in reported
        if not was_closed and not is_reported:
            print_line(f"learner: standard output failed ({error})", "stderr")
        return False
