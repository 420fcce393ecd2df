"""`DistributedDataParallel` around the model of a learner, during a fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.parallel import DistributedDataParallel

from callbacks.core.learner_protocol import LearnerProtocol
from callbacks.core.modules import declared, modules_beside
from callbacks.distributed.in_order import InOrder, sum_in_order
from callbacks.optim.parameter_rules import parameters_of
from callbacks.place.device import tensors_in
from callbacks.step.accumulation import scaled

N_NUMBERS = 9  # of a message


class Whole(nn.Module):
    """What `DistributedDataParallel` wraps: the model, the other trained modules, and a note to the ranks.

    Attributes:
        note: a parameter whose gradient travels with those of the model, so a step needs no additional
            collective operation: the numbers of a `Message`.
    """

    def __init__(self, model: nn.Module, beside: Iterable[nn.Module], device: torch.device):
        super().__init__()
        self.model, self.beside = model, nn.ModuleList(beside)
        is_double = any(each.dtype == torch.float64 for each in model.parameters())
        dtype = torch.float64 if is_double else torch.float32  # bfloat16 would round weights and losses
        self.note = nn.Parameter(torch.zeros(N_NUMBERS, dtype=dtype, device=device))

    def forward(self, *preds: Any) -> Any:
        """The predictions, if torch searches their graph, and what makes the note a part of them."""
        return (*preds, self.note + 0) if preds else None


class DataParallel:
    """One copy of the model per process, whose gradients are averaged in the backward pass.

    Args:
        learn: the learner.
        in_order: add the gradients in the order of the ranks. The sum then has the bits of one process that
            accumulates the batches of all ranks, for any number of ranks.
        settings: other arguments of `DistributedDataParallel`.
    """

    syncs_each_batch = False  # accumulated gradients wait for the last batch

    def __init__(self, learn: LearnerProtocol, *, in_order: bool, settings: dict[str, Any]):
        model = learn.model
        self.size = dist.get_world_size()
        self.n_divided = 1 if in_order else self.size  # what gradients and note are divided by
        self._others = OtherOptimizers(learn, self._average, self.n_divided)
        beside = [each for each in modules_beside(learn).values() if is_trained(each)]
        beside = [each for each in beside if not self._others.train(each)]
        self.whole = Whole(model, beside, learn.device)
        ids = [learn.device.index] if learn.device.type == "cuda" else None
        self.wrapped = DistributedDataParallel(self.whole, device_ids=ids, **settings)
        self.is_searched = any(settings.get(each) for each in ("find_unused_parameters", "static_graph"))
        self.in_order = in_order
        if in_order:
            self.wrapped.register_comm_hook(InOrder(), lambda adder, bucket: adder.add(bucket))
        self.trained = trained_in(self.whole)
        self.note, self._is_proved = self.whole.note, self.is_searched

    def is_current(self, learn: LearnerProtocol) -> bool:
        """Is this still the learner's model, with the same trained parameters?"""
        return self.whole.model is learn.model and self.trained == trained_in(self.whole)

    @contextmanager
    def forward(self, learn: LearnerProtocol, is_synced: bool) -> Iterator[None]:
        """A context for the forward pass of a batch, whose gradients are averaged or stay in this process.

        The learner calls its own model, in any way that its `forward` does. `DistributedDataParallel` only
        has to be notified: before, and afterwards if it searches the graph.
        """
        with nullcontext() if is_synced else self.wrapped.no_sync():
            if self.is_searched:
                yield
                learn.preds, self._tied = self.wrapped(learn.preds)
                return
            try:
                self.wrapped()
            except RuntimeError as error:
                self._check_trained()
                raise named(error, [*self.trained]) from None
            yield

    def send(self, learn: LearnerProtocol, numbers: list[float | Tensor]) -> None:
        """Put numbers into this backward pass."""
        if not learn.loss_grad.requires_grad:
            return  # its backward pass raises
        # `note` is 0, and so is what is added; its gradient is the message
        tied = self._tied if self.is_searched else self.note
        learn.loss_grad = learn.loss_grad + torch.dot(tied, tensor_of(numbers, self.note))

    def received(self) -> Tensor:
        """The numbers after the backward pass, added over all ranks."""
        if not self._is_proved:
            trained = {name: each for name, each in self.whole.named_parameters() if each.requires_grad}
            unused = [name for name, each in trained.items() if each.grad is None]
            if unused:
                raise error_of(unused)
            self._is_proved = True
        found = self.note.grad
        assert found is not None
        self.note.grad = None
        return found if self.n_divided == 1 else found.mul_(self.n_divided)

    def sync(self, learn: LearnerProtocol, numbers: list[float | Tensor]) -> Tensor:
        """Average, or add, gradients that were computed without synchronization; returns the numbers."""
        self.note.grad = tensor_of(numbers, self.note)
        self._average([each.grad for each in self.whole.parameters() if each.grad is not None])
        return self.received()

    def _average(self, grads: list[Tensor]) -> None:
        """Average gradients over all ranks, or add them in order."""
        flat = _flatten_dense_tensors(grads)
        if self.in_order:
            flat = sum_in_order(flat)
        else:
            dist.all_reduce(flat)
            flat /= self.size
        for grad, new in zip(grads, _unflatten_dense_tensors(flat, grads), strict=True):
            grad.copy_(new)

    def release_weights(self) -> None:
        """Does nothing: a forward pass alone leaves nothing behind."""

    def end(self) -> None:
        """Leave the optimizers of callbacks as they were; the model is not changed."""
        self._others.end()

    def zero_loss(self, learn: LearnerProtocol) -> Tensor:
        """A loss whose gradient is 0 for each parameter, unless torch searches the graph of the batch."""
        if self.is_searched:
            return zero_of(learn)
        trained = [each for each in self.whole.parameters() if each.requires_grad and each is not self.note]
        return 0 * torch.stack([each.flatten()[:1].sum().float() for each in trained]).nan_to_num().sum()

    def end_pass(self) -> None:
        """Copy the buffers of the first rank, as running means, to all others."""
        self._check_trained()
        for buffer in self.whole.buffers():
            dist.broadcast(buffer, src=0)

    def _check_trained(self) -> None:
        """Refuse other trained parameters than those at the start of the pass, which torch sums."""
        then, now = {*self.trained.items()}, {*trained_in(self.whole).items()}
        changed = now - then if self.is_searched else now ^ then  # torch may miss some, but sums no others
        if changed:
            names = ", ".join(sorted({each.removeprefix("model.") for each, _ in changed}))
            raise RuntimeError(
                f"Distributed: {names} were frozen, unfrozen or replaced in the middle of a pass. Do so in "
                "before_epoch, or between two fits."
            )


