"""Train in several processes, each on its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from callbacks.core import draws
from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.output import print_line
from callbacks.core.ranks import ALONE, Ranks, is_first_process
from callbacks.core.warning import warn
from callbacks.distributed.agreement import Group
from callbacks.distributed.choices import check_kind, check_others, check_settings
from callbacks.distributed.data_parallel import DataParallel
from callbacks.distributed.group import Members
from callbacks.distributed.meetings import Agreement, SharedResults
from callbacks.distributed.rendezvous import join
from callbacks.distributed.sharded import Sharded
from callbacks.model.lazy import LAZY, tensors_without_values
from callbacks.model.module_state import kept_buffers
from callbacks.model.shards import local
from callbacks.results.loss_weight import LossWeight, Weight
from callbacks.step.accumulation import add_kept, parameters_of, scaled, set_aside


class Distributed(Callback):
    """Train in several processes that `torchrun` has started, with PyTorch's DDP or FSDP.

    Every process runs the same script or recipe, and holds the whole model. The ranks share each batch: with
    `batch="global"`, each of 4 ranks takes 16 items of a batch of 64. The ranks' gradients are averaged,
    weighted by the number that each loss divides by. So the weights equal those of one process up to
    rounding, and bit for bit those of one process that accumulates the parts of each batch (except with
    random layers, and with batch norm, which sees only parts). Results are computed over all ranks, and are
    the same on every rank.

    If `torchrun` has started the process, a learner adds this callback by itself. In a process that no
    launcher has started it does nothing, so the same script also runs alone. Only the first rank prints,
    draws and writes. If one rank calls `learn.stop` or cancels training, all ranks follow: they agree with
    the gradients of the next batch, otherwise at the end of the pass, so that no rank waits for one that has
    stopped.

    Args:
        kind: `"ddp"`: `DistributedDataParallel`. `"fsdp"`: `fully_shard`: each process holds a part of all
            parameters, gradients and optimizer states, and each layer is gathered while it runs. Every
            process must then call `predict`, `validate` and `save`, even after the fit.
        batch: `"global"`: the ranks share each batch. `"each"`: each rank takes a whole batch in turn, so an
            update sees as many batches as there are ranks.
        sharded: does each rank load different data already, so that the ranks do not share its batches? The
            ranks may then have different numbers of batches; the pass ends when no rank has one left.
        weight: how much a rank's batch counts, as for `Metrics`.
        in_order: add gradients in the order of the ranks, so that the bits are those of one process for any
            number of ranks; otherwise for two. By default on the CPU.
        mesh: for `"fsdp"`, a device mesh; by default one dimension with all processes.
        precision: for `"fsdp"`, the type in which layers run: `"bf16"`, `"fp16"`, or a
            `MixedPrecisionPolicy`.
        offload: for `"fsdp"`, keep parameters and optimizer states in main memory.
        layers: for `"fsdp"`, the names or classes of the layers that are gathered one at a time; by default
            the repeated ones in lists and sequences of modules.
        backend: a backend of `torch.distributed`; by default gloo on the CPU and nccl on a GPU.
        timeout: the seconds that a process waits for the others in a fit before it fails; None for torch's
            default. At the start it waits for ten minutes.
        settings: other arguments of `DistributedDataParallel`, such as `find_unused_parameters=True`, or of
            `fully_shard`.

    Raises:
        ValueError, TypeError: a setting cannot be used.

    Source: Li et al. 2020, arXiv:2006.15704; `torch.nn.parallel.DistributedDataParallel`.
    """

    order = Order.PREPARE
    surrounds = ("forward", "backward")
    distributed = True

    def __init__(
        self,
        kind: Literal["ddp", "fsdp"] = "ddp",
        *,
        batch: Literal["global", "each"] = "global",
        sharded: bool = False,
        weight: Weight | None = None,
        in_order: bool | None = None,
        mesh: Any = None,
        precision: Any = None,
        offload: bool = False,
        layers: Any = None,
        backend: str | None = None,
        timeout: float | None = None,
        name: str | None = None,
        **settings: Any,
    ):
        super().__init__(name=name)
        sharding: Any = {"mesh": mesh, "precision": precision, "offload": offload, "layers": layers}
        check_kind(kind, sharding, in_order)
        check_settings(kind, settings)
        check_others(backend, timeout)
        self.kind, self.batch, self.sharded, self.in_order = kind, batch, sharded, in_order
        self.backend, self.timeout, self.settings, self.sharding = backend, timeout, settings, sharding
        self._weight = LossWeight(weight, owner="Distributed")
        self._group: Group | None = None
        self._engine: DataParallel | Sharded | None = None
        self._accumulation: Any = None
        self._added: tuple[Callback, ...] = ()
        self._share: float | Tensor = 1.0
        self._is_sum = self._is_synced = False
        self._is_announced = False  # is the line about the processes printed?
        self._random: list[dict[str, Any]] = []  # of the data, before the current validations

    @property
    def silences(self) -> bool:  # type: ignore[override]
        """Is this a process whose reporting callbacks are not called?"""
        return not is_first_process()

    def meet(self) -> Ranks:
        """Join the process group, if that has not happened yet; return its processes."""
        return Members(sharded=self.sharded) if join(self.backend, self.timeout) else ALONE

    def before_fit(self, learn: LearnerProtocol) -> None:
        if any(each.distributed and not isinstance(each, Distributed) for each in learn.callbacks):
            return  # the user's callback does it
        if not join(self.backend, self.timeout):
            return  # one process, which needs none of this
        if isinstance(learn.model, DistributedDataParallel):  # by the user; the fit wraps the module itself
            learn.model = learn.model.module
        self._group = Group(self._divisor, each=self.batch == "each", sharded=self.sharded)
        learn.ranks, self._group.in_step = self._group, self.kind == "fsdp"
        self._accumulation = next((each for each in learn.callbacks if each.accumulates_gradients), None)
        self._added = (SharedResults(), Agreement()) if self._group.size > 1 else ()
        self._group.accumulates = self._accumulation is not None
        learn.add_callbacks(*self._added)
        self._wrap(learn)
        if self._group.size > 1 and not self._is_announced:
            self._is_announced = True
            warn_of_restart(learn)
            print_line(f"training in {self._group.size} processes, {self.kind}")

    def _wrap(self, learn: LearnerProtocol) -> None:
        assert self._group is not None
        check_shapes(learn)
        if self.kind == "fsdp":
            self._engine = Sharded(learn, **self.sharding, settings=self.settings)
            return
        in_order = self.in_order
        if in_order is None:
            in_order = learn.device.type == "cpu"
        if self._engine is not None:
            self._engine.end()
        self._engine = DataParallel(learn, in_order=in_order and self._group.size > 2, settings=self.settings)

    def before_train(self, learn: LearnerProtocol) -> None:
        if self._engine is None or self._group is None:
            return
        if not self._engine.is_current(learn):
            self._wrap(learn)
        self._group.begin_pass()
        self._weight.look(learn)

    @contextmanager
    def surround(self, learn: LearnerProtocol, operation: str) -> Iterator[None]:
        group, engine, waits = self._group, self._engine, self._accumulation
        if group is None or engine is None:
            yield
        elif not learn.training or learn.is_aside:
            yield
            engine.release_weights()
        elif operation == "forward":  # without synchronization if no update follows the batch
            group.expect_items(learn)
            synced = waits is None or engine.syncs_each_batch or waits.updates_after(learn)
            self._is_synced = synced
            around = engine.forward(learn, synced) if isinstance(engine, DataParallel) else nullcontext()
            with around, kept_buffers(learn.model) if group.is_padding else nullcontext():
                yield
        else:
            loss = learn.loss_grad
            # gradients of an update that another callback has skipped are divided already
            waiting = parameters_of(learn) if learn.n_waiting and self._accumulation is None else []
            kept = set_aside(self, learn, waiting)
            self._before_backward(learn, group, engine)
            yield
            learn.loss_grad = loss
            self._after_backward(learn, group, engine)
            add_kept(waiting, kept)

    def before_backward(self, learn: LearnerProtocol) -> None:
        """Weight the loss by this rank's share, so that a share in which nothing counts is 0, and not NaN."""
        group = self._group
        if group is None or self._accumulation is not None:
            return
        if group.n_everywhere == 0:
            return  # the whole batch is empty: the loss is NaN, as in one process
        self._is_sum = self._weight.adds_up(learn)
        one = 1 if self._is_sum or group.is_void else self._weight.of(learn)
        self._share = group.share_of(learn, one, is_sum=self._is_sum)
        if isinstance(self._share, Tensor) or self._share != 1:
            learn.loss_grad = scaled(learn.loss_grad, self._share)

    def _before_backward(self, learn: LearnerProtocol, group: Group, engine: DataParallel | Sharded) -> None:
        if self._accumulation is not None:
            self._is_sum, share = self._accumulation.is_sum, self._accumulation.share_of(learn)
            weight = self._accumulation.weight_with(learn)
        else:
            weight = share = 0.0 if group.is_void else self._share
        is_known = not isinstance(share, Tensor) or share.is_cpu  # otherwise reading it waits
        if group.is_void or (group.size > 1 and is_known and share == 0):
            learn.loss_grad = engine.zero_loss(learn)
        group.set_share(share, is_sum=self._is_sum)
        if self._is_synced:
            engine.send(learn, group.message(learn, weight, share))

    def _after_backward(self, learn: LearnerProtocol, group: Group, engine: DataParallel | Sharded) -> None:
        if self._is_synced:
            group.receive(learn, engine.received(), is_sum=self._is_sum)
            if self._accumulation is None:
                divide_gradients(learn, group.divided_by(engine.n_divided, is_sum=self._is_sum))
            group.read(learn)
        group.count_items(learn, is_synced=self._is_synced)

    def _divisor(self, learn: LearnerProtocol, weight: Any, is_sum: bool) -> Any:
        """What the accumulated gradients are divided by; they are synchronized first if they are not."""
        group, engine = self._group, self._engine
        assert group is not None
        assert engine is not None
        if not self._is_synced:
            assert isinstance(engine, DataParallel)
            group.receive(learn, engine.sync(learn, group.message(learn, weight)), is_sum=is_sum)
            group.count_others(learn)
            self._is_synced = True
        return group.divided_by(engine.n_divided, is_sum=is_sum)

    def before_validate(self, learn: LearnerProtocol) -> None:
        if self._group is not None:
            self._random.append(learn.ranks.random)

    def after_validate(self, learn: LearnerProtocol) -> None:
        if self._random:
            learn.ranks.random = self._random.pop()  # so that validation does not change training

    def after_train(self, learn: LearnerProtocol) -> None:
        if self._engine is not None:
            self._engine.end_pass()

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        learn.remove_callbacks(*[each for each in self._added if each in learn.callbacks])
        if self._group is None:
            return
        self._group.end()
        draws.put(self._group.random)  # so that all processes draw the same numbers again
        if self._engine is not None:
            self._engine.end()
        learn.ranks = ALONE
        self._group = self._engine = self._accumulation = None
        self._added = ()


def warn_of_restart(learn: LearnerProtocol) -> None:
    """Warn of a run that `torchrun` has started again, and that starts from the beginning."""
    n_restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if n_restarts != "0" and not learn.resumed:
        warn(
            f"torchrun has restarted the processes (restart {n_restarts}), but this fit does not resume, "
            "so it trains from the beginning. Add a Checkpoint, and call fit(..., resume='auto')."
        )


def check_shapes(learn: LearnerProtocol) -> None:
    """Refuse lazy layers that have not seen a batch: each process would make its own weights."""
    lazy = [each for each, why in tensors_without_values(learn.model).items() if why == LAZY]
    if lazy:
        raise ValueError(
            f"Distributed: {', '.join(lazy[:8])} of the model have no shape yet, so they cannot be equal in "
            "all processes. Call learn.predict(inputs) with the inputs of one batch before the fit."
        )


def divide_gradients(learn: LearnerProtocol, divisor: Any) -> None:
    """Divide all gradients."""
    if isinstance(divisor, Tensor) or divisor != 1:
        found = [local(each.grad) for each in parameters_of(learn) if each.grad is not None]
        torch._foreach_div_(found, divisor)  # type: ignore[reportPrivateImportUsage]
