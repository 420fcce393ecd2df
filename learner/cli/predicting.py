"""The commands that use the model of a run: `predict` and `test`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from callbacks.core.output import with_article
from callbacks.history.history import show
from callbacks.history.paths import replacing
from learner.cli.parser import Commands, Parser, add_plain_command, add_trust, check_output
from learner.data.data import InputsOnly
from learner.data.samples import Sample, Samples
from learner.data.tensors import as_column, counted
from learner.files.checkpoint_file import save_to
from learner.inference.one_item import training_samples
from learner.learner import Learner
from learner.recipes.recipe_errors import Mistake
from learner.runs.input_file import read_inputs
from learner.runs.opening import open_run

OUTPUTS = (".npy", ".csv", ".pt")


def add_commands(commands: Commands[Parser]) -> None:
    """Add the commands to the command line."""
    predict = add_run_command(commands, "predict", "predict the items in a file with the model of a run")
    text = "inputs: .csv (a row per item), .npy or .pt"
    predict.add_argument("--input", type=Path, required=True, metavar="FILE", help=text)
    text = "predictions: .npy, .csv or .pt (default: CSV to standard output)"
    predict.add_argument("--output", type=Path, metavar="FILE", help=text)
    text = "columns of a CSV file to use, such as age,height (default: all)"
    predict.add_argument("--columns", default="", metavar="NAMES", help=text)
    text = "the part of the model's output to keep: its name, such as logits, or its index"
    predict.add_argument("--keep", type=name_or_number, metavar="NAME", help=text)
    predict.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="items per batch (default: 256)"
    )
    predict.set_defaults(function=do_predict)
    test = add_run_command(commands, "test", "evaluate the model of a run on its test data")
    test.add_argument("--valid", action="store_true", help="evaluate on the validation data instead")
    test.set_defaults(function=do_test)


def add_run_command(commands: Commands[Parser], name: str, description: str) -> Parser:
    """Add a command that opens a run's folder."""
    parser = add_plain_command(commands, name, description)
    parser.add_argument("run", type=Path, help="a run's folder, such as runs/digits-1")
    text = "the weights at the end of the run (default), or those of the best epoch"
    parser.add_argument("--weights", choices=("final", "best"), default="final", help=text)
    add_trust(parser)
    return parser


