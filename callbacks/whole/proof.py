"""The ordinary step on copies, and a comparison of what a program gives with what it gives."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from callbacks.core import draws
from callbacks.fast.lean_proof import Unfit, find_step
from callbacks.place.device import map_tensors
from callbacks.whole.program import Program, Sources, reads_by_itself, unmixed
from callbacks.whole.updates import split

#: How far a program's numbers may be from the ordinary ones, as a share of the largest of a tensor: sums are
#: added up in another order. Half precision is rounded at other places.
SHARES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
#: A gradient may be off by so much of the largest of all, too: one that should be 0 is rounding alone.
FLOOR = 0.05
#: So many times the rounding of their type weights are shaken by, so often, and so many times as far as the
#: ordinary step's numbers have moved then may a program's be off.
SHAKE, N_SHAKEN, TIMES = 8, 4, 10


@dataclass
class Reference:
    """What the ordinary step gives."""

    preds: list[Tensor]
    loss: Tensor
    norm: Tensor | None
    grads: dict[str, Tensor | None]  #: as the optimizer gets them, by name
    raw: dict[str, Tensor | None]  #: before they are clipped
    params: dict[str, Tensor]
    kept: dict[str, dict[str, Any]]
    buffers: dict[str, Tensor]

    def by_name(self) -> dict[str, Tensor]:
        """All that is compared, as messages name it; of several outputs, the numbers of all in one tensor."""
        found: dict[str, Any] = {"the loss": self.loss, "the norm of the gradients": self.norm}
        found |= {f"the buffer {name!r}": each for name, each in self.buffers.items()}
        found |= {f"the gradient of {name!r}": each for name, each in self.raw.items()}
        found |= {f"the weights of {name!r}": each for name, each in self.params.items()}
        for name, own in self.kept.items():
            found |= {f"the {key} of {name!r}": each for key, each in own.items()}
        if self.preds:
            found["the model's output"] = torch.cat([each.detach().double().flatten() for each in self.preds])
        return {name: each.detach() for name, each in found.items() if isinstance(each, Tensor)}


def ordinary_step(
    learn: Any,
    sources: Sources,
    scale: float = 1.0,
    shaken: torch.Generator | None = None,
    within: AbstractContextManager[Any] | None = None,
) -> Reference:
    """Do forward, loss, backward, and what else is in the program, on copies of model, loss and optimizer.

    Args:
        learn: the learner, with a batch.
        sources: what the program is made of.
        scale: weights are multiplied by it before.
        shaken: from which random numbers are drawn, by which each weight is moved by a few roundings.
        within: a context for forward, loss and backward.

    Raises:
        Unfit: they cannot be copied; or the loss hangs on parameters of which the program holds that it does
            not.
    """
    try:
        model, loss_func, *optimizers = copy.deepcopy(
            (learn.model, learn.loss_func, *([learn.optimizer] if sources.runs else []))
        )
    except (TypeError, RuntimeError, AttributeError) as error:
        raise Unfit(f"the model cannot be copied, to compare with the ordinary step ({error})") from error
    named = {name: each for name, each in model.named_parameters() if name in sources.params}
    if scale != 1:
        with torch.no_grad():
            for each in named.values():
                each.mul_(scale)
    if shaken is not None:
        with torch.no_grad():
            for each in named.values():
                signs = torch.empty(each.shape, dtype=torch.float64).uniform_(-1, 1, generator=shaken).sign()
                each.mul_((1 + SHAKE * torch.finfo(each.dtype).eps * signs).to(each))
    inputs, targets = map_tensors((learn.inputs, learn.targets), torch.clone)
    with torch.enable_grad(), unmixed(sources.device), within or nullcontext():
        preds, loss = sources.forward(model, loss_func, inputs, targets)
        check_reached(loss, sources)
        # no gradients for what the loss reaches beside the copies, as a network that another optimizer trains
        loss.backward(inputs=[each for each in model.parameters() if each.requires_grad])
    for name, each in model.named_parameters():
        if each.grad is not None and each.grad.layout is not torch.strided:
            raise Unfit(f"the gradient of {name!r} is sparse")
        if name in sources.unused and each.grad is not None:
            raise Unfit(f"whether {name} has a part in the loss hangs on the batch")
    preds = [each.detach().clone() for each in tensors_in(preds)]  # one may be a weight itself
    raw, norm = gradients(named), None
    if sources.clip is not None:
        norm = sources.clip.clip_gradients([each for each in named.values() if each.grad is not None])
    grads = gradients(named)
    kept: dict[str, dict[str, Any]] = {}
    for optimizer in optimizers:
        with torch.no_grad():
            find_step(optimizer)(optimizer)
        kept = {name: optimizer.state[each] for name, each in named.items() if each in optimizer.state}
    params = {name: each.detach() for name, each in named.items()}
    return Reference(preds, loss.detach(), norm, grads, raw, params, kept, dict(model.named_buffers()))


def check_reached(loss: Any, sources: Sources) -> None:
    """Refuse a loss on copies that is computed from the parameters themselves.

    A loss function may hold the model in a closure, which no copy of it has another of. In a program, too,
    what it reads of the model would not be the weights.

    Raises:
        Unfit: names a parameter.
    """
    names = {id(each): name for name, each in {**sources.params, **sources.frozen}.items()}
    left, seen = [loss.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [each for each, _ in node.next_functions]
        name = names.get(id(getattr(node, "variable", None)))
        if name is not None:
            raise Unfit(reads_by_itself(name))


def gradients(named: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Copies of the gradients that are there."""
    return {name: None if each.grad is None else each.grad.clone() for name, each in named.items()}


