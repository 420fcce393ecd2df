"""Find the Python code that a step runs: a program must watch what this code can read."""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import CellType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import Tensor

from callbacks.fast.lean_proof import Unfit
from callbacks.whole.values import function_of

#: Packages whose code and modules hold no settings of the user.
FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
#: Parts of the standard library whose answers depend on their arguments alone.
PURE = frozenset(
    [
        *("_abc", "_collections", "_collections_abc", "_frozen_importlib", "_functools", "_operator"),
        *(
            "_weakrefset",
            "abc",
            "bisect",
            "builtins",
            "cmath",
            "collections",
            "contextlib",
            "copy",
            "copyreg",
        ),
        *("dataclasses", "decimal", "enum", "fractions", "functools", "heapq", "importlib", "inspect"),
        *("itertools", "logging", "math", "numbers", "operator", "re", "reprlib", "statistics", "string"),
        *("textwrap", "types", "typing", "warnings"),
    ]
)
IMPURE = frozenset(sys.stdlib_module_names) - PURE
#: Packages without user code: those above, and the two of this project.
OWN = FOREIGN | {"callbacks", "learner"}
#: Built-in functions that read from outside.
READERS = ("open", "input", "__import__")
ARRAYS = ("numpy", "tolist", "__array__")  #: methods of tensors that give their values to others than torch
#: Names of functions that read attributes by a name that is computed.
DYNAMIC = frozenset(
    [
        "getattr",
        "vars",
        "__dict__",
        "asdict",
        "astuple",
        "attrgetter",
        "eval",
        "exec",
        "globals",
        "locals",
        "dir",
    ]
)
COMPILED = "compile_wrapper"  #: the function by which torch runs what it has compiled
CALLED = ("forward", "backward", "__call__")  #: methods that are called without their name
GETTERS = ("__getattr__", "__getattribute__")


