"""Restore weights and buffers as they were before they became NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import LearnerProtocol
from callbacks.core.modules import loss_tensors, trained_parameters
from callbacks.model.finite import count_bad, first_bad
from callbacks.model.named import named_tensors
from callbacks.model.places import Places, is_unchanged
from callbacks.model.shards import local
from callbacks.optim.optimizers import members_of
from callbacks.optim.saved_state import wrapped_in


class LastGood:
    """A copy of weights and buffers from when they were finite, kept on their device."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drop the copy."""
        self._copies: dict[str, Tensor] = {}
        self._model: nn.Module | None = None  # the model that was copied
        self._where = ""
        self._places: Places | None = None
        self._of_model: dict[str, Tensor] = {}

    @torch.no_grad()
    def keep(self, learn: LearnerProtocol, buffers: dict[str, Tensor] | None = None) -> None:
        """Copy the current values, but those in `buffers` from before the forward pass."""
        now = {**self.now(learn), **(buffers or {})}
        kept = {name: each for name, each in self._copies.items() if is_like(each, now.get(name))}
        copy_all([local(now[name]) for name in kept], [local(each) for each in kept.values()])
        self._copies = {
            name: kept[name] if name in kept else each.detach().clone() for name, each in now.items()
        }
        self._model = learn.model
        self._where = f"before batch {learn.batch_idx} of epoch {learn.epoch}"

    def now(self, learn: LearnerProtocol) -> dict[str, Tensor]:
        """What `tensors_of` returns; the model's tensors are listed again only after a replacement."""
        if self._places is None or not self._places.are_of(learn.model):
            self._places = Places(learn.model, with_buffers=True)
            self._of_model = named_tensors(learn.model)
        return {**self._of_model, **loss_tensors(learn)}

    def weights_of(self, learn: LearnerProtocol) -> dict[str, Tensor]:
        """The weights that are trained, by name."""
        return {
            name: each
            for name, each in self.now(learn).items()
            if isinstance(each, nn.Parameter) and each.requires_grad and each.is_floating_point()
        }

    def count_bad(self, names: Iterable[str]) -> Tensor:
        """How many numbers of the copies with these names are NaN or infinite; nothing waits."""
        return count_bad(self._copies[name] for name in names if name in self._copies)

    @torch.no_grad()
    def restore(self, learn: LearnerProtocol) -> str:
        """Restore the copy, empty the optimizer's state, drop the gradients, and describe the result.

        The state of an optimizer becomes bad together with its weights. For Adam, a copy of it would need
        twice the memory of the weights, so it is emptied instead; the optimizer's settings stay.
        """
        if learn.model is not self._model:
            return "the learner has another model now, which is left unchanged"
        found = self.now(learn)
        first = first_bad(found, self._copies)
        if first is not None:
            return (
                f"{first!r} was NaN or infinite {self._where} already, so there are no good weights to "
                "restore"
            )
        for name, tensor in found.items():
            if name in self._copies and self._copies[name].shape == tensor.shape:
                tensor.copy_(self._copies[name])
        optimizers = [*members_of(learn.optimizer), *(inner for *_, inner in wrapped_in(learn.optimizer))]
        kept = [type(each).__name__ for each in optimizers if not empty(each)]
        for parameter in trained_parameters(learn):
            parameter.grad = None
        state = f"but {' and '.join(kept)} cannot be emptied, because it has no `state`" if kept else EMPTIED
        return f"the weights are restored as they were {self._where}, {state}"


EMPTIED = "and the optimizer's state is empty"


def tensors_of(learn: LearnerProtocol) -> dict[str, Tensor]:
    """Weights and buffers of model and loss by name."""
    return {**named_tensors(learn.model), **loss_tensors(learn)}


def is_like(one: Tensor, other: Tensor | None) -> bool:
    """Do they have the same shape, dtype and device?"""
    kind = one.shape, one.device, one.dtype
    return other is not None and kind == (other.shape, other.device, other.dtype)