def name_or_number(text: str) -> str | int:
    """A part of an output by its name, or by its index in a tuple."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def opened(options: argparse.Namespace) -> Learner:
    """The learner of the run."""
    options.recipe = options.run / "recipe.yaml"  # for messages
    try:
        with redirect_stdout(sys.stderr):  # standard output may be the table of predictions
            return open_run(options.run, options.weights, allow=options.allow)
    except (FileNotFoundError, ValueError) as error:
        raise Mistake("\n".join([str(error), *getattr(error, "__notes__", [])])) from error


def do_predict(options: argparse.Namespace) -> int:
    """Predict the items of a file."""
    check_predict(options)
    learn, path = opened(options), options.output
    samples = training_samples(learn) or {}
    names = [name.strip() for name in options.columns.split(",") if name.strip()]
    batches = FileBatches(read_inputs(options.input, samples, names), samples, options.batch_size)
    is_array = path is not None and path.suffix == ".npy"
    try:
        preds, _ = learn.get_preds(batches, keep=options.keep, to=path if is_array else None)
        if path is None:
            write_csv(preds, sys.stdout)
        elif not is_array:
            write(preds, path)
    except BrokenPipeError:
        raise  # the reader of the output has ended
    except OSError as error:
        raise unwritten(path, error) from error
    except ValueError as error:
        raise Mistake(str(error)) from error
    except Exception as error:
        if options.traceback:
            raise
        raise Mistake(f"{options.input}: {in_words(error)}\nFor the traceback add --traceback.") from error
    if path is not None:
        print(f"wrote {counted(batches.n_items, 'prediction', 'predictions')} to {path}")
    return 0


def unwritten(path: Path | None, error: OSError) -> Mistake:
    """The error for a file that cannot be written, with its name, which the error for a full disk lacks."""
    has_name = path is None or error.filename is not None
    return Mistake(str(error) if has_name else f"{path} cannot be written: {error.strerror or error}.")


def check_predict(options: argparse.Namespace) -> None:
    """Check the options of `predict` before the run is opened."""
    path: Path | None = options.output
    if path is not None and path.suffix not in OUTPUTS:
        raise Mistake(f"--output {path}: predictions are written to files that end in {', '.join(OUTPUTS)}.")
    if options.batch_size < 1:
        raise Mistake(f"--batch-size {options.batch_size}: pass 1 or more.")
    if not options.input.is_file():
        raise Mistake(f"--input {options.input}: there is no such file.")
    check_output(path)
    if path is not None and path.exists() and path.samefile(options.input):
        raise Mistake(
            f"--output {path}: this is the input file, which is not overwritten; pass another name."
        )


def in_words(error: Exception) -> str:
    """An error that the model raised for the inputs, with its notes."""
    title = f"the model cannot take these inputs: {type(error).__name__}: {error}"
    return "\n".join([title, *getattr(error, "__notes__", [])])


def do_test(options: argparse.Namespace) -> int:
    """Measure the model of a run, and print the results."""
    learn = opened(options)
    if not options.valid and learn.data.test is not None:
        results = learn.test()
    elif learn.data.valid is not None:
        if not options.valid:
            text = "there is no test data (Data(..., test=loader)), so the validation data is used:"
            print(text, file=sys.stderr)
        results = learn.validate()
    else:
        raise Mistake(
            f"{options.run} has neither test nor validation data: return Data(train, test=loader) from the "
            "function that makes the data."
        )
    width = max(map(len, results), default=0)
    for name, value in results.items():
        print(f"{name:{width}}  {show(value)}")
    return 0


class FileBatches:
    """The items of a file in batches of `size`, in their order; `samples` show what one item looks like."""

    def __init__(self, arguments: dict[Any, Any], samples: Samples, size: int):
        self.columns = {key: as_column(item, str(key)) for key, item in arguments.items()}
        self.samples, self.size = samples, size
        self.n_items = len(next(iter(self.columns.values())))

    def __len__(self) -> int:
        return -(-self.n_items // self.size)

    def __iter__(self) -> Iterator[InputsOnly]:
        for start in range(0, self.n_items, self.size):
            batch = {key: self._rows(key, slice(start, start + self.size)) for key in self.columns}
            by_position = isinstance(next(iter(batch)), int)
            yield InputsOnly(tuple(batch.values()) if by_position else batch)

    def _rows(self, key: Any, rows: slice) -> Tensor:
        found, sample = self.columns[key][rows], self.samples.get(key)
        return found.movedim(0, sample.dim) if isinstance(sample, Sample) else found


def write(preds: Any, path: Path) -> None:
    """Write predictions as `.csv` or `.pt`; the file gets its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        if path.suffix == ".pt":
            with part.open("wb") as file:
                save_to(file, lambda counted: torch.save(preds, counted))
        else:
            with part.open("w", encoding="utf-8", newline="") as file:
                write_csv(preds, file)


def write_csv(preds: Any, file: IO[str]) -> None:
    """Write predictions as a table with a row per item."""
    if not isinstance(preds, Tensor) or not 1 <= preds.ndim <= 2 or preds.is_complex():
        kind = f"of shape {tuple(preds.shape)}" if isinstance(preds, Tensor) else with_article(preds)
        raise ValueError(
            f"the predictions are {kind}, and a CSV file has one row of numbers per item: select a part with "
            "--keep NAME, or write --output preds.npy or preds.pt."
        )
    columns = preds[:, None] if preds.ndim == 1 else preds
    names = ["pred"] if columns.shape[1] == 1 else [f"pred_{n}" for n in range(columns.shape[1])]
    digits = 17 if preds.dtype == torch.float64 else 9
    form = f"%.{digits}g" if preds.is_floating_point() else "%d"
    array = columns.double().numpy() if preds.is_floating_point() else columns.long().numpy()
    np.savetxt(file, array, fmt=form, delimiter=",", header=",".join(names), comments="")