class Executed:
    """The code that steps have run so far, found by running them under a profiler.

    Attributes:
        functions: functions of the user, and of libraries other than torch, that were called.
        names: all names that the code has, of torch's too: an attribute with another name was not read.
        own_names: those of the user's code.
        reads_all: whether attributes are read by names that are computed, so that each may have been read.
    """

    def __init__(self) -> None:
        self.functions: list[FunctionType] = []
        self.names: set[str] = set()
        self.own_names: set[str] = set()
        self.codes: set[CodeType] = set()
        self.imported: list[ModuleType] = []
        self.reads_all = False
        self._outside = ""  # the first call that reads from outside

    @classmethod
    def guessed(cls, model: Any, loss_func: Any) -> Executed:
        """The functions that names in the code of a model and its loss lead to, before any was called."""
        kinds = [*{type(each): None for each in (*model.modules(), loss_func)}]
        return cls.reached(
            [loss_func, *(getattr(kind, name, None) for kind in kinds for name in CALLED)], kinds
        )

    @classmethod
    def reached(cls, left: list[Any], kinds: Sequence[type]) -> Executed:
        """The functions that names in code lead to.

        Args:
            left: functions, bound methods and others, to start from.
            kinds: classes whose methods the names may mean.
        """
        found = cls()
        while left:
            value = left.pop()
            if isinstance(value, type) and not is_foreign(value.__module__):
                left += [vars(value).get(name) for name in CALLED]
            function = function_of(value.func if isinstance(value, partial) else value)
            if function is None or function.__code__ in found.codes or is_foreign(function.__module__):
                continue
            found.functions.append(function)
            found.codes.add(function.__code__)
            names = names_of(function.__code__)
            found.names |= names
            left += [function.__globals__.get(name) for name in globals_of(function.__code__)]
            left += [vars(kind).get(name) for each in kinds for kind in each.__mro__ for name in names]
            left += [each.cell_contents for each in function.__closure__ or () if has_contents(each)]
        return found

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is called in the block.

        Raises:
            Unfit: a profiler runs already; or a part is compiled.
        """
        if sys.getprofile() is not None:
            raise Unfit("a Python profiler is active, and WholeStep needs that hook in the first steps")
        found: dict[CodeType, str | None] = {}  # of the user's code its package

        def profile(frame: FrameType, event: str, called: Any) -> None:
            if event == "call":
                code = frame.f_code
                top = top_of(frame)
                if code not in found:
                    package = frame.f_globals.get("__package__") or ""
                    found[code] = None if top in OWN else package
                if code.co_name == COMPILED and frame.f_globals.get("__name__") == "torch._dynamo.eval_frame":
                    raise Unfit(
                        "a part is compiled by torch.compile: leave that out, as WholeStep compiles all"
                    )
                if (top in IMPURE or code.co_name == "import_module") and is_users(frame.f_back):
                    self._outside = self._outside or f"{top}.{code.co_name}"
            elif event == "c_call" and is_users(frame):
                self._outside = self._outside or impure(called)

        with uncollected():
            sys.setprofile(profile)
            try:
                yield
            finally:
                sys.setprofile(None)
        self._add({code: package for code, package in found.items() if code not in self.codes})

    def check(self) -> None:
        """Refuse code that was called and reads what a program, which could be made, has read once.

        Raises:
            Unfit: names it.
        """
        if self._outside:
            raise Unfit(f"forward pass or loss call {self._outside}, whose answer a program would not renew")

    def _add(self, found: dict[CodeType, str | None]) -> None:
        self.codes |= found.keys()
        own = {code: package for code, package in found.items() if package is not None}
        for code in found:
            self.names |= names_of(code)
        for code, package in own.items():
            names = names_of(code)
            self.own_names |= names
            self.reads_all |= code.co_name in GETTERS or not DYNAMIC.isdisjoint(names)
            self.imported += imported_by(code, package)
            if {"sys", "modules"} <= names:
                self._outside = self._outside or "sys.modules"
        if own:
            owners = [each for each in gc.get_referrers(*own) if isinstance(each, FunctionType)]
            order = {code: place for place, code in enumerate(own)}
            self.functions += sorted(owners, key=lambda each: order.get(each.__code__, 0))


@contextmanager
def uncollected() -> Iterator[None]:
    """Put garbage collection off: what it calls, as `gc.callbacks`, would pass for code of the step."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def top_of(frame: FrameType) -> str:
    """The package whose code a frame runs."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def is_users(frame: FrameType | None) -> bool:
    """Does it run code of the user, or of a library other than torch?"""
    return frame is not None and top_of(frame) not in OWN


def impure(called: Any) -> str:
    """The name of a function written in C that reads from outside; empty for any other."""
    if isinstance(getattr(called, "__self__", None), ContextVar):  # which is watched
        return ""
    owner = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
    name = getattr(called, "__name__", "")
    if name in ARRAYS and isinstance(called.__self__, Tensor):
        return f"Tensor.{name}"
    reads = owner.partition(".")[0] in IMPURE or (owner == "builtins" and name in READERS)
    return f"{owner}.{name}" if reads else ""


def is_foreign(module: str) -> bool:
    """Is it code of torch, or of Python?"""
    return (module or "").partition(".")[0] in FOREIGN


def has_contents(cell: CellType) -> bool:
    """Does the variable of a closure have a value?"""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def globals_of(code: CodeType) -> list[str]:
    """Which global variables code reads; an attribute of the same name is none."""
    names = [
        each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    ]
    within = [globals_of(each) for each in code.co_consts if isinstance(each, CodeType)]
    return list(dict.fromkeys([*names, *(name for names in within for name in names)]))


def names_of(code: CodeType) -> set[str]:
    """Which names code has, also as text for `getattr`; those of functions within included."""
    found = {*code.co_names, *(each for each in code.co_consts if isinstance(each, str))}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found |= names_of(each)
    return found


def imported_by(code: CodeType, package: str) -> list[ModuleType]:
    """The modules of the user that code imports as it runs; also by a name relative to its package."""
    names = [each.argval for each in dis.get_instructions(code) if each.opname == "IMPORT_NAME"]
    parts = package.split(".") if package else []
    bases = ["", *(".".join(parts[:n]) for n in range(len(parts), 0, -1))]
    paths = dict.fromkeys(f"{base}.{name}".strip(".") for name in names for base in bases)
    found = [sys.modules.get(path) for path in paths if not is_foreign(path)]
    return [each for each in found if each is not None]


def reads_data(code: CodeType) -> bool:
    """Does code read an attribute `data` of something other than the learner?"""
    before = ""
    for each in dis.get_instructions(code):
        if each.opname in ("LOAD_ATTR", "STORE_ATTR") and each.argval == "data" and before != "learn":
            return True
        before = each.argval
    return any(reads_data(each) for each in code.co_consts if isinstance(each, CodeType))