class KeptBuffers:
    """A copy of the buffers that the forward pass changes, such as the statistics of batch norm.

    Torch counts the writes to each tensor, which shows the changed buffers, so masks are copied only once.
    It does not count batch norm's writes, so buffers of one dimension are always copied. A buffer may also be
    replaced, as by `self.mean = 0.9 * self.mean + x.mean(0)`; then the previous tensor is restored.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drop the copies."""
        self._buffers: dict[str, Tensor] | None = None
        self.copies: dict[str, Tensor] = {}  #: by name
        self._versions: dict[str, int] = {}  # of buffers that have not changed so far
        self._changing: tuple[list[Tensor], list[Tensor]] = ([], [])  # the others, and their copies
        self._model: nn.Module | None = None
        self._holders: list[tuple[dict[str, Any], list[Any]]] = []  # the dicts with buffers, and their values

    def keep(self, model: nn.Module) -> None:
        """Copy the buffers that have changed since the last call, and those that may have."""
        if model is not self._model or (self._holders and not all(map(is_unchanged, self._holders))):
            self.clear()
        if self._buffers is None:
            self._begin(model)
        elif self._buffers:
            self._notice_changes()
            copy_all(*self._changing)

    def restore(self) -> None:
        """Restore the buffers that have changed since, and those that may have."""
        if self._buffers:
            for holder, buffers in self._holders:
                holder.update(zip(holder, buffers, strict=False))
            self._notice_changes()
            for buffer, kept in zip(*self._changing, strict=True):
                if buffer.shape != kept.shape:
                    buffer.resize_(kept.shape)
            copy_all(*reversed(self._changing))

    def _begin(self, model: nn.Module) -> None:
        self._model = model
        if not has_buffers(model):
            self._buffers = {}
            return
        if any(map(is_lazy, model.buffers())):
            return  # they have no values before the first batch
        found = {name: each for name, each in model.named_buffers() if not each.is_inference()}
        self._buffers = found
        holders = [module._buffers for module in model.modules() if module._buffers]
        self._holders = [(holder, list(holder.values())) for holder in holders]
        self.copies = {name: each.clone() for name, each in found.items()}
        self._versions = {name: each._version for name, each in found.items()}
        for name, each in found.items():
            if each.ndim == 1:
                self._add(name)

    def _notice_changes(self) -> None:
        assert self._buffers is not None
        for name in [name for name, then in self._versions.items() if self._buffers[name]._version != then]:
            self._add(name)

    def _add(self, name: str) -> None:
        assert self._buffers is not None
        del self._versions[name]
        self._changing[0].append(self._buffers[name])
        self._changing[1].append(self.copies[name])


def has_buffers(model: nn.Module) -> bool:
    """Does any module have buffers? Ten times as fast as listing them, for the many models without any."""
    found = [model]
    for module in found:  # grows during the loop
        if module._buffers:
            return True
        found += (each for each in module._modules.values() if each is not None)
    return False


def copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy many tensors at once, also those whose shape has changed, as in an observer for quantization."""
    if not sources:  # torch raises for empty lists
        return
    with torch.no_grad():
        try:
            torch._foreach_copy_(targets, sources)  # type: ignore[reportPrivateImportUsage]
        except RuntimeError:  # comparing the shapes beforehand would cost time in each batch
            for source, target in zip(sources, targets, strict=True):
                target.resize_(source.shape).copy_(source)


def empty(optimizer: Any) -> bool:
    """Empty the state of an optimizer but not its settings; False if it has no state per parameter."""
    state = getattr(optimizer, "state", None)
    if not isinstance(state, MutableMapping) or not all(isinstance(each, Tensor) for each in state):
        return False
    if not isinstance(optimizer, torch.optim.Adagrad):
        optimizer.state.clear()
        return True
    for group in optimizer.param_groups:  # Adagrad fills its state in its constructor
        for parameter in group["params"]:
            optimizer.state[parameter]["sum"].fill_(group["initial_accumulator_value"])
            optimizer.state[parameter]["step"].zero_()
    return True
