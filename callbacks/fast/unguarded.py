"""Watches what a step reads and torch's guards do not see: methods of classes, hooks of parameters."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import starmap
from operator import attrgetter, call, is_, not_
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all
from torch.utils._device import DeviceContext
from torch.utils.hooks import RemovableHandle

from callbacks.fast.fallback_reasons import Unfit, is_foreign
from callbacks.place.device import are_same

private: Any = torch._C  #: what another torch may not have
CODE, BASES = attrgetter("__code__"), attrgetter("__mro__")
#: The hooks of a parameter: None, or a dict that stays, empty, where a hook was removed.
HOOKS = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
#: The tables of hooks of a module, and those of all modules.
TABLES = ("_backward_pre_hooks", "_backward_hooks", "_forward_pre_hooks", "_forward_hooks")
OF_ALL = [getattr(of_all, f"_global{each}", {}) for each in TABLES]
#: Functions that a program would call only once, each with the reason.
ONCE = {
    **dict.fromkeys(
        ("is_compiling", "is_dynamo_compiling", "is_exporting"), "it returns something else in a program"
    ),
    "getenv": "a program calls it only once: read os.environ",
}
#: What torch does around each operation if it is on, and a program does not.
MODES: dict[str, Callable[[], Any]] = {
    "hooks on saved tensors are active": partial(
        getattr(getattr(private, "_autograd", None), "_top_saved_tensors_default_hooks", not_), True
    ),
    "a TorchDispatchMode is active": getattr(private, "_len_torch_dispatch_stack", bool),
    "anomalies are detected": torch.is_anomaly_enabled,
}
#: Packages whose classes nobody changes during a fit, except `forward` of torch's modules.
FOREIGN = {"torch", "callbacks", *sys.stdlib_module_names}
METHODS = (FunctionType, property, classmethod, staticmethod)


class Unguarded:
    """Watches the methods of the classes that a step uses."""

    def __init__(self) -> None:
        #: what each class defines, how many names that are, and what is looked up where
        self._classes: dict[type, Mapping[str, Any]] = {}
        self._sizes: list[int] = []
        self._lookups: list[tuple[Callable[[Any], Any], Any]] = []
        self._values: list[Any] = []
        self.rest()

    def is_same(self) -> bool:
        """Are the methods of all classes unchanged?"""
        return [*map(len, self._classes.values())] == self._sizes and all(map(is_, self._now(), self._values))

    def rest(self) -> None:
        """Hold nothing of the learner."""
        self._params: list[Tensor] = []  # whose hooks were looked for, with those of the model
        self._n_registered: float = math.nan  # hooks of all kinds, ever, when they were looked for
        self._layers: list[tuple[Collection[Any], list[Any]]] = []  # of each module that has some
        self.tables: list[Any] = []  #: of the hooks of each layer of the model

    def check_hooks(self, params: list[Tensor], model: nn.Module) -> None:
        """Refuse hooks that a program would not call, and no guard compares; find the other tables."""
        if any(OF_ALL):
            raise Unfit("hooks are registered on all modules")
        if any(map(call, MODES.values())):
            raise Unfit(next(name for name, is_on in MODES.items() if is_on()))
        n_registered = getattr(RemovableHandle, "next_id", math.nan)
        is_known = params is self._params and n_registered == self._n_registered
        if is_known and all(starmap(are_same, self._layers)):
            return
        if any(map(any, map(HOOKS, params))):
            names = [name for name, each in model.named_parameters() if any(HOOKS(each))]
            raise Unfit(f"a hook is registered on the parameter {(names or ['of the loss'])[0]!r}")
        modules = [*model.modules()]
        self.tables = [vars(each)[name] for each in modules for name in TABLES]
        self._layers = [(each, [*each]) for each in (one._modules.values() for one in modules) if each]
        self._params, self._n_registered = params, n_registered

    def _now(self) -> Iterator[Any]:
        return starmap(call, self._lookups)

    def watch(self, classes: Iterable[type]) -> None:
        """Watch the methods of these classes; of torch's classes only those that call `forward`."""
        for each in classes:
            # of some classes written in C, `__module__` is a descriptor
            own, package = vars(each), str(each.__module__).partition(".")[0]
            if each in self._classes or (package in FOREIGN and not issubclass(each, nn.Module)):
                continue
            if package == "torch":
                names = [name for name in ("forward", "__call__", "_call_impl", "__getattr__") if name in own]
            else:  # no guard compares a metaclass
                kinds = object if issubclass(each, type) else METHODS
                names = [name for name, value in own.items() if isinstance(value, kinds)]
            self._classes[each] = own
            self._sizes.append(len(own))
            self._lookups += [(own.get, name) for name in names]
            self._lookups += [(CODE, own[name]) for name in names if type(own[name]) is FunctionType]
            self._lookups += [(BASES, each)] if package != "torch" else []
        self._values = [*self._now()]


def is_hooked(model: nn.Module) -> str:
    """A module with hooks, in words; "" if there is none."""
    for name, each in model.named_modules():
        if any(getattr(each, hooks, None) for hooks in TABLES):
            return f"the module {name!r}" if name else "the model"
    return ""


def check_modes() -> None:
    """Refuse modes that replace functions of torch; guards see when one is entered, but Dynamo skips some."""
    modes: Any = getattr(torch.overrides, "_get_current_function_mode_stack", list)()
    if any(type(each) is not DeviceContext for each in modes):
        raise Unfit("a TorchFunctionMode is active")


def check_traced() -> bool:
    """Examine code of the user while it is traced; return whether it reads `vars` of objects.

    Code that asks whether it is compiled is refused now, since the ordinary step, which runs in addition to
    the program, could count something twice.
    """
    context: Any = getattr(getattr(torch, "_guards", None), "TracingContext", None)
    found: set[str] = set()
    for code in getattr(context, "get_traced_code", list)() or ():
        if "site-packages" in code.co_filename or is_foreign(code.co_filename):
            continue
        found.update(code.co_names)
        for name in ONCE.keys() & found:
            raise Unfit(f"{code.co_name} calls {name}(), and {ONCE[name]}")
    return not found.isdisjoint(("vars", "__dict__"))
