"""Whole fits on the GPU: batches from the host, memory, files, searches, data on the device, predictions."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from beside.works import Quadratic, article_items, mlp, pictures
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, Checkpoint, DevicePlacement, LeanStep, WholeStep, ZeroGrad
from learner import Data, Learner
from on_gpu.works import Row, Setting, Work, compared, learner, measured, ours, plain, works


class Slow:
    """Batches on the host; making each one takes some time.

    Args:
        n_batches: how many.
        batch: of tensors; a copy of them is returned each time, in pinned memory or not.
        seconds: the time that a batch takes.
        device: where to copy a batch, without waiting; None to leave it on the host.
    """

    def __init__(self, n_batches: int, batch: Any, seconds: float, device: Any = None, *, is_pinned: bool):
        self.n_batches, self.seconds, self.device = n_batches, seconds, device
        self.batch = [each.pin_memory() if is_pinned else each for each in batch]

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.n_batches):
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                pass
            if self.device is None:
                yield tuple(self.batch)
            else:
                yield tuple(each.to(self.device, non_blocking=True) for each in self.batch)


def prefetch(setting: Setting) -> Iterator[Row]:
    """A loader that takes half as long as a step, for large and small batches, compared with no loader."""
    width, n_steps = setting.size(3 * 128 * 128, 8), setting.size(40, 3)
    large = torch.randn(setting.size(256, 2), width), torch.randint(10, (setting.size(256, 2),))
    small = tuple(each[:64] for each in pictures(64))
    wide = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(width, setting.size(4096, 8)), nn.ReLU(), nn.Linear(setting.size(4096, 8), 10)
    )
    kinds = (
        ("50 MB batches", large, wide),
        ("0.2 MB batches", small, mlp),
        ("160 B", article_items(), Quadratic),
    )
    for title, batch, make_model in kinds:
        there = [tuple(each.to(setting.device) for each in batch)] * n_steps
        loss_func = F.mse_loss if make_model is Quadratic else F.cross_entropy
        work = Work(title, make_model, there, loss_func, partial(torch.optim.SGD, lr=1e-5))
        base = plain(setting, work)
        base()
        slow = partial(Slow, n_steps, batch, base() / n_steps / 2)
        makers: dict[str, Callable[[], Any]] = {}
        is_cuda = setting.device.type == "cuda"
        for is_pinned in (False, True) if is_cuda else (False,):
            memory = "pinned" if is_pinned else "ordinary"
            makers[f"plain loop, {memory} memory"] = partial(
                plain, setting, work, batches=slow(setting.device, is_pinned=is_pinned)
            )
        for is_sent in (False, True):
            place = DevicePlacement(setting.device, prefetch=is_sent)
            data = Data(slow(is_pinned=False))
            makers[f"DevicePlacement(prefetch={is_sent})"] = partial(
                ours, setting, work, ZeroGrad(), place, data=data, defaults=()
            )
        for name, make in makers.items():
            yield measured(f"{title}: {name}", partial(turns, setting, base, make, n_steps), setting)


def turns(setting: Setting, base: Any, make: Any, n_steps: int) -> str:
    """Compare what `make` returns."""
    return compared(setting, base, make(), setting.seconds / 12, n_steps)


def memory(setting: Setting) -> Iterator[Row]:
    """The peak of memory on the device in an epoch."""
    setting.need_cuda()
    work = next(work for work in works(setting) if work.is_mixed)
    whole = partial(WholeStep, "eager" if setting.is_tiny else "inductor")
    makers: dict[str, Callable[[], Any]] = {
        "plain loop": partial(plain, setting, work),
        "the defaults": partial(ours, setting, work),
        "LeanStep": partial(ours, setting, work, LeanStep(), defaults=()),
        "WholeStep": partial(ours, setting, work, whole(), defaults=()),
        "WholeStep(graphs=True)": partial(
            ours, setting, work, whole(graphs=not setting.is_tiny), defaults=()
        ),
    }
    for name, make in makers.items():
        yield measured(f"{work.title}: {name}", partial(peak_of, make), setting)


def peak_of(make: Callable[[], Any]) -> str:
    """The peak of a second fit."""
    run = make()
    run()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return f"{torch.cuda.max_memory_allocated() / 2**20:.1f} MiB"


class Kill(Callback):
    """Ends a fit with an error after some steps."""

    def __init__(self, n_steps: int):
        super().__init__()
        self.n_steps = n_steps

    def after_step(self, learn: Any) -> None:
        if learn.global_step == self.n_steps:
            raise RuntimeError("killed")


def resume(setting: Setting) -> Iterator[Row]:
    """Do two fits, and one that was killed and resumed, end with the same bits? The model has dropout."""
    yield measured("MLP with dropout, AdamW: a second fit", partial(compare_fits, setting, 0), setting)
    yield measured("the same, killed and resumed", partial(compare_fits, setting, 5), setting)


def compare_fits(setting: Setting, n_steps: int) -> str:
    """Compare the weights of two fits; the second is killed after some steps, and resumed."""

    def fit(folder: Path, *callbacks: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
        data = Data.from_tensors(*pictures(48), batch_size=8, seed=0, valid=0.25)
        save, place = Checkpoint(folder, every="1 step"), DevicePlacement(setting.device)
        adamw = partial(torch.optim.AdamW, lr=1e-3)
        learn = Learner(model, data, F.cross_entropy, adamw, [save, place, *callbacks])
        with contextlib.redirect_stdout(io.StringIO()):
            learn.fit(3, resume="auto")
        return [each.cpu() for each in learn.model.state_dict().values()]

    with tempfile.TemporaryDirectory() as folder:
        expected = fit(Path(folder) / "whole")
        if n_steps:
            with contextlib.suppress(RuntimeError):
                fit(Path(folder) / "killed", Kill(n_steps))
        found = fit(Path(folder) / "killed")
    return "the same bits" if all(map(torch.equal, expected, found)) else "other bits"


def tensors(setting: Setting) -> Iterator[Row]:
    """Fits of many epochs on tensors that are on the device, compared with a plain loop that indexes them."""
    n_items = setting.size(60_000, 40)
    items = tuple(each.to(setting.device) for each in pictures(n_items))
    for n_batches in (setting.size(100, 4), 1):
        size = n_items // n_batches
        work = Work("MLP", mlp, [], F.cross_entropy, partial(torch.optim.SGD, lr=0.01))
        base = plain(setting, work, batches=Indexed(items, size))
        data = Data.from_tensors(*items, batch_size=size, valid=None, seed=0)
        for name, options in (("ZeroGrad only", {"defaults": (ZeroGrad,)}), ("the defaults", {})):
            yield measured(
                f"MLP from tensors, epochs of {n_batches}: {name}",
                partial(turns, setting, base, partial(ours, setting, work, data=data, **options), n_batches),
                setting,
            )


class Indexed:
    """Shuffled batches of tensors, as a loop by hand takes them."""

    def __init__(self, items: Any, size: int):
        self.items, self.size = items, size

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self.items[0]), device=self.items[0].device)
        for rows in order.split(self.size):
            yield tuple(each[rows] for each in self.items)


def lr_find(setting: Setting) -> Iterator[Row]:
    """The search for a learning rate."""
    yield measured("the article's fit", partial(search, setting), setting)


def search(setting: Setting) -> str:
    """The suggestion of the search, and its time."""
    learn, begun = learner(setting, list(works(setting))[-1]), setting.now()
    with contextlib.redirect_stdout(io.StringIO()):
        found = learn.lr_find(n_steps=setting.size(100, 20))
    return f"{found!r}, {setting.now() - begun:.1f} s"[:300].replace("\n", " ")


def cost(setting: Setting) -> Iterator[Row]:
    """The report of `learn.cost()`: the step compared with a bare loop, and the numbers read per step."""
    for work in list(works(setting))[: setting.size(2, 1)]:
        yield measured(f"{work.title}: learn.cost()", partial(cost_of, setting, work), setting)


def cost_of(setting: Setting, work: Work) -> str:
    """The step, the bare loop's, and the numbers that are read per step."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = learner(setting, work).cost(20)
    bare = f"{found.over_bare:.3f} of a bare loop" if found.over_bare else f"{found.why_not_bare}"
    return f"{1e6 * found.step:.1f} us, {bare}, waits {found.device_waits}"


def predictions(setting: Setting) -> Iterator[Row]:
    """`get_preds` compared with a loop that writes into one tensor on the host."""
    n_items, size = setting.size(500_000, 64), setting.size(1000, 16)
    inputs, targets = pictures(n_items)
    data = Data.from_tensors(inputs, targets, size, valid=None, shuffle=False)
    work = Work("MLP", mlp, [], F.cross_entropy, partial(torch.optim.SGD, lr=0.01))
    learn = learner(setting, work, DevicePlacement(setting.device), data=data)
    model = work.model(setting.device)

    def by_hand() -> float:
        begun, found = setting.now(), torch.empty(n_items, 10)
        with torch.no_grad():
            for number, rows in enumerate(inputs.split(size)):
                found[number * size : number * size + len(rows)] = model(rows.to(setting.device)).cpu()
        return setting.now() - begun

    def get_preds() -> float:
        begun = setting.now()
        learn.get_preds(data.train)
        return setting.now() - begun

    yield measured(
        f"get_preds of {n_items} rows",
        partial(turns, setting, by_hand, lambda: get_preds, n_items // size),
        setting,
    )
