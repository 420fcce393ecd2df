"""Watches what a step reads and torch's guards do not see: methods of classes, hooks of parameters."""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import starmap
from operator import attrgetter, is_
from types import CodeType, FrameType, FunctionType, ModuleType, NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all
from torch.utils.hooks import RemovableHandle

from callbacks.fast.fallback_reasons import Unfit

CODE = attrgetter("__code__")
#: The hooks of a parameter: None, or a dict that stays, empty, where a hook was removed.
HOOKS = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
#: Kinds of hooks of a module, and, with other names, of all modules.
KINDS = ("backward_pre", "backward", "forward_pre", "forward")
COMPILING = ("is_compiling", "is_dynamo_compiling", "is_exporting")
#: Packages whose classes nobody changes during a fit, except `forward` of torch's modules.
FOREIGN = {"torch", "callbacks", *sys.stdlib_module_names}
#: How many objects are examined at most, without those of the types below.
N_HELD = 20_000
NOT_HELD = (Tensor, ModuleType, str, bytes, int, float, complex, NoneType)
METHODS = (FunctionType, property, classmethod, staticmethod)


class Unguarded:
    """Watches the methods of the classes that a step uses, and hooks that no guard compares."""

    def __init__(self) -> None:
        #: what each class defines, how many names that are, and where the watched ones are looked up
        self._classes: dict[type, Mapping[str, Any]] = {}
        self._sizes: list[int] = []
        self._lookups: list[tuple[Callable[[str], Any], str]] = []
        self._values: list[Any] = []
        self._functions: list[FunctionType] = []
        self._codes: list[CodeType] = []
        #: dicts whose order no guard compares, each with its keys
        self._ordered: list[tuple[Any, list[Any]]] = []
        self._params: list[Tensor] = []  # whose hooks were looked for, when so many hooks had been registered
        self._n_registered: int | None = None
        #: the layers of each module that has some, now and when hooks were looked for
        self._layers: list[tuple[Collection[Any], list[Any]]] = []
        self.hooked = ""  # a module with hooks, in words
        self._hooks = [getattr(of_all, f"_global_{each}_hooks", {}) for each in KINDS]

    def is_same(self) -> bool:
        """Are the methods of all classes unchanged?"""
        return (
            [*map(len, self._classes.values())] == self._sizes
            and all(map(is_, self._now(), self._values))
            and [*map(CODE, self._functions)] == self._codes
            and (not self._ordered or all([*each] == keys for each, keys in self._ordered))
        )

    def rest(self) -> None:
        """Hold nothing of the learner."""
        self._ordered, self._params, self._layers = [], [], []

    def _now(self) -> list[Any]:
        return [get(name) for get, name in self._lookups]

    def check_hooks(self, params: list[Tensor], model: nn.Module) -> None:
        """Look for hooks again once any hook was registered anywhere, or a layer was replaced.

        Raises:
            Unfit: there is a hook that a program would not call.
        """
        if any(self._hooks):
            raise Unfit("hooks are registered on all modules")
        n_registered = getattr(RemovableHandle, "next_id", None)
        is_known = params is self._params and n_registered is not None and n_registered == self._n_registered
        if is_known and all(starmap(are_same, self._layers)):
            return
        if any(map(any, map(HOOKS, params))):
            names = [name for name, each in model.named_parameters() if any(HOOKS(each))]
            raise Unfit(f"a hook is registered on the parameter {(names or ['of the loss'])[0]!r}")
        self._params, self._n_registered = params, n_registered
        found = [each._modules.values() for each in model.modules() if each._modules]
        self._layers = [(each, [*each]) for each in found]
        self.hooked = is_hooked(model)

    def record(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call a function, and from now on watch the classes whose methods it calls."""
        found: set[type] = set()
        asked: list[str] = []

        def note(frame: FrameType, event: str, arg: Any) -> None:
            code = frame.f_code
            if event != "call":
                return
            if code.co_name in COMPILING and frame.f_back is not None and is_of_user(frame.f_back):
                asked.append(asks(frame.f_back.f_code, code.co_name))
            elif code.co_argcount and package_of(frame) not in FOREIGN:
                first = frame.f_locals.get(code.co_varnames[0])
                found.update((first if isinstance(first, type) else type(first)).__mro__)

        if sys.getprofile() is not None:
            raise Unfit("a Python profiler is running, so the calls cannot be observed")
        sys.setprofile(note)
        try:
            result = call(*args)
        finally:
            sys.setprofile(None)
        if asked:
            raise Unfit(asked[0])
        for each in held_by(args[:2]):
            found.update(type(each).__mro__)
            if isinstance(each, OrderedDict) and each:
                self._ordered.append((each, list(each)))
        self.watch(found)
        return result

    def watch(self, classes: Iterable[type]) -> None:
        """Watch the methods of these classes; of torch's classes only `forward`."""
        for each in classes:
            # of some classes written in C, `__module__` is a descriptor
            own, package = vars(each), str(each.__module__).partition(".")[0]
            if each in self._classes or (package in FOREIGN and not issubclass(each, nn.Module)):
                continue
            if package == "torch":
                names = [name for name in ("forward", "__call__", "__getattr__") if name in own]
            else:  # no guard compares a metaclass
                kinds = object if issubclass(each, type) else METHODS
                names = [name for name, value in own.items() if isinstance(value, kinds)]
            self._classes[each] = own
            self._sizes.append(len(own))
            self._lookups += [(own.get, name) for name in names]
        self._values = self._now()
        self._functions = [each for each in self._values if type(each) is FunctionType]
        self._codes = [*map(CODE, self._functions)]


def is_hooked(model: nn.Module) -> str:
    """A module with hooks, in words; "" if there is none."""
    for name, each in model.named_modules():
        if any(getattr(each, f"_{hooks}_hooks", None) for hooks in KINDS):
            return f"the module {name!r}" if name else "the model"
    return ""


def check_traced() -> None:
    """Refuse code of the user that asks whether it is compiled; called while that code is traced.

    So the ordinary step, which `record` runs in addition to the program, does not count something twice.
    """
    context: Any = getattr(getattr(torch, "_guards", None), "TracingContext", None)
    for code in getattr(context, "get_traced_code", list)() or ():
        names = [name for name in COMPILING if name in code.co_names]
        if names and not any(part in code.co_filename for part in ("site-packages", "/torch/")):
            raise Unfit(asks(code, names[0]))


def asks(code: CodeType, name: str) -> str:
    """The reason to refuse code that asks whether it is compiled."""
    return f"{code.co_name} calls torch.compiler.{name}(), which returns something else in a program"


def held_by(roots: Iterable[Any]) -> list[Any]:
    """All objects that models and losses hold, at any depth, except globals that functions name."""
    left, found = deque(roots), {}
    while left and len(found) < N_HELD:
        each = left.popleft()
        if id(each) in found or isinstance(each, NOT_HELD):
            continue
        found[id(each)] = each
        if isinstance(each, FunctionType):
            left += [each.__defaults__, each.__kwdefaults__, *(each.__closure__ or ())]
        elif not isinstance(each, type):
            left += gc.get_referents(each)
    return list(found.values())


def are_same(some: Collection[Any], others: Collection[Any]) -> bool:
    """Do two collections hold the very same objects?"""
    return len(some) == len(others) and all(map(is_, some, others))


def package_of(frame: FrameType) -> str:
    """The package of the code that a frame runs."""
    return frame.f_globals.get("__name__", "").partition(".")[0]


def is_of_user(frame: FrameType) -> bool:
    """Does a frame run the user's own code, not that of an installed package?"""
    return package_of(frame) not in FOREIGN and "site-packages" not in frame.f_code.co_filename