def zero_of(learn: LearnerProtocol) -> Tensor:
    """A loss whose gradient is 0, through the model and not the loss function: that of 0 / 0 is NaN."""
    preds = [each for each in tensors_in(learn.preds) if each.requires_grad]
    if not preds:
        return scaled(learn.loss_grad, 0.0)
    return 0 * torch.stack([each.nan_to_num().float().sum() for each in preds]).sum()


def tensor_of(numbers: list[float | Tensor], like: Tensor) -> Tensor:
    """Numbers as a tensor, without a wait for those that are on a device."""
    on_device = [(n, each) for n, each in enumerate(numbers) if isinstance(each, Tensor)]
    plain = [0.0 if isinstance(each, Tensor) else each for each in numbers] if on_device else numbers
    found = torch.tensor(plain, dtype=like.dtype, device=like.device)
    for n, each in on_device:
        found[n] = each
    return found


class OtherOptimizers:
    """The optimizers that callbacks declare in `state`, as of a critic: their gradients are averaged too.

    They step when their callback wants it, so their parameters cannot wait for the learner's backward pass.

    Args:
        learn: the learner.
        average: adds gradients over all ranks, and divides them by `n_divided`.
        n_divided: 1, or the number of ranks.
    """

    def __init__(self, learn: LearnerProtocol, average: Callable[[list[Tensor]], None], n_divided: int):
        own = {id(each) for each in (*learn.model.parameters(), *parameters_of(learn.optimizer))}
        optimizers = [each for _, each in declared(learn) if isinstance(each, torch.optim.Optimizer)]
        self._trained = {id(each) for one in optimizers for each in parameters_of(one)} - own
        self._handles = []
        for module in modules_beside(learn).values():
            for each in (*module.parameters(), *module.buffers()) if self.train(module) else ():
                dist.broadcast(each.detach(), src=0)

        def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            found = [each.grad for each in parameters_of(optimizer) if id(each) in self._trained]
            grads = [each for each in found if each is not None]
            here, everywhere = learn.ranks.n_here, learn.ranks.n_everywhere
            share = here / everywhere if everywhere and here is not None else learn.ranks.share_of_own()
            # a loss is a mean over the items of its rank
            torch._foreach_mul_(grads, share * n_divided)  # type: ignore[reportPrivateImportUsage]
            average(grads)

        if self._trained:
            self._handles = [each.register_step_pre_hook(before_step) for each in optimizers]

    def train(self, module: nn.Module) -> bool:
        """Does one of them train a module?"""
        return any(id(each) in self._trained for each in module.parameters())

    def end(self) -> None:
        """Stop averaging."""
        for each in self._handles:
            each.remove()


def is_trained(module: nn.Module) -> bool:
    """Does it have parameters that are trained?"""
    return any(each.requires_grad for each in module.parameters())


def trained_in(module: nn.Module) -> dict[str, int]:
    """The names of the parameters that are trained, each with its id, since one may be replaced."""
    return {name: id(each) for name, each in module.named_parameters() if each.requires_grad}


def named(error: RuntimeError, names: list[str]) -> RuntimeError:
    """The error of parameters without a gradient, with their names; any other error stays."""
    found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
    if found is None:
        return error
    return error_of([names[int(each)] for each in found[1].split()])


def error_of(unused: list[str]) -> RuntimeError:
    """The error of parameters without a gradient."""
    names = ", ".join(each.removeprefix("model.") for each in unused)
    return RuntimeError(
        f"Distributed: the loss of the last batch does not depend on {names}, so the processes would wait "
        "for their gradients. Use these parameters in the loss, freeze them with requires_grad_(False), "
        "or pass Distributed(find_unused_parameters=True)."
    )
