"""The Python expressions for objects: numbers, functions and classes of torch, the user's own code."""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Packages that a script must not import.
OURS = ("learner", "callbacks")
MAX_NUMBERS = 100  # a longer tensor is too long to write into a script

#: Names that the script itself uses; an imported one is renamed.
TAKEN = frozenset(
    re.findall(
        r"\w+",
        """
        DEVICE F Mean MeanOf N_EPOCHS Path SEED averages batch batch_idx best best_state copy_into data decay
        device epoch group in_order in_phases loss loss_func main make_loaders metric model n_steps n_updates
        name nn np optimizer own_weights partial preds progress results row scale scaler scheduler start
        targets inputs torch train train_loader train_loss train_metrics trained unit valid valid_loader
        valid_loss valid_metrics value values wait waiting weight weights
        """,
    )
)


@dataclass
class Part:
    """A component and its arguments, as a recipe names it with `use:`."""

    name: str  #: its name in the recipe, or what a script calls it
    target: Any  #: the class or function with that name
    arguments: dict[str, Any] = field(default_factory=dict)  #: by name; parts inside them are not built yet
    #: the layers, if it is a model written as a list of layers
    items: list[Any] = field(default_factory=list)
    starred: str | None = None  #: the argument whose list is passed as `*args`

    def build(self) -> Any:
        """Make it."""
        return self.target(**self.arguments)


class Expressions:
    """Writes objects as expressions; collects the imports that they need, and the problems.

    The script will be in `folder`; the user's files are in it or below it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.imports: set[tuple[str, str]] = set()
        self.problems: list[str] = []

    def part(self, part: Part, where: str) -> str:
        """A component of a recipe."""
        name = self.name(part.target, where, part.name)
        items = list(part.items)
        arguments = dict(part.arguments)
        if part.starred:
            items += arguments.pop(part.starred, ())
        written = [self.value(each, where) for each in items]
        written += [f"{key}={self.value(each, f'{where}: {key}')}" for key, each in arguments.items()]
        return f"{name}({', '.join(written)})"

    def value(self, value: Any, where: str) -> str:
        """Any object."""
        if hasattr(value, "arguments") and hasattr(value, "target"):
            return self.part(value, where)
        if value is None or isinstance(value, (bool, int, float, str, Path)):
            return literal(value)
        if isinstance(value, (list, tuple)):
            return listed([self.value(each, where) for each in value], value)
        if isinstance(value, dict):
            pairs = [f"{literal(key)}: {self.value(each, where)}" for key, each in value.items()]
            return f"{{{', '.join(pairs)}}}"
        if isinstance(value, (torch.dtype, torch.device)):
            return str(value) if isinstance(value, torch.dtype) else f'torch.device("{value}")'
        if isinstance(value, Tensor) and value.numel() <= MAX_NUMBERS:
            plain = value.dtype in (torch.float32, torch.int64, torch.bool)
            dtype = "" if plain else f", dtype={value.dtype}"
            return f"torch.tensor({self.value(value.tolist(), where)}{dtype})"
        if isinstance(value, partial) and not (value.args or value.keywords):
            return self.value(value.func, where)
        if isinstance(value, partial):
            return f"partial({', '.join([self.name(value.func, where), *self.arguments(value, where)])})"
        if isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module)):
            return self.name(value, where)
        return self.instance(value, where)

    def call(self, function: Any, where: str, *first: str) -> str:
        """A call of a function or a `partial`; `first` are the arguments before its own."""
        if not isinstance(function, partial):
            return f"{self.name(function, where)}({', '.join(first)})"
        written = self.arguments(function, where)
        written[len(function.args) : len(function.args)] = first
        return f"{self.name(function.func, where)}({', '.join(written)})"

    def arguments(self, function: partial[Any], where: str) -> list[str]:
        """The arguments of a `partial`."""
        written = [self.value(each, where) for each in function.args]
        keywords = function.keywords.items()
        return written + [f"{key}={self.value(each, f'{where}: {key}')}" for key, each in keywords]

    def instance(self, item: Any, where: str) -> str:
        """An object whose constructor stores its arguments under their names, as those of torch do."""
        kind = type(item)
        written = []
        for key, parameter in inspect.signature(kind).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if not hasattr(item, key):
                if parameter.default is parameter.empty:
                    self.problems.append(f"{where}: {kind.__name__} does not store its argument {key!r}")
                continue
            value = getattr(item, key)
            if not is_default(value, parameter.default):
                written.append(f"{key}={self.value(value, f'{where}: {key}')}")
        return f"{self.name(kind, where)}({', '.join(written)})"

    def name(self, target: Any, where: str, given: str = "") -> str:
        """A class or a function by the name that the script imports it by."""
        title = getattr(target, "__name__", "")
        for module, prefix in PUBLIC:
            if title and getattr(module, title, None) is target:
                return f"{prefix}.{title}"
        place = self.place_of(target, given)
        if place is None or not title.isidentifier():
            shown = "a lambda" if title == "<lambda>" else f"{title or target!r}"
            self.problems.append(f"{where}: {shown} cannot be imported by a script; {IN_A_FILE}")
            return "..."
        return self.imported(*place)

    def imported(self, module: str, name: str) -> str:
        """Import a name, and return what the script calls it."""
        if any(other == name and path != module for path, other in self.imports) or name in TAKEN:
            alias = f"{re.split(r'[./]', module)[-1]}_{name}"
            self.imports.add((module, f"{name} as {alias}"))
            return alias
        self.imports.add((module, name))
        return name

    def place_of(self, target: Any, given: str) -> tuple[str, str] | None:
        """The module and the name of something outside of torch; None if a script cannot import it."""
        if ".py:" in given:
            file, _, name = given.rpartition(":")
            return dotted(Path(file)), name
        module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", ".")
        path = Path(getattr(sys.modules.get(module), "__file__", None) or "/").resolve()
        if "." in name or module.partition(".")[0] in OURS:
            return None
        if path.is_relative_to(self.folder) and "site-packages" not in path.parts:
            return dotted(path.relative_to(self.folder)), name
        found = None if module == "__main__" else sys.modules.get(module)
        return (module, name) if getattr(found, name, None) is target else None


IN_A_FILE = "define it with a name in a Python file next to the script"

#: Where torch has its public names, and how the script calls the module.
PUBLIC = (
    (nn, "nn"),
    (functional, "F"),
    (torch.optim, "torch.optim"),
    (torch.optim.lr_scheduler, "torch.optim.lr_scheduler"),
    (nn.init, "nn.init"),
    (torch, "torch"),
)


def dotted(path: Path) -> str:
    """`nets/conv.py` to `./nets.conv`; the dot and the slash mark a file of the user."""
    return "./" + ".".join(path.with_suffix("").parts)


def literal(value: Any) -> str:
    """A number, a string or None as `ruff format` writes it."""
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return f'float("{value}")'
        return re.sub(r"e([+-])0*", lambda found: f"e{found[1].strip('+')}", repr(value))
    return repr(value)


def listed(items: list[str], like: Any) -> str:
    """A list or a tuple of expressions."""
    if isinstance(like, tuple):
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return f"[{', '.join(items)}]"


def is_default(value: Any, default: Any) -> bool:
    """Is it the default of an argument? A tensor never is."""
    if isinstance(value, (Tensor, FunctionType)):
        return value is default
    return value is default or (type(value) is type(default) and value == default)
