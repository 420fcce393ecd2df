"""What a step reads and torch's guards do not see: methods of classes, hooks of parameters, modes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter, call, not_
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all
from torch.utils._device import DeviceContext

from callbacks.fast.fallback_reasons import Unfit, is_foreign

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


def check_hooks(params: list[Tensor], model: nn.Module) -> None:
    """Refuse hooks that a program would not call, and no guard compares."""
    if any(OF_ALL):
        raise Unfit("hooks are registered on all modules")
    if any(map(call, MODES.values())):
        raise Unfit(next(name for name, is_on in MODES.items() if is_on()))
    if any(map(any, map(HOOKS, params))):
        names = [name for name, each in model.named_parameters() if any(HOOKS(each))]
        raise Unfit(f"a hook is registered on the parameter {(names or ['of the loss'])[0]!r}")


def methods_of(classes: Iterable[type]) -> list[tuple[Callable[[Any], Any], Any]]:
    """Calls that return what each class defines now; of torch's classes only what calls `forward`."""
    found: list[tuple[Callable[[Any], Any], Any]] = []
    for each in classes:
        # of some classes written in C, `__module__` is a descriptor
        own, package = vars(each), str(each.__module__).partition(".")[0]
        if package in FOREIGN and not issubclass(each, nn.Module):
            continue
        if package == "torch":
            names = [name for name in ("forward", "__call__", "_call_impl", "__getattr__") if name in own]
        else:  # no guard compares a metaclass
            kinds = object if issubclass(each, type) else METHODS
            names = [name for name, value in own.items() if isinstance(value, kinds)]
            found.append((BASES, each))
        found += [(len, own), *((own.get, name) for name in names)]
        found += [(CODE, own[name]) for name in names if type(own[name]) is FunctionType]
    return found


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
    """Examine code of the user while it is traced; return whether attributes matter that objects lack.

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
    return not found.isdisjoint(("vars", "__dict__", "AttributeError", "Exception"))