class Different(RuntimeError):
    """A program gives other numbers than the ordinary step."""


@dataclass
class Judge:
    """Compares tensor after tensor, and ends the fit at the first that is another."""

    where: str  #: which batch
    slacks: dict[str, float] = field(default_factory=dict)  #: how much further apart some may be, by name

    def compare(self, what: str, found: Any, wanted: Any, slack: Any = 0.0, dtype: Any = None) -> None:
        """Refuse numbers that are further apart than rounding explains; NaN equals NaN.

        Args:
            what: which tensor it is.
            found: the program's.
            wanted: the ordinary step's.
            slack: how much further apart they may be, a number or for each number of the tensor.
            dtype: in which they were computed, where that is a coarser one than theirs.
        """
        if not isinstance(wanted, Tensor):
            if found != wanted:
                self.tell(f"{what} is {found!r}, not {wanted!r}")
            return
        found, wanted = found.detach(), wanted.detach()
        if found.shape != wanted.shape or found.dtype is not wanted.dtype:
            self.tell(f"{what} is {kind_of(found)}, not {kind_of(wanted)}")
        if found.is_meta or not found.numel():  # on the meta device there are no numbers
            return
        share = SHARES.get(dtype or wanted.dtype, 0.0)
        bad = torch.isnan(found) != torch.isnan(wanted)
        gap = (found.double() - wanted.double()).abs().nan_to_num(0.0, posinf=float("inf"))
        gap = torch.where(found == wanted, 0.0, gap)  # infinities, too
        size = torch.where(wanted.isfinite(), wanted, 0.0).double().abs().max()
        allowed = share * size + slack + self.slacks.get(what, 0.0)
        bad |= gap > allowed
        if bad.any():  # waits for the device, in the first steps of a program
            worst = int((gap - allowed).flatten().argmax())
            pair = found.flatten()[worst].item(), wanted.flatten()[worst].item()
            self.tell(f"{what} is off in {int(bad.sum())} of {bad.numel()} numbers, as {pair[0]:.6g}, "
                      f"not {pair[1]:.6g}")  # fmt: skip

    def tell(self, what: str) -> NoReturn:
        """End the fit."""
        raise Different(
            f"WholeStep: {self.where} {what}. The program does not do what the ordinary step does; "
            "nothing was changed by it. Either the step reads what WholeStep cannot see, and that changed "
            "since, as a file; hold that as a buffer or an attribute of the model. Or the compiler is wrong: "
            "WholeStep('aot_eager') makes no code, and to leave WholeStep out is right in any case."
        )


def compare_step(
    judge: Judge, program: Program, sources: Sources, outs: list[Any], ref: Reference, scale: float = 1.0
) -> None:
    """Compare everything that a program gave.

    Raises:
        RuntimeError: something differs; names the tensor.
    """
    coarse = None if sources.precision is None else torch.bfloat16
    names, outs = list(sources.params), list(outs)
    new = {name: outs.pop(0) for name in (names if sources.runs else ())}
    keys = [run.names for run in sources.runs for _ in run.params]
    kept = {name: {key: outs.pop(0) for key in own} for name, own in zip(new, keys, strict=True)}
    judge.compare("the loss", outs.pop(0), ref.loss, dtype=coarse)
    if ref.norm is not None:
        judge.compare("the norm of the gradients", outs.pop(0), ref.norm, dtype=coarse)
    buffers = sources.buffers | {name: outs.pop(0) for name in program.changed}
    for name, each in ref.buffers.items():
        judge.compare(f"the buffer {name!r}", buffers[name], each, dtype=coarse)
    for name in (name for name in names if ref.grads[name] is None):
        judge.tell(f"a gradient of {name!r} is there, and none in the ordinary step;")
    floor = FLOOR * largest_of(ref.raw)
    for name in names if sources.gives_gradients else ():
        slack = share_of(ref.raw[name], coarse) * floor
        judge.compare(f"the gradient of {name!r}", outs.pop(0), ref.raw[name], slack, coarse)
    for found, wanted in zip(outs, ref.preds, strict=True):
        judge.compare("the model's output", found, wanted, dtype=coarse)
    compare_updates(judge, sources, new, kept, ref, scale)


