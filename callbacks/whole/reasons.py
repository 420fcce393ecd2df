"""What is told of compiling: that it goes on, and why it cannot be done, with the place and a cure."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from typing import Any

from torch import Tensor

from callbacks.core.output import print_line
from callbacks.record.progress import Progress
from callbacks.whole.executed import is_foreign
from callbacks.whole.proof import kind_of

#: What errors of torch's tracer and compiler say, and what that means for who wrote the model.
BRANCHES = (
    "the value of a tensor decides what is computed, or how large something is, and a program has one way: "
    "torch.where computes both, and torch.distributions look at no values with validate_args=False"
)
FOLDER = "the compiler cannot write its files: set TORCHINDUCTOR_CACHE_DIR to a folder where it can"
MEANINGS = {
    "GuardOnDataDependentSymNode": BRANCHES,
    "DataDependentOutputException": BRANCHES,
    "DynamicOutputShapeException": BRANCHES,
    ".numpy() is not supported": "it goes through NumPy, which no program does: write it with torch",
    "failed to unpack the object at pos": "a number that is read from a tensor decides about a shape",
    "dynamo-optimized function": "a part is compiled by torch.compile: leave that out, as the whole step is",
    "`context_fn` arg passed": "ActivationCheckpointing runs layers again, as no program does: leave one out",
    "InvalidCxxCompiler": "install a C++ compiler, as g++ or clang, or name it in the variable CXX",
    **dict.fromkeys(("PermissionError", "Read-only file system", "No space left"), FOLDER),
    "#22 'workspace'": (
        "torch cannot trace its LSTM for CPUs in float32. With torch.backends.mkldnn.enabled = False it can, "
        "each point in time for itself, which takes long to compile where there are many"
    ),
}


def tell_of_compiling(learn: Any, backend: Any, leaves: list[Any]) -> None:
    """Print a line before a compiler takes its time, where somebody shows how the fit goes on."""
    is_slow = isinstance(backend, str) and backend != "eager"
    if is_slow and any(isinstance(each, Progress) for each in learn.callbacks):
        kind = ", ".join(kind_of(each) for each in leaves if isinstance(each, Tensor))
        print_line(f"WholeStep compiles for {kind}: seconds to minutes", flush=True)


def told(error: Exception) -> str:
    """An error in a line: what it says, what that means where this is known, and where in the user's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {' '.join(lines[:2])}"
    meaning = next((each for key, each in MEANINGS.items() if key in said), "")
    return "; ".join(filter(None, [meaning, place_of(error), said[: 100 if meaning else 400]]))


def place_of(error: Exception) -> str:
    """The line of a model or loss in which an error came up, with its file; empty for none."""
    is_within, found = False, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if name == "callbacks.whole.program":
            is_within = True
        elif is_within and not is_foreign(name) and not name.startswith(("callbacks.", "learner.")):
            path = frame.f_code.co_filename
            code = linecache.getline(path, line).strip()
            found = f"{Path(path).name}:{line}" + (f" `{code}`" if code else "")
    return found
