"""Read the inputs for predictions from a file, and check them against the training data."""

from __future__ import annotations

import csv
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.core.output import print_line
from learner.data.samples import Sample, Samples
from learner.data.tensors import counted, describe, is_array
from learner.recipes.recipe_errors import Mistake, closest

SUFFIXES = (".csv", ".npy", ".pt")
DELIMITERS = (",", ";", "\t")


def read_inputs(path: Path, samples: Samples, columns: Sequence[str] = ()) -> dict[Any, Any]:
    """The model's arguments for all items, by position or keyword.

    Args:
        path: a `.csv`, `.npy` or `.pt` file. A CSV file has one row per item, and may have a header. A `.pt`
            file contains a tensor, a list or tuple of them, or a mapping.
        samples: what the arguments look like for one item; empty if that is not known.
        columns: names of the columns of a CSV file to use, in this order; by default all.
    """
    if path.suffix not in SUFFIXES:
        raise Mistake(f"{path}: inputs are read from files that end in {', '.join(SUFFIXES)}.")
    if columns and path.suffix != ".csv":
        raise Mistake(f"--columns selects columns of a CSV file, but {path} is not one.")
    try:
        found = read_csv(path, columns) if path.suffix == ".csv" else read_binary(path)
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror or error}.") from error
    arguments = by_name(found, samples, path)
    checked = {key: fitting(item, samples.get(key), path, key) for key, item in arguments.items()}
    lengths = {key: len(item) for key, item in checked.items()}
    if len(set(lengths.values())) > 1:
        raise Mistake(f"{path}: the inputs have different numbers of items: {lengths}.")
    if not next(iter(lengths.values())):
        raise Mistake(f"{path} has no items.")
    return checked