def slacks_of(learn: Any, sources: Sources, reference: Reference, before: Any) -> dict[str, float]:
    """How far a program may be off where the ordinary step hangs on the rounding of numbers.

    Among some hundred thousand activations a few are 0 but for rounding, and pass a ReLU in one step and not
    in the other; in a deep network rounding may grow. So each number may be off by some times of what it
    moves by where all weights are moved by a few roundings.

    Args:
        learn: the learner, with a batch.
        sources: what the program is made of.
        reference: the ordinary step.
        before: the random numbers that it began with.
    """
    draw, still = torch.Generator().manual_seed(0), reference.by_name()
    found = dict.fromkeys(still, 0.0)
    for _ in range(N_SHAKEN):
        draws.put(before)
        moved = ordinary_step(learn, sources, shaken=draw).by_name()
        for name, each in still.items():
            if name in moved and each.numel():
                gap = (moved[name].double() - each.double()).abs().nan_to_num(0.0, posinf=0.0)
                found[name] = max(found[name], TIMES * gap.max().item())
    return found


def repeats(one: Reference, other: Reference) -> bool:
    """Has the ordinary step given the same loss and gradients twice?"""
    judge = Judge("")
    try:
        judge.compare("", one.loss, other.loss)
        for name in one.raw.keys() & other.raw.keys():  # those that are unused may be known only since
            judge.compare("", one.raw[name], other.raw[name])
    except Different:
        return False
    return True


def compare_updates(
    judge: Judge, sources: Sources, new: Any, kept: Any, ref: Reference, scale: float
) -> None:
    """Compare weights and what the optimizer keeps.

    An optimizer may make much of little: Adam moves a weight as far for a gradient that is rounding alone as
    for a large one. So each may be as far off as the update with a gradient that is off a bit.
    """
    coarse = None if sources.precision is None else torch.bfloat16
    floor = FLOOR * largest_of(ref.grads)
    for name, (run, param, own, numbers) in zip(
        new, split(sources.runs, sources.kept, sources.numbers), strict=True
    ):
        grad: Any = ref.grads[name]
        off = share_of(grad, coarse) * (largest(grad) + floor)
        edges = []
        for moved in (grad - off, grad, grad + off):
            after, keeps = run.rule.update(
                run.structure, param.detach() * scale, moved.to(grad.dtype), own, numbers
            )
            edges.append([after, *keeps])
        found, wanted = new[name], ref.params[name]
        whole = [
            ("weights", found, wanted),
            *((key, kept[name][key], ref.kept[name][key]) for key in run.names),
        ]
        for (key, found, wanted), low, middle, high in zip(whole, *edges, strict=True):
            slack = 2 * ((low.double() - middle.double()).abs() + (high.double() - middle.double()).abs())
            judge.compare(f"the {key} of {name!r}", found, wanted, slack.nan_to_num(0.0))


def largest_of(grads: dict[str, Any]) -> Tensor:
    """The largest size of a number in all of them."""
    sizes = [largest(each) for each in grads.values() if each is not None]
    return torch.stack(sizes).max() if sizes else torch.zeros(())


def largest(grad: Any) -> Tensor:
    """The largest size of a number that is one; 0 for none."""
    if grad is None or not grad.numel():
        return torch.zeros((), dtype=torch.float64)
    return grad.detach().double().abs().nan_to_num(0.0, posinf=0.0).max()


def share_of(tensor: Any, coarse: Any) -> float:
    """How far numbers of this kind may be off."""
    return SHARES.get(coarse or tensor.dtype, 0.0)


def tensors_in(preds: Any) -> list[Tensor]:
    """The tensors among the leaves of an output."""
    return [each for each in pytree.tree_leaves(preds) if isinstance(each, Tensor)]


def kind_of(tensor: Tensor) -> str:
    """How a tensor is told of, as `float32[3, 4]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
