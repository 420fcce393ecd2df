"""Runs a program, and keeps what it gives until the step is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from callbacks.whole.binding import Binding
from callbacks.whole.program import Out, Program, unmixed


@dataclass
class Pending:
    """A step that is computed and not yet taken."""

    binding: Binding
    news: list[Tensor]  #: weights, then what the optimizer keeps
    loss: Tensor
    preds: Any
    norm: Tensor | None
    grads: list[Tensor]
    stamp: tuple[int, list[float]]  #: of the binding, when this was computed
    constants: list[Tensor]  #: what the program has read besides the model
    n_written: int  #: how often these had been written to, when it read them
    version: int = 0

    def has_read_in_time(self) -> bool:
        """Is everything that the program has read besides the model unchanged?"""
        return self.n_written == n_writes_of(self.constants)

    @property
    def has_update(self) -> bool:
        """Is the update computed, too? Else it is the optimizer's."""
        return bool(self.news)

    def slope(self, loss_grad: Any) -> Tensor | float | None:
        """The derivative of a function of the loss by it.

        Args:
            loss_grad: the loss, or what a plug-in has made of it, as its product with a weight.

        Returns:
            None where it hangs on weights or predictions in another way.
        """
        if loss_grad is self.loss:
            return 1.0
        leaves = [each for each in pytree.tree_leaves(self.preds) if isinstance(each, Tensor)]
        others = [*(each for each in leaves if each.requires_grad), *self.binding.params]
        slope, *rest = torch.autograd.grad(loss_grad, [self.loss, *others], allow_unused=True)
        return slope if all(each is None for each in rest) else None

    @torch.no_grad()
    def add_gradients(self, slope: Tensor | float) -> None:
        """Add the gradients to those that are there, as `backward` does.

        Args:
            slope: they are multiplied by it.
        """
        # copies, since a program may give one tensor for two parameters, and others change gradients in place
        grads = torch._foreach_mul(self.grads, slope)  # type: ignore[reportPrivateImportUsage]
        for each, grad in zip(self.binding.params, grads, strict=True):
            each.grad = grad if each.grad is None else each.grad.add_(grad)

    def hand_over(self) -> None:
        """Give the gradients to the parameters, or the norm to the plug-in that measures it."""
        clip = self.binding.sources.clip
        if self.grads:
            for each, grad in zip(self.binding.params, self.grads, strict=True):
                each.grad = grad
            self.version = sum(each._version for each in self.grads)
        elif clip is not None:
            clip.handed = self.norm

    def take_back(self) -> None:
        """Of a step that is not taken: let nobody take its norm for that of another."""
        clip = self.binding.sources.clip
        if clip is not None:
            clip.handed = None

    def still_holds(self, learn: Any) -> bool:
        """Is all that the step was computed from as it was: weights, optimizer, rates, clip?"""
        return self.binding.still_holds(learn, self.stamp)

    def was_touched(self) -> bool:
        """Has a plug-in changed a gradient? The clip has, once."""
        if not self.grads:
            return False
        clip = self.binding.sources.clip
        n_writes = 0 if clip is None else 1 if clip.max_value is None else 2  # torch cuts below, then above
        allowed = self.version + n_writes * len(self.grads)
        replaced = any(
            each.grad is not grad for each, grad in zip(self.binding.params, self.grads, strict=True)
        )
        return replaced or sum(each._version for each in self.grads) > allowed


def run(
    binding: Binding, program: Program, leaves: list[Any], *, changes_buffers: bool = True, scale: float = 1.0
) -> list[Tensor]:
    """What the program gives for this batch, at weights that are multiplied by `scale`."""
    flat = binding.flat(leaves)
    if scale != 1:
        flat[: len(binding.params)] = [each.detach() * scale for each in binding.params]
    flat += program.constants
    with torch.no_grad():
        if binding.sources.precision is None:
            outs = program.call(*flat)
        else:
            with unmixed(binding.sources.device):
                outs = program.call(*flat)
    if flat[0].is_cuda:  # a CUDA graph writes its outputs where the last ones were
        outs = [each.clone() for each in outs]
    if changes_buffers:
        change_buffers(binding, program, outs)
    return outs


def change_buffers(binding: Binding, program: Program, outs: Any) -> None:
    """Put the new values into the buffers, as the forward pass does it."""
    if program.changed:
        at = program.at_buffers
        buffers = [binding.sources.buffers[name] for name in program.changed]
        with torch.no_grad():
            torch._foreach_copy_(buffers, list(outs[at : at + len(buffers)]))  # type: ignore[reportPrivateImportUsage]


def pending_of(binding: Binding, program: Program, outs: Any) -> Pending:
    """The step that came out of a program."""
    at, has_clip = program.at_loss, binding.sources.clip is not None
    grads_at = program.at_buffers + len(program.changed)
    n_grads = len(binding.params) if binding.sources.gives_gradients else 0
    rest = outs[grads_at + n_grads :]
    if not at:  # the update is ordinary: so that a loss to which a plug-in has added a term of them is seen
        rest = [each.detach().requires_grad_(each.is_floating_point()) for each in rest]
    if type(program.preds) is Out:
        preds = rest[0]
    else:
        preds = pytree.tree_map(lambda leaf: rest[leaf.index] if type(leaf) is Out else leaf, program.preds)
    grads = list(outs[grads_at : grads_at + n_grads])
    loss = outs[at].requires_grad_()  # as the one that it stands for; nobody differentiates it
    norm = outs[at + 1] if has_clip else None
    n_written = n_writes_of(program.constants)
    return Pending(
        binding, list(outs[:at]), loss, preds, norm, grads, binding.stamp(), program.constants, n_written
    )


def n_writes_of(tensors: list[Tensor]) -> int:
    """How often tensors have been written to in place."""
    return sum([each._version for each in tensors])


def take(pending: Pending) -> None:
    """Take a step that is computed: change weights, and what the optimizer keeps."""
    with torch.no_grad():
        pending.binding.commit(pending.news)


def leaves_are(one: Any, other: Any) -> bool:
    """Are they nests of the very same tensors? A plug-in may have copied the nest."""
    pairs = [pytree.tree_leaves(each) for each in (one, other)]
    return len(pairs[0]) == len(pairs[1]) and all(a is b or (not isinstance(a, Tensor) and a == b)
                                                  for a, b in zip(*pairs, strict=True))  # fmt: skip
