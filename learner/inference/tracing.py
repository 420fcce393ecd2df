"""Trace a model with `torch.export`, and report what cannot be traced by the user's line."""

from __future__ import annotations

import inspect
import io
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_map

from learner.inference.call import Call

#: Folders whose lines are not the user's. A package installed next to torch, such as transformers, may be.
INSIDE = tuple(map(str, (Path(torch.__file__).parent, Path(__file__).parent.parent)))
STANDARD = sysconfig.get_paths()["stdlib"]


def traced(model: nn.Module, call: Call) -> torch.export.ExportedProgram:
    """The model as a program of `torch.export`."""
    call = call.resized(call.n_traced)
    bound = inspect.signature(model.forward).bind(*call.args, **call.kwargs).arguments
    shapes = tree_map(call.dynamic_dimensions, dict(bound))
    constants: list[str] = []
    try:
        with quiet(logging.NOTSET), watching(constants):
            program = torch.export.export(model, call.args, call.kwargs, dynamic_shapes=shapes)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = line_of(frames) or next(iter(constants), "")
        raise ValueError(f"export: {reason(error, line)}") from error
    program.example_inputs = None  # the file would hold items of the user's data
    return program


def reason(error: Exception, line: str) -> str:
    """Why a model cannot be exported, and what to do."""
    words, at = str(error), f" ({line})" if line else ""
    constant = re.search(r"specialized it to be a constant \((\d+)\)", words)
    if constant:
        return (
            f"the model's forward turns a size that may vary into the constant {constant.group(1)}{at}, as a "
            "Python loop over the items or view(64, -1) does. Use x.shape[0] or -1, and tensor operations "
            "instead of the loop; or pass dynamic=() for a file that takes inputs of exactly these sizes."
        )
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return (
            f"the model's forward depends on the values of a tensor{at}, and a program is the same for all "
            "values. Use torch.where, a mask or torch.cond instead of `if`, and no .item()."
        )
    return (
        f"torch.export cannot trace the model{at}: {words.strip().splitlines()[0]} Change this line to "
        "operations of torch, or export the weights alone, to a .safetensors or .pt file."
    )


def unsupported(error: Exception, program: torch.export.ExportedProgram) -> str:
    """The message for a program that ONNX cannot hold: the operator, and the line of the model."""
    words = "\n".join([str(error), str(error.__cause__)])
    operator = re.search(r"OpOverload\(op='([\w.]+)'", words)
    name = operator.group(1).split(".")[-1] if operator else "?"
    node = next((each for each in program.graph.nodes if name in str(each.target)), None)
    trace = "" if node is None else node.meta.get("stack_trace", "")
    places = re.findall(r'File "(.+)", line (\d+), in .*\n *(.*)', trace)
    at = " (line {1} of {0}: {2})".format(*places[-1]) if places else ""
    summary = re.search(r"Exception summary\s+(.+)", words)
    other = f"this program: {summary.group(1) if summary else words.splitlines()[0]}"
    what = f"the operator {operator.group(1)}{at}" if operator else other
    return (
        f"export: the ONNX exporter cannot convert {what}. Use other operators, or export a .pt2, which "
        "supports all operators of torch."
    )


def line_of(frames: Iterable[traceback.FrameSummary]) -> str:
    """The last line of these frames that belongs to the user's code."""
    for frame in reversed(list(frames)):
        name = frame.filename
        is_standard = name.startswith(STANDARD) and "site-packages" not in name
        if not (is_standard or name.startswith((*INSIDE, "<"))):
            return f"line {frame.lineno} of {name}: {frame.line}"
    return ""


@contextmanager
def watching(constants: list[str]) -> Iterator[None]:
    """Note the user's lines that make a varying size a constant; torch's own log holds them nowhere else."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level

    def note(record: logging.LogRecord) -> bool:
        if "range_refined_to_singleton" in record.getMessage():
            constants.append(line_of(traceback.extract_stack()))
        return False

    log.addFilter(note)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeFilter(note)


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Hide what the exporters print and warn of: it concerns their own code, and the file is checked."""
    nowhere, before = io.StringIO(), logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(level)
        try:
            yield
        finally:
            logging.disable(before)