def read_binary(path: Path) -> Any:
    """The contents of a `.npy` or `.pt` file, without running code that it may contain."""
    is_numpys = path.suffix == ".npy"
    hint = "arrays of numbers, saved with np.save" if is_numpys else "tensors, saved with torch.save"
    try:
        if is_numpys:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (ValueError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise Mistake(f"{path} is damaged or contains other objects: only {hint}, are read.") from error


def by_name(found: Any, samples: Samples, path: Path) -> dict[Any, Any]:
    """Arrays as the model's arguments by position or keyword."""
    keys = list(samples)
    if isinstance(found, Mapping):
        missing = [key for key in keys if key not in found and isinstance(samples[key], Sample)]
        if missing and all(isinstance(key, str) for key in keys):
            raise Mistake(f"{path} has {', '.join(map(str, found))}, but lacks {', '.join(missing)}.")
        if keys and not isinstance(keys[0], str):
            raise Mistake(f"{path} is {describe(found)}, but the model takes inputs by position.")
        return {key: found[key] for key in keys or found}
    row = list(found) if isinstance(found, (tuple, list)) and all(map(is_array, found)) else [found]
    if keys and len(row) != len(keys):
        raise Mistake(
            f"{path} has {counted(len(row), 'input', 'inputs')}, but the model takes {len(keys)}: "
            f"{', '.join(map(str, keys))}. Several inputs are a list of tensors, or a mapping, in a .pt "
            "file."
        )
    return dict(zip(keys or range(len(row)), row, strict=True))


def fitting(item: Any, sample: Any, path: Path, key: Any) -> Any:
    """One argument in the shape and type of the training data."""
    title = f"{path}" if key == 0 else f"{path}, input {key!r}"
    if not is_array(item):
        raise Mistake(f"{title} is {describe(item)}: it must be a tensor or an array of numbers.")
    if not isinstance(sample, Sample):
        if not item.ndim:
            raise Mistake(f"{title} is a single number: it must have the shape (items, ...).")
        return item
    if item.ndim == len(sample.shape) and tuple(item.shape) == sample.shape:
        item = item[None]  # one item
    if path.suffix == ".csv" and not sample.shape and item.ndim == 2 and item.shape[1] == 1:
        item = item[:, 0]
    elif path.suffix == ".csv" and len(sample.shape) > 1 and item.shape[1] == math.prod(sample.shape):
        item = item.reshape(len(item), *sample.shape)  # a row has the numbers of one item in their order
    if item.ndim != len(sample.shape) + 1 or not sample.fits(torch.empty(item.shape[1:], dtype=sample.dtype)):
        raise Mistake(wrong_shape(item, sample, title))
    return in_dtype(item, sample.dtype, title)


def wrong_shape(item: Any, sample: Sample, title: str) -> str:
    """The message for inputs of another shape than the training data."""
    if len(sample.shape) == 1 and item.ndim == 2:
        n_given = counted(item.shape[1], "column", "columns")
        return f"{title} has {n_given}, but the model was trained on {sample.shape[0]} per item."
    hint = ""
    if title.endswith(".csv") and len(sample.shape) > 1:
        hint = f" A row needs the {math.prod(sample.shape)} numbers of one item."
    return (
        f"{title} has the shape {tuple(item.shape)}, but the model was trained on batches of shape "
        f"{Sample(sample.shape, sample.dtype).of_batch('items')}.{hint}"
    )


def in_dtype(item: Any, dtype: torch.dtype, title: str) -> Any:
    """An array in the type of the training data; a large one stays on the disk if it has this type."""
    try:
        given = item if isinstance(item, Tensor) else torch.from_numpy(np.array(item[:1]))
    except TypeError:
        raise Mistake(f"{title} contains {item.dtype}, but the model takes {dtype}.") from None
    if given.dtype == dtype:
        return item
    whole = item if isinstance(item, Tensor) else torch.from_numpy(np.array(item))
    found = whole.to(dtype)
    is_rounded = dtype.is_floating_point or dtype.is_complex
    if not is_rounded and not torch.equal(found.to(torch.float64), whole.to(torch.float64)):
        raise Mistake(f"{title} has numbers that {dtype}, the type of the training data, cannot represent.")
    return found


# CSV files


def read_csv(path: Path, columns: Sequence[str]) -> np.ndarray[Any, Any]:
    """The numbers of a CSV file, shape (rows, columns)."""
    lines = text_of(path).splitlines()
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise Mistake(f"{path} is empty.")
    delimiter = max(DELIMITERS, key=first.count)
    header = next(csv.reader([first], delimiter=delimiter))
    has_header = is_header(header, path)
    if columns and not has_header:
        raise Mistake(f"{path} has no header, so --columns cannot select columns by name.")
    numbers = [number_of(name, header, path) for name in columns] or None
    text = [line for line in lines if line.strip()][has_header:]
    if not text:
        raise Mistake(f"{path} has a header and no rows.")
    try:
        options: dict[str, Any] = {"quotechar": '"', "comments": None, "ndmin": 2, "usecols": numbers}
        found = np.loadtxt(text, delimiter=delimiter, **options)
    except ValueError as error:
        raise Mistake(first_problem(lines, delimiter, header, numbers, path)) from error
    if has_header and not columns and found.shape[1] != len(header):
        raise Mistake(f"{path}: the header has {len(header)} names, but a row has {found.shape[1]} numbers.")
    return found


def text_of(path: Path) -> str:
    """The text of a file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}).") from error


def is_header(cells: Sequence[str], path: Path) -> bool:
    """Are the cells of the first line names?

    If most of them are numbers, the line is an item with gaps, not names. The names 0, 1, 2, ... are the
    columns of a DataFrame without names.
    """
    words = [n for n, cell in enumerate(cells) if not is_number(cell)]
    if words and len(words) < len(cells) / 2 and list(map(str.strip, cells[1:])) != numbered(len(cells) - 1):
        cell = cells[words[0]]
        shown = repr(cell) if cell.strip() else "an empty cell"
        raise Mistake(
            f"{path}, line 1, column {words[0] + 1}: {shown} is not a number, but most other cells are. "
            "If the line is a header, write names that are not numbers."
        )
    if not words and len(cells) > 2 and list(map(str.strip, cells)) == numbered(len(cells)):
        print_line(f"{path}: line 1 (0, 1, 2, ...) counts as an item; remove it if it is a header", "stderr")
    return bool(words)


def numbered(n_columns: int) -> list[str]:
    """The names that pandas gives to columns without names."""
    return [str(n) for n in range(n_columns)]


def is_number(cell: str) -> bool:
    """Is it a number, as Python reads it?"""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number_of(name: str, header: Sequence[str], path: Path) -> int:
    """The number of the column with this name."""
    names = [each.strip() for each in header]
    if name in names:
        return names.index(name)
    close = closest(name, names)
    hint = f"Did you mean {close!r}?" if close else f"Available: {', '.join(names[:12])}."
    raise Mistake(f"{path} has no column {name!r}. {hint}")


def first_problem(
    lines: Sequence[str], delimiter: str, header: Sequence[str], numbers: Sequence[int] | None, path: Path
) -> str:
    """The first line of a CSV file that is not a row of numbers."""
    has_header = not all(map(is_number, header))
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, line in filled[has_header:]:
        cells = next(csv.reader([line], delimiter=delimiter))
        if len(cells) != len(header):
            n_cells = counted(len(cells), "cell", "cells")
            return f"{path}, line {number}: {n_cells}, but the first line has {len(header)}."
        for at in range(len(cells)) if numbers is None else numbers:
            if not is_number(cells[at]):
                column = repr(header[at].strip()) if has_header else str(at + 1)
                shown = repr(cells[at]) if cells[at].strip() else "an empty cell"
                return f"{path}, line {number}, column {column}: {shown} is not a number."
    return f"{path} is not a table of numbers."
