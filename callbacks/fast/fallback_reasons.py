"""Explains why a step cannot be compiled: the place in the user's code, the meaning, and the fix."""

from __future__ import annotations

import re
import sysconfig
from dataclasses import is_dataclass
from pathlib import Path


class Unfit(Exception):
    """The ordinary call must be made; the message says why."""


class UnfitNow(Unfit):
    """The ordinary call must be made this time; a later one may be fit."""


BRANCHES = (
    "what is computed, or a size, depends on the value of a tensor, but a program has no branches: use "
    "torch.where, which computes both sides, and validate_args=False for torch.distributions"
)
FOLDER = "the compiler cannot write its files: set TORCHINDUCTOR_CACHE_DIR to a writable folder"
OPAQUE = (
    "the model returns or keeps an object whose tensors torch cannot find: return tensors, tuples, dicts "
    "or named tuples; for a dataclass call torch.export.register_dataclass(...) once"
)
#: What errors of torch's compiler contain, and what that means for the author of the model.
MEANINGS = {
    "Data-dependent": BRANCHES,
    "data-dependent": BRANCHES,
    "consumed returned tensor's grad_fn": OPAQUE,
    "context_fn": "ActivationCheckpointing recomputes layers, which a program cannot do: leave one of "
    "them out",
    "Random.random": "it draws random numbers with Python's random module: draw them with torch",
    "lru_cache": "it calls a function with a cache, which a program ignores",
    "sparse Tensor": "a gradient or another tensor is sparse",
    "mkldnn_rnn": "torch cannot compile its LSTM here: set torch.backends.mkldnn.enabled = False",
    "InvalidCxxCompiler": "install a C++ compiler, such as g++ or clang, or set the variable CXX to its path",
    **dict.fromkeys(("PermissionError", "Read-only file system", "No space left"), FOLDER),
}
PLACE = re.compile(r'File "([^"]+)", line (\d+), in \S+\n\s*(.+)')
EFFECTS = re.compile(r"potential sources you can double check: \[(.*)\]")
STDLIB = sysconfig.get_path("stdlib")


def explain(error: Exception) -> Unfit:
    """An error of the compiler in one line: its meaning where it is known, the user's line, the message."""
    inner = getattr(error, "inner_exception", error)
    if isinstance(inner, Unfit):
        return inner
    text = f"{type(error).__name__}: {error}"
    if effects := EFFECTS.search(text):
        return UnfitNow(changes(effects[1]))  # what the first steps store for later ones is there after them
    meaning = next((each for key, each in MEANINGS.items() if key in text), "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = " ".join(lines[:2])[: 100 if meaning else 400]
    return Unfit("; ".join(filter(None, [meaning, place_in(text), message])))


def changes(sources: str) -> str:
    """What the step changes, from Dynamo's names: `L['model'].table` is `model.table`."""
    named = re.sub(r"\"|[LG]\['(\w+)'\]", lambda found: found[1] or "", sources) or "an object"
    if named.endswith("._buffers"):
        return f"the forward pass assigns a buffer ({named}): write to it in place, as with buffer.copy_(...)"
    what = named if "." in named else f"an attribute of {named}"
    return f"the forward pass or the loss changes {what}, which is neither a parameter nor a buffer"


def place_in(text: str) -> str:
    """The last line of the user's code that an error names, or ""."""
    places = [each for each in PLACE.findall(text) if not is_foreign(each[0])]
    if not places:
        return ""
    path, line, code = places[-1]
    return f"{Path(path).name}:{line} `{code.strip()}`"


def unknown(leaf: object) -> str:
    """The reason why an output cannot be split into tensors, and the fix."""
    kind = type(leaf)
    text = f"the model's output contains an object of the class {kind.__name__}, which may contain tensors"
    if kind.__name__.endswith("Cache"):
        return f"{text}: with a Hugging Face model, set model.config.use_cache = False"
    if is_dataclass(kind):
        return f"{text}: call torch.export.register_dataclass({kind.__name__}) once"
    return f"{text}: return a tensor, a tuple, a dict, a named tuple or a dataclass"


def is_foreign(path: str) -> bool:
    """Is a file neither the user's nor of a package that the user has installed?"""
    is_pythons = path.startswith("<frozen") or (path.startswith(STDLIB) and "site-packages" not in path)
    return is_pythons or "/torch/" in path or path.startswith(str(Path(__file__).parents[1]))
