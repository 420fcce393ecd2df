"""The time of a step in several processes, compared with a hand-written loop, and how it scales.

Run: python benchmarks/distributed.py [rounds] [ranks ...]

Each rank runs a hand-written loop on `DistributedDataParallel` or `fully_shard`, and ours with
`Distributed`, in turn, in the same processes, so that both see the same noise. The hand-written loop shares
out each batch in the same way, and does forward, loss, backward, step and zero_grad. The figures are those
of rank 0: medians over the rounds, with the quartiles of the ratio. `defaults` adds what a learner has by
default without a bar: the check for NaN, the mean loss of the pass, and the history. The hand-written loop
compared with itself shows the noise.

The second table has, by number of ranks: milliseconds to join the group and to start a fit, microseconds of
a step and of the all-reduce of the gradients alone, milliseconds of a checkpoint, and the number of our own
collective operations per step, per pass and per fit.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from callbacks import Checkpoint, Distributed, Progress, ZeroGrad
from learner import Data, Learner
from learner.engine.composition import DEFAULT_CALLBACKS

N_STEPS, BATCH_SIZE, WIDTH = 200, 128, 512
QUIET = tuple(each for each in DEFAULT_CALLBACKS if each is not Progress)
multiprocessing.set_forkserver_preload(["torch", "callbacks", "learner"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(100, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
    )


def columns() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(N_STEPS * BATCH_SIZE, 100), torch.randint(10, (N_STEPS * BATCH_SIZE,))


def by_hand(kind: str) -> Callable[[], None]:
    """A hand-written loop; each rank takes its part of every batch."""
    model: nn.Module = network()
    if kind == "ddp":
        model = DistributedDataParallel(model)
    else:
        for each in (*model, model):  # type: ignore[misc]
            if each is model or isinstance(each, nn.Linear):
                fully_shard(each)
        model.set_reshard_after_forward(False, recurse=False)  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = columns()
    rank, size = dist.get_rank(), dist.get_world_size()

    def _run() -> None:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        for rows in order.split(BATCH_SIZE):
            own = rows.tensor_split(size)[rank]
            loss = F.cross_entropy(model(inputs[own]), targets[own])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return _run


def learner_of(*callbacks: Any, defaults: Any = QUIET, kind: Any = "ddp") -> Learner:
    data = Data.from_tensors(*columns(), BATCH_SIZE, valid=None, seed=0)
    optimizer = partial(torch.optim.SGD, lr=0.01)
    return Learner(
        network(), data, F.cross_entropy, optimizer, [Distributed(kind), *callbacks], defaults=defaults
    )


def seconds_per_step(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return (time.perf_counter() - begun) / N_STEPS


def epoch_of(learn: Learner) -> Callable[[], float]:
    """The seconds per step in the second epoch of a fit, without the start and end of the fit."""
    times: list[float] = []
    original = learn.loop.train

    def _timed(learn: Any) -> None:
        times.append(seconds_per_step(partial(original, learn)))

    learn.loop.train = _timed  # type: ignore[method-assign]

    def _run() -> float:
        learn.fit(
            2
        )  # the first epoch makes the buckets of gradients, as the warm-up of the loop by hand does
        return times.pop()

    return _run


def compare(n_rounds: int, kind: str) -> dict[str, list[float]]:
    """The seconds per step of each loop in each round."""
    first, second = by_hand(kind), by_hand(kind)
    timed = {
        "by hand": partial(seconds_per_step, first),
        "by hand, again": partial(seconds_per_step, second),
        "ours": epoch_of(learner_of(defaults=(ZeroGrad,), kind=kind)),
        "defaults": epoch_of(learner_of(kind=kind)),
    }
    found: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(n_rounds + 1):
        for name, run in timed.items():
            dist.barrier()
            value = run()
            if number:  # the first round warms up
                found[name].append(value)
    return found


COLLECTIVES = ("all_reduce", "broadcast", "all_gather_object", "broadcast_object_list", "all_to_all_single")


def counted(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    """The function, whose calls are counted."""

    @wraps(function)
    def _counted(*arguments: Any, **more: Any) -> Any:
        counts[name] += 1
        return function(*arguments, **more)

    return _counted


def scale() -> dict[str, float]:
    """What grows with the number of ranks."""
    counts: Counter[str] = Counter()
    for name in COLLECTIVES:
        setattr(dist, name, counted(getattr(dist, name), name, counts))
    learn = learner_of()
    begun = time.perf_counter()
    learn.fit(1)
    fit = time.perf_counter() - begun
    one = Counter(counts)
    learn.fit(2)
    per_epoch = sum((counts - one - one).values())
    flat = torch.zeros(sum(each.numel() for each in learn.model.parameters()))
    dist.barrier()
    alone = [seconds_per_step(partial(dist.all_reduce, flat)) * N_STEPS for _ in range(20)]
    with tempfile.TemporaryDirectory() as folder:
        saving = learner_of(Checkpoint(Path(folder, "run"), every="1000 epochs"))
        times = []
        save = saving.save

        def _timed(*arguments: Any, **more: Any) -> Any:
            begun = time.perf_counter()
            found = save(*arguments, **more)
            times.append(time.perf_counter() - begun)
            return found

        saving.save = _timed  # type: ignore[method-assign]
        saving.fit(1)
    step = statistics.median(epoch_of(learn)() for _ in range(5))
    return {
        "first fit, ms": fit * 1e3,
        "step, us": step * 1e6,
        "all-reduce alone, us": statistics.median(alone) * 1e6,
        "checkpoint, ms": (times[0] if times else 0.0) * 1e3,
        "collectives per fit": float(sum(one.values())),
        "of these per epoch": float(per_epoch),
    }


def work(rank: int, size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call the function in one process; rank 0 writes what it returns."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    store = dist.FileStore(str(Path(folder, "store")), size)
    limit = timedelta(seconds=120)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    try:
        found = function(*arguments)
        if rank == 0:
            torch.save(found, Path(folder, "found.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def in_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        start_processes(work, (size, folder, function, arguments), nprocs=size, start_method="forkserver")
        return torch.load(Path(folder, "found.pt"), weights_only=False)


def main() -> None:
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    sizes = [int(each) for each in sys.argv[2:]] or [1, 2, 4, 8]
    print(f"torch {torch.__version__}, gloo, {os.cpu_count()} cores, 1 thread per rank, {n_rounds} rounds")
    for size, kind in [
        *((size, "ddp") for size in sizes[:3]),
        *((size, "fsdp") for size in sizes if size == 2),
    ]:
        found = in_ranks(size, compare, n_rounds if kind == "ddp" else min(n_rounds, 4), kind)
        base = found["by hand"]
        print(f"\n{size} ranks, {kind}, microseconds per step{'against by hand':>18}{'quartiles':>20}")
        for name, times in found.items():
            ratios = [one / other for one, other in zip(times, base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {name:<16}{statistics.median(times) * 1e6:10.0f}{middle:26.3f}{low:14.3f} {high:5.3f}")
    rows = {size: in_ranks(size, scale) for size in sizes}
    print(f"\n{'ranks':<24}{''.join(f'{size:>12}' for size in sizes)}")
    for name in next(iter(rows.values())):
        print(f"{name:<24}{''.join(f'{row[name]:12.1f}' for row in rows.values())}")


if __name__ == "__main__":
    main()
