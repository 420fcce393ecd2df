"""Watch what a step can read besides its batch: has it changed? Restore it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from operator import is_
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.fast.lean_proof import Unfit
from callbacks.whole.executed import Executed, globals_of, is_foreign, names_of
from callbacks.whole.values import (
    CONTAINERS,
    KNOWN,
    MISSING,
    contents_of,
    context_of,
    entry_of,
    function_of,
    is_atom,
    is_transparent,
    memory_of,
    slot_of,
    torch_settings,
    unwatchable,
)

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple(f"_global{name}" for name in HOOKS)
HELD = ("_parameters", "_buffers", "_modules")  #: the dicts of a module in which its parts are

#: What each module has, whatever it does: the dicts of its parts and of hooks, which are looked at apart.
EVERY = frozenset(vars(nn.Module())) - {"training"}

#: Lists of the weights that `nn.LSTM` and its kin keep for themselves, renewed where the weights are others.
CACHES = ("_flat_weights", "_flat_weight_refs")

#: Comparing an entry takes some 40 nanoseconds at each step. With more than this the ordinary step is taken.
N_ENTRIES = 4096


class Watch:
    """What a step may read: attributes, entries of containers, global variables; has any changed?

    Looked at is what modules and the loss function hold, at any depth, and the global variables, closures and
    defaults of the functions that steps have called. Attributes whose name stands in no code that was called
    are not looked into.

    Args:
        modules: those that a step runs.
        loss_func: the loss function.
        executed: the code that steps have run so far.
        passes_over: whether what cannot be compared is left out.

    Raises:
        Unfit: something that the step can read cannot be compared: names it.
    """

    def __init__(
        self, modules: Iterable[nn.Module], loss_func: Any, executed: Executed, *, passes_over: bool = False
    ):
        self._passes_over = passes_over
        # holders of values; for each what gives a value by its key, the keys, and the values
        self._held: list[tuple[Any, Callable[[Any], Any], list[Any], list[Any]]] = []
        self._sized: list[Any] = []  # what modules hold, and tables
        self._sets: list[tuple[Any, frozenset[Any]]] = []
        self._dicts: list[tuple[Any, Any]] = []  # objects with the dicts of their attributes
        self._caches: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._instances: list[Any] = []  # whose class may be replaced
        self._tensors: list[Tensor] = []  # but for those of the model, which each step takes as they are
        self._titles: dict[int, str] = {}  # of modules, by their dicts
        self._seen: dict[int, Any] = {}
        self._executed = executed
        self.modules: list[nn.Module] = []  #: all that a step can reach
        parts = list(modules)
        self._of_model = {id(each) for part in parts for each in tensors_of(part)}
        self._left = [*((each, "the model") for each in parts), (loss_func, "the loss function")]
        for function in executed.functions:
            self._add_function(function)
        for module in executed.imported:
            self._left.append((module, "an import"))
        while self._left:
            self._look(*self._left.pop())
        self._sizes = list(map(len, self._sized))
        self._kinds = list(map(type, self._instances))
        self._memory = list(map(memory_of, self._tensors))
        self._torch = torch_settings()

    def is_same(self) -> bool:
        """Has everything the value that it had?"""
        try:
            return (
                list(map(len, self._sized)) == self._sizes
                and all(all(map(is_, map(get, keys), values)) for _, get, keys, values in self._held)
                and all(own == kept for own, kept in self._sets)
                and all(vars(each) is own for each, own in self._dicts)
                and list(map(type, self._instances)) == self._kinds
                and list(map(memory_of, self._tensors)) == self._memory
                and torch_settings() == self._torch
            )
        except (IndexError, AttributeError, ValueError):  # it is gone
            return False

    def put_back(self) -> str:
        """Restore what has changed, where possible; return the description of one change, or an empty one."""
        found = ""
        for holder, size in zip(self._sized, self._sizes, strict=True):
            for key in added(holder, size):
                found = self.told(key, holder)
                (dict if isinstance(holder, dict) else type(holder)).__delitem__(holder, key)
        for holder, get, keys, values in self._held:
            for key, value in zip(keys, values, strict=True):
                if get(key) is not value:
                    found = self.told(key, holder)
                    put(holder, key, value)
        for own, kept in self._sets:
            if own != kept:
                found = "the members of a set"
                own.intersection_update(kept)
                own.update(kept)
        for own, kept in self._caches:
            own.update(kept)
        return found

    def told(self, key: Any, holder: Any) -> str:
        """In words what stands there."""
        if isinstance(holder, CellType):
            return "a variable of a closure"
        if holder is torch or isinstance(holder, Tensor):
            return f"{key} of {'torch' if holder is torch else 'a tensor beside the model'}"
        title = (
            f"the class {holder.__name__}" if isinstance(holder, type) else "a list, a dict or the globals"
        )
        return f"{key!r} of {self._titles.get(id(holder), title)}"

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Each as key, value and holder."""
        for holder, _, keys, values in self._held:
            yield from ((key, value, holder) for key, value in zip(keys, values, strict=True))
        yield from (("its members", kept, own) for own, kept in self._sets)
        yield from (
            ("its class", kind, each) for each, kind in zip(self._instances, self._kinds, strict=True)
        )
        yield from (
            ("the memory", kept, each) for each, kept in zip(self._tensors, self._memory, strict=True)
        )
        yield "a global setting", self._torch, torch

    def _is_read(self, key: Any) -> bool:
        """Does code that was called use this name?"""
        return self._executed.reads_all or key in self._executed.names

    def _is_new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen[id(value)] = value  # kept, so that no other object takes its id
        return True

    def _add(self, holder: Any, get: Callable[[Any], Any], keys: Iterable[Any], where: str = "") -> None:
        """Watch entries, and look into them; of attributes, those of `where`, into those that can be read."""
        keys = list(keys)
        values = [get(key) for key in keys]
        if keys:
            self._held.append((holder, get, keys, values))
        for key, value in zip(keys, values, strict=True):
            if not where or self._is_read(key):
                self._left.append((value, f"{key!r} of {where}" if where else f"{key!r}"))

    def _look(self, value: Any, where: str) -> None:
        """Watch the contents of a value that another one holds."""
        if is_atom(value) or not self._is_new(value):
            return
        if isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, Tensor):
            if id(value) not in self._of_model:
                self._tensors.append(value)
            self._add(vars(value), vars(value).get, [*vars(value)], where)
        elif isinstance(value, nn.Module):
            self._add_module(value)
        elif isinstance(value, ModuleType):
            self._add_globals(value)
        elif isinstance(value, FunctionType):
            self._add_attributes(value, where)
        elif isinstance(value, (MethodType, BuiltinFunctionType)):
            self._left += [(value.__self__, where), (getattr(value, "__func__", None), where)]
        elif isinstance(value, ContextVar):
            self._add(value, partial(context_of, value), ["value"])
        elif not type(value).__module__.startswith("logging"):
            self._add_object(value, where)

    def _add_globals(self, module: ModuleType) -> None:
        """What code names of an imported module; what torch's functions hold is not looked into."""
        own = vars(module)
        if not is_foreign(module.__name__):
            self._add(own, own.get, filter(self._is_read, own))
        elif keys := [key for key in own if key in self._executed.own_names]:
            self._held.append((own, own.get, keys, [own[key] for key in keys]))

    def _refuse(self, reason: str) -> None:
        if not self._passes_over:
            raise Unfit(reason)

    def _add_module(self, module: nn.Module) -> None:
        own, kind = vars(module), type(module).__name__
        self.modules.append(module)
        self._instances.append(module)
        if isinstance(module, torch.jit.ScriptModule):  # refused by the binding
            return
        self._sized.append(own)
        self._titles[id(own)] = kind
        self._add(own, own.get, [key for key in own if key not in EVERY and key not in CACHES], kind)
        for name in HELD:
            held = own[name]
            self._sized.append(held)
            self._titles[id(held)] = kind
            self._add(held, held.get, held)
        self._caches.append((own, {key: own[key] for key in CACHES if key in own}))
        self._add_slots(module, kind)
        self._add_class(type(module))

    def _add_object(self, value: Any, where: str) -> None:
        kind = type(value)
        if not is_transparent(kind):
            self._refuse(unwatchable(value, where))
            return
        self._instances.append(value)
        if isinstance(value, CONTAINERS):
            self._add_entries(value, where)
        if isinstance(value, partial):
            self._left += [(value.func, where), (value.args, where), (value.keywords, where)]
        self._add_attributes(value, where)
        self._add_slots(value, kind.__name__)
        self._add_class(kind)

    def _add_entries(self, holder: Any, where: str) -> None:
        if len(holder) > N_ENTRIES:
            self._refuse(
                f"{where} has {len(holder)} entries, and more than {N_ENTRIES} take too long to compare "
                "before each step: make it a tensor in a buffer"
            )
            return
        if isinstance(holder, (dict, MappingProxyType)):
            self._sized.append(holder)
            get = partial(dict.get, holder) if isinstance(holder, dict) else holder.get
            self._add(holder, get, list(holder))
        elif isinstance(holder, (list, deque)):
            self._sized.append(holder)
            self._add(holder, holder.__getitem__, range(len(holder)))
        else:
            self._left += [(each, where) for each in holder]
            if isinstance(holder, set):
                self._sets.append((holder, frozenset(holder)))

    def _add_attributes(self, value: Any, where: str) -> None:
        own = getattr(value, "__dict__", None)
        if type(own) is dict:
            if not isinstance(value, FunctionType):
                self._dicts.append((value, own))
                where = type(value).__name__
            self._sized.append(own)
            self._add(own, own.get, [*own], where)

    def _add_slots(self, value: Any, where: str) -> None:
        slots = {
            key: each
            for kind in type(value).__mro__
            for key, each in vars(kind).items()
            if isinstance(each, MemberDescriptorType) and kind not in KNOWN
        }
        if slots:
            self._add(value, partial(slot_of, value, slots), slots, where)

    def _add_class(self, kind: type) -> None:
        """The class attributes of user classes that code names."""
        kinds = [each for each in kind.__mro__ if not is_foreign(each.__module__)]
        keys = dict.fromkeys(
            key for each in kinds for key, value in vars(each).items() if self._is_read_of_class(key, value)
        )
        for each in kinds:
            self._add(each, partial(entry_of, each), keys)
            self._left.append((type(each), each.__name__))

    def _is_read_of_class(self, key: str, value: Any) -> bool:
        if getattr(function_of(value), "__code__", None) in self._executed.codes:
            return True
        return self._is_read(key) and not key.startswith(("__", "_abc_"))

    def _add_function(self, function: FunctionType) -> None:
        """What a function reads beside its arguments."""
        self._add(function, partial(getattr, function), ["__code__", "__defaults__", "__kwdefaults__"])
        for cell in function.__closure__ or ():
            self._add(cell, partial(contents_of, cell), ["cell_contents"])
        known = function.__globals__
        names = globals_of(function.__code__)
        if "globals" in names:
            names += sorted(names_of(function.__code__).difference(names))
        self._add(known, known.get, [name for name in names if name in known])
        self._left.append((function, function.__name__))


