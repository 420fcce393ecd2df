"""Traces a step as one graph, and lets a compiler make code of it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from callbacks.fast.lean_proof import Unfit
from callbacks.whole.program import Program, Step, reads_by_itself, unmixed

Backend = str | Callable[..., Any]
OWN = ("inductor", "aot_eager", "eager")  #: names of backends that are there in any case


def make_program(step: Step, flat: list[Tensor], backend: Backend, n_proven: int) -> Program:
    """Trace a step, and compile what came of it.

    Raises:
        Unfit: the step is none that can be one graph; says why.
        Exception: whatever a compiler raises.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # imports sympy, which takes half a second

    begun = time.perf_counter()
    sources = step.sources
    at_loss = len(sources.params) + sources.n_kept if sources.runs else 0
    at_buffers = at_loss + (1 if sources.clip is None else 2)
    with warnings.catch_warnings(), unmixed(sources.device):
        warnings.simplefilter("ignore")  # compilers warn of their own insides
        flat = [each.detach() for each in flat]
        traced: Any = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*flat)
        settle_draws(traced)
        constants = lift_constants(traced, sources.params.values())
        check_constants(constants, sources.params)
        changed = drop_unchanged(traced, list(sources.buffers), at_buffers)
        with torch.no_grad():
            call = compiled(traced, [*flat, *constants], backend)
    seconds = time.perf_counter() - begun
    return Program(call, changed, step.preds, constants, at_loss, at_buffers, n_proven, seconds)


def check_known(backend: str) -> None:
    """Refuse a name of no backend; takes seconds, as torch imports its compiler to know.

    Raises:
        ValueError: tells those that there are.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"WholeStep({backend!r}): there is no such backend. There are: {', '.join(known)}.")


def settle_draws(traced: Any) -> None:
    """Draw random numbers into contiguous memory, and turn them afterwards.

    They are drawn in the order of memory, and compilers may choose another layout than the ordinary step has:
    dropout after an attention would leave out other numbers. Normal ones are left as they are: torch draws
    others of them where memory is contiguous.
    """
    aten, graph = torch.ops.aten, traced.graph
    likes = {aten.rand_like.default: aten.rand.default}
    fills = (aten.bernoulli_.float, aten.uniform_.default, aten.exponential_.default)
    fresh = (aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default)
    for node in list(graph.nodes):
        is_fill = node.target in fills and node.args[0].target in fresh
        if not is_fill and node.target not in likes:
            continue
        value = node.meta["val"]
        if value.is_contiguous():
            continue
        order = sorted(range(value.ndim), key=lambda dim: -value.stride(dim))
        sizes = [value.shape[dim] for dim in order]
        settings = {"dtype": value.dtype, "device": value.device}
        with graph.inserting_before(node):
            if is_fill:
                empty = graph.call_function(aten.empty.memory_format, (sizes,), settings)
                drawn = graph.call_function(node.target, (empty, *node.args[1:]), dict(node.kwargs))
            else:
                drawn = graph.call_function(likes[node.target], (sizes,), settings)
            turned = graph.call_function(
                aten.permute.default, (drawn, [order.index(d) for d in range(value.ndim)])
            )
        old = node.args[0] if is_fill else node
        node.replace_all_uses_with(turned)
        old.replace_all_uses_with(turned, delete_user_cb=lambda user, node=node: user is not node)
        graph.erase_node(node)
    traced.recompile()


def compiled(traced: Any, flat: list[Tensor], backend: Backend) -> Callable[..., Any]:
    """The graph as code of a backend, as `torch.compile` knows it by name, or a function of both."""
    if backend == "eager":
        return traced
    if backend == "inductor":
        inductor: Any = import_module("torch._inductor")  # which takes seconds
        # random numbers are those of the ordinary step; on a GPU the program is one CUDA graph
        options = {"fallback_random": True, "triton.cudagraphs": flat[0].is_cuda}
        return inductor.compile(traced, flat, options=options)
    if isinstance(backend, str):
        from torch._dynamo import lookup_backend

        backend = lookup_backend(backend)
    make: Any = backend
    return make(traced, flat)


def lift_constants(traced: Any, params: Iterable[Tensor]) -> list[Tensor]:
    """Make each tensor that the graph holds an input of its own, so that its value is read at each step.

    Raises:
        Unfit: one is changed by the step, or has a gradient.
    """
    found: list[Tensor] = []
    known = set(map(id, params))  # which are refused by name
    last = [node for node in traced.graph.nodes if node.op == "placeholder"][-1]
    for node in list(traced.graph.nodes):
        value = getattr(traced, node.target, None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor):
            continue
        for user in node.users:
            if getattr(getattr(user.target, "_schema", None), "is_mutable", False) and user.args[0] is node:
                raise Unfit(
                    "the forward pass changes a tensor that is neither parameter nor buffer of the model "
                    "(make it a buffer, with register_buffer), or the loss changes a tensor of its own"
                )
        if value.requires_grad and value.is_leaf and id(value) not in known:
            raise Unfit("the loss has a gradient for a tensor outside the model, which other code may train")
        with traced.graph.inserting_after(last):
            last = traced.graph.placeholder(f"constant_{len(found)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        traced.graph.erase_node(node)
        found.append(value.detach())
    traced.recompile()
    return found


def check_constants(constants: list[Tensor], params: dict[str, Tensor]) -> None:
    """Refuse a program that reads a weight past the model's call, and so has no gradient by it.

    Raises:
        Unfit: names it.
    """
    known = {each.data_ptr(): name for name, each in params.items() if each.numel() and not each.is_meta}
    for each in constants:
        if not each.is_meta and each.data_ptr() in known:
            raise Unfit(reads_by_itself(known[each.data_ptr()]))


def drop_unchanged(traced: Any, names: list[str], at: int) -> list[str]:
    """Let the graph give only those buffers that it changes; gives their names."""
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    outs = list(output.args[0])
    kept = [name for n, name in enumerate(names) if not is_unchanged(outs[at + n])]
    buffers = [each for each in outs[at : at + len(names)] if not is_unchanged(each)]
    output.args = ([*outs[:at], *buffers, *outs[at + len(names) :]],)
    traced.recompile()
    return kept


def is_unchanged(node: Any) -> bool:
    """Is it the copy of a buffer that nothing may have changed?"""
    if node.target is not torch.ops.aten.clone.default:
        return False
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        # batch norm changes its statistics, but its schema does not tell
        if user.op != "output" and (
            schema is None
            or schema.is_mutable
            or "batch_norm" in schema.name
            or any(each.alias_info is not None for each in schema.returns)
        ):
            return False
    return True
