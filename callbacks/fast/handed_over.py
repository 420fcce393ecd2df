"""What a program has computed, and the loss and the gradients of the loop that are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from callbacks.core.contract import LearnerProtocol
from callbacks.fast.fallback_reasons import Unfit
from callbacks.fast.guarded_program import Program, tensors_of
from callbacks.fast.refused_callbacks import AFTER_PRED, BEFORE_GRADIENTS, changed
from callbacks.fast.unguarded import check_hooks
from callbacks.place.device import are_same


@dataclass(slots=True)
class Pending:
    """A step whose gradients are computed and not yet passed on."""

    program: Program
    here: dict[str, Any]  #: what it was computed from
    preds: Any
    loss: Tensor
    grads: list[Tensor | None]  #: of `program.trained`
    seen: list[tuple[Tensor, int, Tensor | None]] = field(default_factory=list)  #: by `remember`

    def remember(self, *, copy: bool) -> None:
        """Note how often the tensors that the step reads and predicts were written to, or also copy them."""
        self.seen = [
            (each, version_of(each), each.detach().clone() if copy else None) for each in self._read()
        ]

    def _read(self) -> list[Tensor]:
        return tensors_of(self.preds, self.here["targets"]) + self.program.read(self.here)

    def check_read(self, learn: LearnerProtocol) -> None:
        """Refuse a change of what the loss reads, since the forward pass."""
        here = self.here
        # a callback may have copied the containers
        if learn.preds is not self.preds and not are_same(*map(tree_leaves, (learn.preds, self.preds))):
            raise changed(learn, "the predictions", AFTER_PRED)
        if learn.targets is not here["targets"] or learn.loss_func is not here["loss_func"]:
            raise changed(learn, "targets or loss function", AFTER_PRED)
        with torch.no_grad():
            is_same = self.program.fits(here) and are_same(self._read(), [each for each, _, _ in self.seen])
            if not is_same or any(version_of(one) != n or differ(one, then) for one, n, then in self.seen):
                raise changed(learn, "something that the loss reads", AFTER_PRED)

    def check_gradients(self, learn: LearnerProtocol) -> None:
        """Refuse changes of tensors that the gradients depend on, before they are computed."""
        params = self.here["params"]
        try:
            check_hooks(params, learn.model)
            is_same = sum(each.requires_grad for each in params) == len(self.program.trained or ())
        except Unfit:
            is_same = False
        if not is_same:
            raise changed(learn, "which parameters are trained, or their hooks", BEFORE_GRADIENTS)
        for each, version, then in self.seen:  # autograd itself refuses the writes that it counts
            if version_of(each) == version and differ(each, then):
                raise changed(learn, "a tensor, through .data or .numpy(),", BEFORE_GRADIENTS)
        for each in tensors_of(self.loss, self.preds):
            if each._backward_hooks or each.grad is not None or each.retains_grad:
                raise changed(learn, "the hooks or gradients of loss or predictions", BEFORE_GRADIENTS)

    def add_gradients(self, learn: LearnerProtocol) -> None:
        """Add gradients to the present ones, as `backward` does.

        If callbacks have changed the loss, they are multiplied by the derivative of the change, and the
        gradients of terms that depend only on weights are added.
        """
        slope = None
        if learn.loss_grad is not self.loss:
            learn.loss_grad.backward()
            if any(each.grad is not None for each in tensors_of(self.preds)):
                raise changed(learn, "the loss by more than a scale", BEFORE_GRADIENTS[1:])
            slope = self.loss.grad
            if slope is None:  # the loss was replaced
                return
        for param, grad in zip(self.program.trained or (), self.grads, strict=True):
            if grad is None:
                continue
            if slope is not None:
                grad = grad * slope
            if param.grad is None:
                param.grad = grad
            else:
                with torch.no_grad():
                    param.grad.add_(grad)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to, as autograd counts."""
    return 0 if tensor.is_inference() else tensor._version


def differ(tensor: Tensor, then: Tensor | None) -> bool:
    """Does a tensor differ from its copy, if there is one? NaN equals NaN."""
    tensor = tensor.detach()
    return then is not None and not (
        tensor.is_meta or torch.equal(tensor, then) or tensor.isclose(then, 0, 0, True).all().item()
    )
