"""What the modules of a step hold: to see whether it has changed, and to put it back."""

from __future__ import annotations

import dis
import inspect
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import is_
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple(f"_global{name}" for name in HOOKS)
HELD = ("_parameters", "_buffers", "_modules")  #: the dicts of a module in which its parts are

#: What each module has, whatever it does: the dicts of its parts and of hooks, which are looked at apart.
EVERY = frozenset(vars(nn.Module())) - {"training"}

#: Lists of the weights that `nn.LSTM` and its kin keep for themselves, renewed where the weights are others.
CACHES = ("_flat_weights", "_flat_weight_refs")

#: Lists, dicts and objects with more entries than this are looked at by their length alone.
N_ENTRIES = 64
#: How deep to look into lists, dicts and objects that are held by others.
DEPTH = 4
#: Whose code and objects hold no setting of the user's.
FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
#: Objects of Python's that are used as tables of settings.
TABLES = (SimpleNamespace, Namespace)


class Watch:
    """What a step may read: attributes, entries of lists and dicts, global variables; has any changed?

    Looked at is what modules hold, what lists, dicts and plain objects hold that they hold, the attributes of
    their classes, and the global variables, closures and defaults that `forward`, the loss function and the
    functions they name read.

    Args:
        modules: those that a step runs.
        loss_func: the loss function.
    """

    def __init__(self, modules: Iterable[nn.Module], loss_func: Any):
        # holders of values; for each what gives a value by its key, the keys, and the values
        self._held: list[tuple[Any, Callable[[Any], Any], list[Any], list[Any]]] = []
        self._sized: list[Any] = []  # what modules hold, and tables
        self._caches: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._titles: dict[int, str] = {}  # of modules, by their dicts
        self._seen: set[int] = set()
        for module in modules:
            self._add_module(module)
        if not isinstance(loss_func, nn.Module):
            self._look(loss_func, DEPTH)
        self._sizes = list(map(len, self._sized))

    def is_same(self) -> bool:
        """Has everything the value that it had?"""
        try:
            return list(map(len, self._sized)) == self._sizes and all(
                all(map(is_, map(get, keys), values)) for _, get, keys, values in self._held
            )
        except (IndexError, AttributeError, ValueError):  # it is gone
            return False

    def put_back(self) -> str:
        """Put back what has changed, where it can be; gives one of it, in words, or nothing."""
        found = ""
        for holder, size in zip(self._sized, self._sizes, strict=True):
            for key in added(holder, size):
                found = self.told(key, holder)
                del holder[key]
        for holder, get, keys, values in self._held:
            for key, value in zip(keys, values, strict=True):
                if get(key) is not value:
                    found = self.told(key, holder)
                    put(holder, key, value)
        for own, kept in self._caches:
            own.update(kept)
        return found

    def told(self, key: Any, holder: Any) -> str:
        """In words what stands there."""
        if isinstance(holder, CellType):
            return "a variable of a closure"
        title = (
            f"the class {holder.__name__}" if isinstance(holder, type) else "a list, a dict or the globals"
        )
        return f"{key!r} of {self._titles.get(id(holder), title)}"

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Each as key, value and holder."""
        for holder, _, keys, values in self._held:
            yield from ((key, value, holder) for key, value in zip(keys, values, strict=True))

    def _add_module(self, module: nn.Module) -> None:
        own = vars(module)
        keys = [key for key in own if key not in EVERY and key not in CACHES]
        self._add_dict(own, keys)
        held = [own[name] for name in HELD]
        for each in held:
            self._add_dict(each, each)
        self._sized += [own, *held]
        self._titles |= dict.fromkeys(map(id, (own, *held)), type(module).__name__)
        self._caches.append((own, {key: own[key] for key in CACHES if key in own}))
        for key in keys:
            self._look(own[key], DEPTH)
        self._add_class(type(module), "forward")

    def _add_dict(self, holder: dict[Any, Any], keys: Iterable[Any]) -> None:
        keys = list(keys)
        self._add(holder, holder.get, keys, [holder[key] for key in keys])

    def _add(self, holder: Any, get: Callable[[Any], Any], keys: list[Any], values: list[Any]) -> None:
        if keys:
            self._held.append((holder, get, keys, values))

    def _add_class(self, kind: type, *methods: str) -> None:
        """Settings that a class of the user's has for all, these methods, and those that they name."""
        names = reached(kind, methods)
        for each in kind.__mro__:
            if is_foreign(each.__module__):
                continue
            own = vars(each)
            codes = {key: code_of(own.get(key)) for key in names}
            kept = [key for key, code in codes.items() if code is not None and id(code) not in self._seen]
            if self._is_new(each):
                kept += [key for key, value in own.items() if is_setting(value) and not key.startswith("__")]
            self._add(each, own.get, kept, [own[key] for key in kept])
            for key in kept:
                self._look(code_of(own[key]) or own[key], DEPTH - 1)

    def _look(self, value: Any, depth: int) -> None:
        """What is within a value that another one holds."""
        if isinstance(value, type):  # a table of settings, or a function of autograd's
            self._add_class(value, "forward", "backward", "__call__")
            return
        if depth < 0 or is_value(value) or not self._is_new(value):
            return
        if isinstance(value, (Tensor, nn.Module, ModuleType)):
            return
        if isinstance(value, (list, tuple, set, frozenset, dict, deque)):
            self._look_into(value, depth)
        elif isinstance(value, FunctionType):
            self._look_at_code(value, depth)
        elif isinstance(value, MethodType):
            self._look(value.__self__, depth)
            self._look(value.__func__, depth)
        elif isinstance(value, partial):
            for part in (value.func, value.args, value.keywords):
                self._look(part, depth)
        elif hasattr(value, "__dict__") and (
            isinstance(value, TABLES) or not is_foreign(type(value).__module__)
        ):
            self._look_into(vars(value), depth)
            self._add_class(type(value), "__call__")

    def _look_into(self, holder: Any, depth: int) -> None:
        """The entries of a list, tuple or dict; of what is large, and of sets, the number."""
        self._sized.append(holder)
        if len(holder) > N_ENTRIES or isinstance(holder, (set, frozenset)):
            return
        if isinstance(holder, dict):
            self._add_dict(holder, list(holder))
        elif isinstance(holder, (list, deque)):
            self._add(holder, holder.__getitem__, list(range(len(holder))), list(holder))
        for each in list(holder.values()) if isinstance(holder, dict) else holder:
            self._look(each, depth - 1)

    def _look_at_code(self, function: FunctionType, depth: int) -> None:
        """The settings that a function reads beside its arguments."""
        if is_foreign(function.__module__ or ""):
            return
        known = function.__globals__
        filled = [cell for cell in function.__closure__ or () if has_contents(cell)]
        for cell in filled:
            self._add(cell, partial(getattr, cell), ["cell_contents"], [cell.cell_contents])
        within = self._add_named(known, globals_of(function.__code__), names_of(function.__code__))
        within += [cell.cell_contents for cell in filled]
        for each in [*within, *(function.__defaults__ or ()), function.__kwdefaults__]:
            self._look(each, depth - 1)

    def _add_named(self, known: dict[str, Any], names: list[str], within: list[str]) -> list[Any]:
        """Of what code names, the settings among global variables, and all that is there; so in modules."""
        there = {name: known[name] for name in names if name in known}
        self._add_dict(known, [name for name, value in there.items() if is_setting(value)])
        found = list(there.values())
        for each in there.values():
            if within and isinstance(each, ModuleType) and not is_foreign(each.__name__):
                found += self._add_named(vars(each), within, [])
        return found

    def _is_new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        return True


