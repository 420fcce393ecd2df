"""The commands that describe runs that exist: `runs`, `report` and `compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from callbacks.core.warning import warn_renamed
from callbacks.history.drawing import why_undrawn
from learner.cli.parser import Commands, Parser, add_plain_command, check_output
from learner.files.run_files import BEST, FINAL, weights_file
from learner.learner import Learner
from learner.recipes.recipe_errors import Mistake, mistaken
from learner.report.comparison import compare
from learner.report.records import Record, first_line, record_of_folder
from learner.report.reporting import RunReport, made
from learner.runs.opening import open_run
from learner.runs.run_list import as_facts, runs_in, table_of


def add_commands(commands: Commands[Parser]) -> None:
    """Add the commands to the command line."""
    runs = add_plain_command(commands, "runs", "list runs with their best results, the best first")
    runs.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("runs"),
        help="the folder that contains the runs (default: runs)",
    )
    runs.add_argument("--json", action="store_true", help="print what run.json of each run contains")
    runs.set_defaults(function=do_runs)
    text = "write a report of a run as an HTML file"
    report = add_plain_command(commands, "report", text)
    report.add_argument("run", type=Path, help="a run's folder")
    text = "the file to write (default: report.html in the run's folder)"
    report.add_argument("--output", type=Path, metavar="FILE", help=text)
    text = "do not run the model on the validation data for a confusion matrix or residuals"
    report.add_argument("--no-predictions", action="store_true", help=text)
    report.add_argument("--no-answers", action="store_true", help=argparse.SUPPRESS)  # the former name
    report.set_defaults(function=do_report)
    text = "compare the results, curves and settings of runs"
    compare_command = add_plain_command(commands, "compare", text)
    compare_command.add_argument("runs", nargs="+", type=Path, metavar="run", help="folders of runs")
    text = "also write the comparison as an HTML file"
    compare_command.add_argument("--output", type=Path, metavar="FILE", help=text)
    compare_command.set_defaults(function=do_compare)


def do_runs(options: argparse.Namespace) -> int:
    """List the runs of a folder."""
    found = runs_in(options.folder) if options.folder.is_dir() else []
    if not found:
        raise Mistake(
            f"{options.folder} has no runs. `learner run RECIPE` keeps its runs in runs/, or in the folder "
            "that --runs names."
        )
    print(json.dumps(as_facts(found), indent=1) if options.json else table_of(found))
    return 0


def do_report(options: argparse.Namespace) -> int:
    """Write the report of a run."""
    check_output(options.output)
    with mistaken(ValueError):
        record = record_of_folder(options.run)
    if options.no_answers:
        warn_renamed("--no-answers", "--no-predictions")
    is_left_out = options.no_predictions or options.no_answers or not record.rows
    learn = None if is_left_out else learner_of(record)
    write(made(record, learn), options.output or options.run / "report.html")
    for reason in record.missing:
        print(f"left out: {reason}")
    return 0


def learner_of(record: Record) -> Learner | None:
    """The learner of a run with its best weights, or those that it has; None if it cannot be built."""
    folder = record.folder or Path()
    has_best, has_final = (weights_file(folder, name) for name in (BEST, FINAL))
    try:
        return open_run(folder, "best" if has_best else "final" if has_final else "checkpoint")
    except Exception as error:  # noqa: BLE001 - the code of the run may raise anything; the rest is a report
        record.missing.append(f"Predictions on the validation data: {first_line(error)}")
        return None


def do_compare(options: argparse.Namespace) -> int:
    """Print runs side by side, and write the page if a file is given."""
    check_output(options.output)
    with mistaken(ValueError):
        found = compare(*options.runs)
    print(found)
    for name, record in zip(found.names, found.records, strict=True):
        for reason in record.missing:
            print(f"{name}: {reason}")
    if options.output is not None:
        if reason := why_undrawn():
            print(f"left out: Curves: {reason}.")
        write(found.report(), options.output)
    return 0


def write(report: RunReport, path: Path) -> None:
    """Write a page, and print its path."""
    try:
        report.save(path)
    except OSError as error:
        hint = "Pass a file with --output, such as report.html."
        raise Mistake(f"{path} cannot be written: {error.strerror}. {hint}") from error
    print(f"wrote {path}")
