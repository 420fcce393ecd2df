"""Compiles forward, loss and gradients as one program; its guards and code are called directly.

A guard is torch's check, in C++, of one thing that the program has read: an attribute, an entry of a list, a
global variable, the shape of a tensor. Checking all guards of a small model takes some microseconds; the
call path of `torch.compile` takes several times longer.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from inspect import unwrap
from itertools import starmap
from operator import call
from types import FunctionType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from callbacks.fast.fallback_reasons import Unfit, UnfitNow, explain
from callbacks.fast.unguarded import check_modes, check_traced, methods_of
from callbacks.place.device import are_same, map_tensors
from callbacks.step.precision import as_float

Backend = str | Callable[..., Any]
N_KEYS = 1000  #: keys of a dict whose order is compared
N_PROVEN = 2  #: steps of each program that are compared with the ordinary step

#: How Dynamo traces: it traces `torch.autograd.grad`, guards hooks of modules, and refuses code that changes
#: Python objects, since that cannot be proven by running it twice. None of these matters after the tracing.
TRACING: dict[str, bool | str] = {
    "trace_autograd_ops": True,
    "allow_rnn": True,
    "skip_nnmodule_hook_guards": False,
    "side_effect_replay_policy": "error",
    "record_runtime_overhead": False,  # a label for profilers at each call
}
#: A dict that belongs to a module, whose guards see all that matters.
TABLE = re.compile(r".*\._(modules|parameters|buffers|\w*hooks\w*)")
#: A number for which two values are equal that are not the same.
ZERO = re.compile(r"\b0\.0\b")


def step(
    model: Any, loss_func: Any, params: list[Tensor], inputs: Any, targets: Any, mixed: str
) -> tuple[Any, Tensor, list[Tensor | None]]:
    """Predictions, loss and gradients of a batch, computed as the loop computes them.

    Only `params` with `requires_grad` get a gradient: None if the loss does not depend on one. `mixed` is the
    type of device whose autocast `MixedPrecision` has switched on, or "".
    """
    with torch.enable_grad():
        if isinstance(inputs, Mapping):
            preds = model(**inputs)
        else:
            preds = model(*inputs) if type(inputs) is tuple else model(inputs)
        if mixed:
            preds = map_tensors(preds, as_float)
        if loss_func is None:
            loss = preds.loss
        else:
            loss = loss_func(preds, *targets) if type(targets) is tuple else loss_func(preds, targets)
        trained = [each for each in params if each.requires_grad]
        # the backward pass is outside of autocast
        with torch.autocast(mixed, enabled=False) if mixed else nullcontext():
            grads = torch.autograd.grad(loss, trained, allow_unused=True)
    preds = preds.detach() if isinstance(preds, Tensor) else tree_map_only(Tensor, Tensor.detach, preds)
    # in the memory layout of the parameter, as `backward` leaves them
    return preds, loss.detach(), [
        each if each is None or each.stride() == param.stride() else torch.empty_like(param).copy_(each)
        for each, param in zip(grads, trained, strict=True)
    ]  # fmt: skip


def traced(model: Any, loss_func: Any, params: Any, inputs: Any, targets: Any, mixed: str) -> Any:
    """`step` as it is compiled."""
    if not torch.compiler.is_compiling():  # as after `torch.compiler.set_stance("force_eager")`
        raise UnfitNow("torch.compile is switched off")
    return step(model, loss_func, params, inputs, targets, mixed)


def tensors_of(*nested: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    return [each for each in tree_leaves(nested) if isinstance(each, Tensor)]


class Program:
    """The step for one kind of batch and one value of each setting that it reads.

    Its function has its own code object, with which `torch.compile` keeps the program and frees it.

    Attributes:
        trained: the parameters that it computes gradients of.
        n_unproven: steps that are still to be compared with the ordinary step.
        copies: True if two of its results share memory, so gradients must be copied.
        seconds: how long it took to compile.
        missing: tensors with `requires_grad` that were not passed as parameters.
        kept: what it may change, each tensor with an earlier copy.
        call: its code.
    """

    def __init__(self, backend: Backend, *, graphs: bool = False):
        self._backend, self._graphs = backend, graphs
        self._function = FunctionType(traced.__code__.replace(), dict(globals()))
        self.trained: list[Tensor] | None = None
        self.n_unproven, self.copies, self.seconds = N_PROVEN, False, 0.0
        self.missing: list[Tensor] = []
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.call: Callable[..., Any] = len
        self._bare: Callable[..., Any] | None = None  # the code as torch made it, without torch's wrappers
        self._entry: Any = None
        self._guards: Any = None
        self._check: Callable[[dict[str, Any]], bool] = bool
        self._reads_vars = False
        self._tensors: list[str] = []  # expressions for the tensors that it reads
        self._find: Callable[[dict[str, Any]], Any] = len
        #: what guards compare only in part or not at all: expressions, and methods of classes
        self._unseen: list[str] = []
        self._see: Callable[[dict[str, Any]], Any] = len
        self._methods: list[tuple[Callable[[Any], Any], Any]] = []
        self._seen: Any = None

    def fits(self, here: dict[str, Any]) -> bool:
        """Is everything that it has read unchanged?"""
        return (
            self._check(here)
            and self._entry.guard_manager is self._guards
            and [*self._see(here), *starmap(call, self._methods)] == self._seen
        )

    def run_first(self, here: dict[str, Any]) -> Any:
        """Compile the program, and run it; None if tensors are `missing` among the parameters."""
        check_modes()
        begun, backend = time.perf_counter(), partial(self._compile, {*map(id, here["params"])})
        options: Any = {"guard_filter_fn": self._choose_guards}
        call: Any = torch.compile(
            self._function, fullgraph=True, dynamic=False, backend=backend, options=options
        )
        try:
            with tracing():
                outs = call(*here.values())
            self._find_guards(here)
        except Exception as error:
            if self.missing:
                return None
            raise explain(error) from error
        self.seconds = time.perf_counter() - begun
        return outs

    def _compile(self, passed: set[int], graph: Any, inputs: list[Any]) -> Any:
        """Compile a graph; torch calls this before anything is run."""
        tensors = tensors_of(inputs)
        self.missing = [each for each in tensors if each.requires_grad and id(each) not in passed]
        if self.missing:
            raise Unfit("there are more tensors to compute gradients of")
        self._reads_vars = check_traced()
        self.keep(tensors)
        made = compiled(self._backend, graph, inputs, graphs=self._graphs)

        def run_once(*args: Any) -> Any:
            self._bare, outs = unwrapped(made, args)
            return outs

        return made if self._graphs else run_once

    def _find_guards(self, here: dict[str, Any]) -> None:
        """Find the guards and the code that `torch.compile` has made, which are not public."""
        eval_frame: Any = import_module("torch._dynamo.eval_frame")
        (self._entry,) = eval_frame._debug_get_cache_entry_list(self._function.__code__)
        self._guards, names = self._entry.guard_manager, self._function.__globals__
        self._check = self._guards.root.check
        self.call = FunctionType(self._entry.code, names)
        for name in self._entry.code.co_names:
            if name.startswith("__compiled_fn") and self._bare is not None:
                names[name] = self._bare  # without the wrapper that switches Dynamo off
        self._find, self._see = self._reader(self._tensors), self._reader(self._unseen)
        self._seen = [*self._see(here), *starmap(call, self._methods)]

    def _reader(self, expressions: list[str]) -> Callable[[dict[str, Any]], Any]:
        """A function that computes expressions in which torch's guards name what they compare."""
        known = {**self._guards.closure_vars, "G": self._function.__globals__}
        found: Any = eval(f"lambda L: [{', '.join(expressions)}]", known)
        return found

    def _choose_guards(self, entries: Sequence[Any]) -> list[bool]:
        """Keep all guards, and note what they read."""
        self._unseen = [*filter(None, (unseen(each, reads_vars=self._reads_vars) for each in entries))]
        self._tensors = [each.orig_guard.name for each in entries if isinstance(each.value, Tensor)]
        values = [each.value for each in entries if each.has_value]
        kinds = [*map(type, values), *(each for each in values if isinstance(each, type))]
        self._methods = methods_of({parent: None for kind in kinds for parent in kind.__mro__})
        return [True] * len(entries)

    def read(self, here: dict[str, Any]) -> list[Tensor]:
        """The tensors that it reads at present."""
        return [each for each in self._find(here) if isinstance(each, Tensor)]

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Copy those of the tensors that a step may change."""
        found = {id(each): each for each in tensors if not each.requires_grad}
        self.kept = [(each, each.detach().clone()) for each in found.values()]

    def failed_guard(self, here: dict[str, Any]) -> str:
        """The first guard that fails, as text."""
        found = getattr(self._guards.root.check_verbose(here), "verbose_code_parts", None)
        return str(found[0]).partition("#")[0].strip() if found else "keys or methods"


@contextmanager
def tracing() -> Iterator[None]:
    """Set the settings of `TRACING` within a block."""
    config: Any = import_module("torch._dynamo").config
    # here Dynamo warns and continues, as for cached functions
    warned = mock.patch.object(import_module("torch._dynamo.utils"), "warn_once", refuse, create=True)
    with config.patch(TRACING), warned, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # compilers warn of their own internals
        yield


def unseen(entry: Any, *, reads_vars: bool) -> str:
    """An expression for what a guard does not compare, or "".

    These are the sign of a zero; the order of keys, and missing keys; and the names of an object's attributes
    if code reads its `vars`.
    """
    name, kind, value = entry.orig_guard.name, entry.guard_type, entry.value
    if kind in ("CONSTANT_MATCH", "EQUALS_MATCH"):
        return f"repr({name})" if ZERO.search(repr(value)) else ""
    if kind != "TYPE_MATCH" or TABLE.fullmatch(name):
        return ""
    if isinstance(value, dict):
        return f"[*{name}]" if len(value) <= N_KEYS else f"len({name})"
    is_users = hasattr(value, "__dict__") and not type(value).__module__.startswith("torch.")
    return f"[*vars({name})]" if reads_vars and is_users else ""


def refuse(message: str, *_: Any, **__: Any) -> None:
    """Turn a warning of Dynamo into an error."""
    raise RuntimeError(message)


def compiled(backend: Backend, graph: Any, inputs: list[Any], *, graphs: bool) -> Any:
    """The graph as code."""
    registry: Any = import_module("torch._dynamo")
    # random numbers are those of the ordinary step; guards compare sizes already
    patches = {"fallback_random": True, "size_asserts": False, "triton.cudagraphs": graphs}
    options = {"config_patches": patches} if backend == "inductor" else {}
    return registry.lookup_backend(backend)(graph, inputs, **options)


def unwrapped(made: Any, args: tuple[Any, ...]) -> tuple[Callable[..., Any], Any]:
    """Call a graph of Inductor, and find its code without torch's wrappers, if they change nothing.

    They do not if the code gets the same tensors and returns the same, none of them was written to, and no
    autocast has to be switched off. The steps that are compared with the ordinary one call what is returned.
    """
    inner: Any = unwrap(made)
    code, seen = getattr(inner, "current_callable", None), []
    if code is None:  # another backend, or another torch
        return made, made(*args)

    def note(given: list[Any]) -> Any:
        passed = [*given]  # the code empties the list
        outs = code(given)
        seen[:] = passed, outs
        return outs

    tensors = [each for each in tensors_of(args) if not each.is_inference()]
    versions, inner.current_callable = [each._version for each in tensors], note
    try:
        outs = made(*args)
    finally:
        inner.current_callable = code
    is_same = bool(seen) and all(map(are_same, seen, (args, outs)))
    is_written = versions != [each._version for each in tensors]
    mixes = any(torch.is_autocast_enabled(each.device.type) for each in tensors)
    return ((lambda *args: code([*args])) if is_same and not is_written and not mixes else made), outs