def put(holder: Any, key: Any, value: Any) -> None:
    """Give an entry, a setting of a class or a variable of a closure this value."""
    if isinstance(holder, (dict, list, deque)):
        holder[key] = value
    else:
        setattr(holder, key, value)


def is_foreign(module: str) -> bool:
    """Is it code of torch, or of Python?"""
    return (module or "").partition(".")[0] in FOREIGN


def code_of(value: Any) -> FunctionType | None:
    """The function within a method, property or decorated one; None for what is none."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def globals_of(code: CodeType) -> list[str]:
    """Which global variables code reads; an attribute of the same name is none."""
    names = [
        each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    ]
    within = [globals_of(each) for each in code.co_consts if isinstance(each, CodeType)]
    return list(dict.fromkeys([*names, *(name for names in within for name in names)]))


def names_of(code: CodeType) -> list[str]:
    """Which names code has, that of functions and comprehensions in it included."""
    within = [names_of(each) for each in code.co_consts if isinstance(each, CodeType)]
    return list(dict.fromkeys([*code.co_names, *(name for names in within for name in names)]))


def reached(kind: type, methods: Iterable[str]) -> list[str]:
    """These methods of a class, and all that they name."""
    found, left = [], list(methods)
    while left:
        name = left.pop()
        function = None if name in found else code_of(inspect.getattr_static(kind, name, None))
        if function is not None and not is_foreign(function.__module__ or ""):
            found.append(name)
            left += names_of(function.__code__)
    return found


def is_setting(value: Any) -> bool:
    """May a step read it as a number, a tensor or a table of such?"""
    return is_value(value) or isinstance(value, (Tensor, list, dict))


def has_contents(cell: Any) -> bool:
    """Has the variable of a closure a value?"""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def added(holder: Any, size: int) -> list[Any]:
    """Keys of a dict that came after so many; such places of a list, the last one first."""
    if isinstance(holder, dict):
        return list(holder)[size:]  # a dict keeps the order in which keys came
    return list(range(len(holder) - 1, size - 1, -1)) if isinstance(holder, (list, deque)) else []


def hooks_of(model: nn.Module, loss_func: Any) -> list[tuple[str, Any]]:
    """The dicts in which hooks are registered, each with what it belongs to."""
    found = [
        (f"the module {name!r}" if name else "the model", vars(module)[kind])
        for name, module in model.named_modules()
        for kind in HOOKS
    ]
    everywhere = vars(nn.modules.module)
    found += [("all modules", hooks) for name, hooks in everywhere.items() if name in GLOBAL_HOOKS]
    if isinstance(loss_func, nn.Module):
        found += [("the loss function", vars(each)[kind]) for each in loss_func.modules() for kind in HOOKS]
    return found


def modules_of(model: nn.Module, loss_func: Any) -> list[nn.Module]:
    """The modules that a step runs."""
    return [*model.modules(), *(loss_func.modules() if isinstance(loss_func, nn.Module) else ())]


def is_value(value: Any) -> bool:
    """Is it told by its value, not by which object it is?"""
    if isinstance(value, tuple):
        return all(map(is_value, value))
    return isinstance(value, (int, float, str, bool, type(None), torch.dtype, torch.device))
