"""A training step as one function of tensors, traced as one graph and compiled.

The graph is made by running forward, loss, backward, clip and update once on tensors without values. It has
no side effects: what the step changes comes out as new tensors, so that nothing is changed before the step is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks.fast.lean_proof import Unfit
from callbacks.place.device import map_tensors
from callbacks.step.gradient import GradientClip
from callbacks.step.precision import DTYPES, MixedPrecision, as_float
from callbacks.whole.updates import Run, split


@dataclass
class Sources:
    """What a program is made of: things of the learner, as they are now."""

    model: nn.Module
    loss_func: Callable[..., Any] | None
    runs: list[Run]  #: parameters by their update; none where the update is left to the optimizer
    params: dict[str, Tensor]  #: those that are trained, in the order of the optimizer
    frozen: dict[str, Tensor]  #: the other parameters, and those without a gradient
    buffers: dict[str, Tensor]
    precision: MixedPrecision | None
    clip: GradientClip | None
    gives_gradients: bool  #: does a plug-in, or the optimizer, look at them?
    unused: frozenset[str] = frozenset()  #: names of those that have no part in the loss
    kept: list[Tensor] = field(default_factory=list)  #: what the optimizer keeps, before this step
    numbers: list[float] = field(default_factory=list)  #: of the update of this step

    @property
    def n_kept(self) -> int:
        """How many tensors the optimizer keeps."""
        return sum(len(run.params) * len(run.names) for run in self.runs)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward and loss."""
        if self.precision is None:
            return nullcontext()
        # casts of weights are not kept: they would be tensors without values, met again after the tracing
        kind, dtype = self.device.type, DTYPES[self.precision.precision]
        return torch.autocast("cpu" if kind == "meta" else kind, dtype, cache_enabled=False)

    def forward(self, model: Any, loss_func: Any, inputs: Any, targets: Any) -> tuple[Any, Tensor]:
        """Predictions and loss, computed as the loop and `MixedPrecision` compute them."""
        with self.autocast():
            preds = run_model(model, inputs)
            preds = preds if self.precision is None else map_tensors(preds, as_float)
            return preds, compute_loss(loss_func, preds, targets)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.params.values())).device


@dataclass
class Program:
    """A compiled step for tensors of certain shapes.

    It takes parameters, frozen ones, buffers, what the optimizer keeps, the numbers of the update, the leaves
    of the batch and `constants`; it gives, in this order, the new parameters and what the optimizer keeps of
    them where it has the update, the loss, the norm of the gradients where there is a clip, the buffers that
    have changed, the gradients where they are asked for, and the leaves of the predictions.
    """

    call: Callable[..., Any]
    changed: list[str]  #: names of the buffers that the forward pass changes
    preds: Any  #: the predictions, an `Out` in the place of each tensor
    constants: list[Tensor]  #: tensors that the model or loss holds, but not as parameter or buffer
    at_loss: int  #: the place of the loss among what it gives
    at_buffers: int  #: the place of the first buffer
    n_unproven: int
    seconds: float  #: how long it took to make


class Unused(Exception):
    """Parameters that are trained, but have no part in the loss; by name."""

    def __init__(self, names: set[str]):
        super().__init__(", ".join(sorted(names)))
        self.names = names


@dataclass
class Out:
    """The place of a tensor among the leaves of the predictions."""

    index: int