def tensors_of(module: nn.Module) -> list[Any]:
    """Its own parameters and buffers."""
    own = vars(module)
    return [*own["_parameters"].values(), *own["_buffers"].values()]


def put(holder: Any, key: Any, value: Any) -> None:
    """Give an entry, a setting of a class or a variable of a closure this value."""
    if isinstance(holder, dict):
        dict.__setitem__(holder, key, value)  # past what a subclass does there
    elif isinstance(holder, (list, deque)):
        holder[key] = value
    elif isinstance(holder, ContextVar):
        holder.set(value)
    elif isinstance(holder, MappingProxyType):
        return  # what it shows stands elsewhere
    elif value is MISSING:
        delattr(holder, key)
    elif isinstance(holder, (type, CellType, FunctionType)):
        setattr(holder, key, value)
    else:
        object.__setattr__(holder, key, value)  # also where a dataclass is frozen


def added(holder: Any, size: int) -> list[Any]:
    """Keys of a dict that came after so many; such places of a list, the last one first."""
    if isinstance(holder, dict):
        return list(holder)[size:]  # a dict keeps the order in which keys came
    return list(range(len(holder) - 1, size - 1, -1)) if isinstance(holder, (list, deque)) else []


def hooks_of(modules: Iterable[nn.Module], names: dict[nn.Module, str]) -> list[tuple[str, Any]]:
    """The dicts in which hooks are registered, each with what it belongs to.

    Args:
        modules: those that a step runs.
        names: of those of the model.
    """
    found: list[tuple[str, Any]] = []
    for module in modules:
        name = names.get(module)
        own = "the model" if name == "" else f"the module {name!r}"
        where = "a module beside the model" if name is None else own
        found += [(where, vars(module)[kind]) for kind in HOOKS]
    everywhere = vars(nn.modules.module)
    return found + [("all modules", hooks) for name, hooks in everywhere.items() if name in GLOBAL_HOOKS]