def run_model(model: Callable[..., Any], inputs: Any) -> Any:
    """The model's output, called as the loop calls it."""
    if type(inputs) is tuple:
        return model(*inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def compute_loss(loss_func: Callable[..., Any] | None, preds: Any, targets: Any) -> Any:
    """The loss, computed as the loop computes it."""
    if loss_func is None:
        return preds.loss
    return loss_func(preds, *targets) if type(targets) is tuple else loss_func(preds, targets)


class Numbers(TorchDispatchMode):
    """Notes whether a number is read from a tensor, as by `item()` or `if`."""

    are_read = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked."""
        if func is torch.ops.aten._local_scalar_dense.default:
            self.are_read = True
        return func(*args, **(kwargs or {}))


class Step:
    """The step as a function of a flat list of tensors; calling it fills what only a run can tell."""

    def __init__(self, sources: Sources, batch: pytree.TreeSpec, leaves: list[Any]):
        self.sources, self.batch, self.leaves = sources, batch, leaves
        self.places = places_of(sources)
        self.preds: Any = None

    def __call__(self, *flat: Tensor) -> list[Tensor]:
        sources, rest = self.sources, list(flat)
        params, frozen, buffers, kept, (numbers,) = (
            [rest.pop(0) for _ in range(size)]
            for size in (
                len(sources.params),
                len(sources.frozen),
                len(sources.buffers),
                sources.n_kept,
                1,
            )
        )
        leaves = [rest.pop(0) if isinstance(each, Tensor) else each for each in self.leaves]
        inputs, targets = pytree.tree_unflatten(leaves, self.batch)
        weights = [each.detach().requires_grad_() for each in params]
        copies = [each.clone() for each in buffers]
        preds, loss = self._forward(weights, frozen, copies, inputs, targets)
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        unused = {name for name, each in zip(sources.params, grads, strict=True) if each is None}
        if unused:
            raise Unused(unused)
        with torch.no_grad():
            norm, clipped = clip(sources.clip, list(grads))
            new, news = self._update(params, clipped, kept, numbers)
        given = grads if sources.gives_gradients else ()
        outs = [*new, *news, loss.detach(), *norm, *copies, *given]
        return [*outs, *self._flatten(preds)]

    def _forward(
        self, weights: list[Tensor], frozen: list[Tensor], buffers: list[Tensor], inputs: Any, targets: Any
    ) -> tuple[Any, Tensor]:
        sources = self.sources
        names = [*sources.params, *sources.frozen, *sources.buffers]
        given = dict(zip(names, [*weights, *frozen, *buffers], strict=True))
        state = {f"model.{place}": given[name] for place, name in self.places.items()}
        reader = Reader(sources.model, list(sources.buffers))

        def model(*args: Any, **kwargs: Any) -> Any:
            # each place is told, as torch ties places of a module that stands twice, and leaves them so
            output = functional_call(reader, state, args, kwargs, tie_weights=False)
            buffers[:] = reader.taken_from(buffers)
            return output

        with torch.enable_grad(), Numbers() as numbers:
            found = sources.forward(model, sources.loss_func, inputs, targets)
        if numbers.are_read:  # where it is one of the batch or the model's, tracing has failed
            raise Unfit("model or loss read a number from a tensor that they hold: compute with the tensor")
        return found

    def _update(
        self, params: list[Tensor], grads: list[Tensor], kept: list[Tensor], numbers: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        if not self.sources.runs:
            return [], []
        new: list[Tensor] = []
        news: list[Tensor] = []
        whole = zip(params, grads, split(self.sources.runs, kept, numbers), strict=True)
        for param, grad, (run, _, own, scalars) in whole:
            after, keeps = run.rule.update(run.structure, param, grad, own, scalars)
            new.append(after.to(param.dtype))
            news += [each.to(old.dtype) for each, old in zip(keeps, own, strict=True)]
        return new, news

    def _flatten(self, preds: Any) -> list[Tensor]:
        leaves, spec = pytree.tree_flatten(preds)
        outs: list[Tensor] = []
        for number, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[number] = Out(len(outs))
                outs.append(leaf.detach())
            elif not isinstance(leaf, (int, float, str, bool, type(None))):
                raise Unfit(unknown(leaf))
        self.preds = pytree.tree_unflatten(leaves, spec)
        return outs


class Reader(nn.Module):
    """Calls a model, and reads its buffers while those of the call are there: it may have replaced them."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names
        self.found: list[Tensor] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives."""
        output = self.model(*args, **kwargs)
        self.found = [self.model.get_buffer(name) for name in self.names]
        return output

    def taken_from(self, before: list[Tensor]) -> list[Tensor]:
        """The buffers after the call.

        Raises:
            Unfit: one is of another kind than it was.
        """
        for name, one, other in zip(self.names, before, self.found, strict=True):
            if one.shape != other.shape or one.dtype != other.dtype:
                raise Unfit(f"the forward pass puts another kind of tensor into the buffer {name!r}")
        return [each.detach() for each in self.found]


def places_of(sources: Sources) -> dict[str, str]:
    """Where the tensors of a model stand, each place with the name of what is there; each module once."""
    known = {id(each): name for name, each in (sources.params | sources.frozen | sources.buffers).items()}
    found: dict[str, str] = {}
    for prefix, module in sources.model.named_modules():
        for key, each in (*module._parameters.items(), *module._buffers.items()):
            if each is not None:
                found[f"{prefix}.{key}" if prefix else key] = known[id(each)]
    return found


def clip(plugin: GradientClip | None, grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The norm, where there is a clip, and the gradients after it."""
    if plugin is None:
        return [], grads
    norm = torch.nn.utils.get_total_norm(grads, plugin.norm_type, foreach=False)
    if plugin.max_norm is not None:
        share = torch.clamp(plugin.max_norm / (norm + 1e-6), max=1.0)
        return [norm], [each * share for each in grads]
    size = float(plugin.max_value or 0.0)
    return [norm], [each.clamp(-size, size) for each in grads]


def reads_by_itself(name: str) -> str:
    """Why a loss cannot be in a program that holds a weight beside its arguments."""
    return f"the loss reads {name!r} of the model by itself: let the model give what the loss needs"


def unmixed(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast, whatever surrounds it."""
    return torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)


def unknown(leaf: Any) -> str:
    """Why an output cannot be taken apart, and what to do."""
    kind = type(leaf)
    text = f"the model's output holds an object of {kind.__name__}, which may hold tensors"
    if kind.__name__.endswith("Cache"):
        return f"{text}: models of Hugging Face give none with model.config.use_cache = False"
    if is_dataclass(kind):
        return f"{text}: torch.export.register_dataclass({kind.__name__}) once, and it is taken apart"
    return f"{text}: give a tensor, a tuple, a dict, a named tuple or a dataclass"
