"""Each rank reads its own part of a stream, and the parts differ in length."""

from __future__ import annotations

import random
import shutil
import warnings
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks.in_ranks import in_ranks
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callbacks import (
    EMA,
    RMSE,
    Callback,
    CancelBatch,
    Checkpoint,
    Distributed,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    StopOnNaN,
    ValidateEvery,
)
from learner import Data, Learner
from learner.files import checkpoint_file

SIZES = {2: (9, 22), 3: (14, 0, 5)}  # items of each rank
BATCH = 4


def items_of(rank: int, n_items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(n_items, 3, generator=generator), torch.randn(n_items, 1, generator=generator)


class Part(IterableDataset):
    """The items of this rank."""

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes

    def __iter__(self) -> Any:
        rank = dist.get_rank()
        return zip(*items_of(rank, self.sizes[rank]), strict=True)


def batches_of(rank: int, n_items: int) -> list[tuple[Tensor, ...]]:
    """The batches of a rank, as a list."""
    columns = [column.split(BATCH) for column in items_of(rank, n_items)]
    return list(zip(*columns, strict=True)) if n_items else []


def joined(sizes: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """For each step, the batches of all ranks that have one, joined into one."""
    steps = zip_longest(*(batches_of(rank, n_items) for rank, n_items in enumerate(sizes)))
    found = [[batch for batch in step if batch is not None] for step in steps]
    return [tuple(torch.cat(each) for each in zip(*step, strict=True)) for step in found]


class CancelSecond(Callback):
    """Cancel the second batch of each pass, in all processes."""

    def before_batch(self, learn: Any) -> None:
        if learn.training and learn.batch_idx == 1:
            raise CancelBatch


CASES: dict[str, Any] = {
    "plain": list,
    "clipped, with a mean of weights": lambda: [GradientClip(0.5), EMA(0.9), StopOnNaN()],
    "accumulated": lambda: [GradientAccumulation(3)],
    "a cancelled batch": lambda: [CancelSecond()],
    "in lists, accumulated": lambda: [GradientAccumulation(4)],
    "validated often": lambda: [ValidateEvery("2 steps")],
    "stopped early": lambda: [EarlyStopping(patience=1, min_delta=10.0)],
}


def learner_of(train: Any, valid: Any, *callbacks: Any, model: Any = None) -> Learner:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
    return Learner(model, Data(train, valid), nn.functional.mse_loss, optimizer, list(callbacks), RMSE())


def found_in(learn: Learner) -> dict[str, Any]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in learn.history]
    weights = torch.cat([each.detach().flatten() for each in learn.model.parameters()]).tolist()
    return {
        "weights": weights,
        "rows": [list(row.values()) for row in rows],
        "clock": (learn.global_step, learn.n_samples, learn.epoch),
        "losses": list(learn.history.steps["train_loss"]),
        "validations": [[*each.values()] for each in learn.history.validations],
    }


def on_ranks(sizes: tuple[int, ...]) -> dict[str, Any]:
    found = {}
    for name, make in CASES.items():
        loader: Any = DataLoader(Part(sizes), BATCH)
        if name.startswith("in lists"):
            loader = batches_of(dist.get_rank(), sizes[dist.get_rank()])
        learn = learner_of(loader, loader, Distributed(sharded=True), *make())
        learn.fit(3)
        found[name] = found_in(learn)
    return found


class Counter(nn.Linear):
    """Counts the items of its training batches in a buffer."""

    def __init__(self) -> None:
        super().__init__(3, 1)
        self.register_buffer("n_items", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.n_items += len(inputs)
        return super().forward(inputs)


def counted(sizes: tuple[int, ...]) -> float:
    learn = learner_of(DataLoader(Part(sizes), BATCH), None, Distributed(sharded=True), model=Counter())
    learn.fit(2)
    return learn.model.n_items.item()


def test_batches_that_do_not_count_leave_the_buffers_as_they_are() -> None:
    n_items = min(SIZES[2])  # of rank 0, whose buffers torch sends to all ranks
    assert in_ranks(2, counted, SIZES[2]) == [2.0 * n_items] * 2


@pytest.fixture(scope="module", params=SIZES)
def ranks(request) -> Any:
    sizes = SIZES[request.param]
    return sizes, in_ranks(request.param, on_ranks, sizes)


@pytest.mark.parametrize("name", CASES)
def test_all_items_of_unequal_streams_count_as_in_one_process(name, ranks) -> None:
    sizes, found = ranks
    learn = learner_of(joined(sizes), joined(sizes), *CASES[name]())
    learn.fit(3)
    expected = found_in(learn)
    for each in found:
        for key, value in expected.items():
            assert flat(each[name][key]) == pytest.approx(flat(value), abs=1e-5), key


def flat(numbers: Any) -> list[float]:
    """The numbers in lists of lists."""
    return [n for each in numbers for n in flat(each)] if isinstance(numbers, (list, tuple)) else [numbers]


# Without a message in each batch, after an interruption, and with decisions of some ranks


class CancelsAlone(Callback):
    """Cancel a batch on the last rank, where other ranks may have no batch."""

    def before_batch(self, learn: Any) -> None:
        if learn.training and learn.ranks.rank == learn.ranks.size - 1 and learn.batch_idx in (1, 5):
            raise CancelBatch


class StopsAlone(Callback):
    """Stop the fit on a rank that has no batch."""

    def after_batch(self, learn: Any) -> None:
        if learn.training and learn.ranks.n_here == 0 and learn.epoch == 1:
            learn.stop("no more data")


def decided(sizes: tuple[int, ...]) -> Any:
    found = []
    windows = (), (GradientAccumulation(2),), (GradientAccumulation(n_samples=20),)
    for callbacks in (*((*each, CancelsAlone()) for each in windows), (StopsAlone(),)):
        learn = learner_of(DataLoader(Part(sizes), BATCH), None, Distributed(sharded=True), *callbacks)
        learn.fit(3)
        found.append(found_in(learn))
    return found


def test_decisions_of_some_ranks_are_those_of_all() -> None:
    first, second = in_ranks(2, decided, SIZES[2])
    assert first == second
    # without the batches that the last rank cancels; in the last one, the first rank has no items
    assert [each["clock"] for each in first] == [(15, 75, 2), (6, 63, 2), (3, 51, 2), (10, 56, 1)]


class Stateful(DataLoader):
    """A loader that saves its position."""

    n_done = 0

    def __iter__(self) -> Any:
        for n, batch in enumerate(super().__iter__()):
            if n >= self.n_done:
                self.n_done += 1
                yield batch
        self.n_done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"n_done": self.n_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_done = state["n_done"]


class Noisy(Part):
    """Items with noise from Python's generator, in an order of this rank."""

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__(sizes)
        self.order = random.Random(dist.get_rank())

    def __iter__(self) -> Any:
        items = list(super().__iter__())
        self.order.shuffle(items)
        return ((inputs + random.random(), targets) for inputs, targets in items)


def shuffled(sizes: tuple[int, ...]) -> DataLoader[Any]:
    """A loader over the items of this rank, with a generator of its own."""
    rank = dist.get_rank()
    dataset = TensorDataset(*items_of(rank, sizes[rank]))
    return DataLoader(dataset, BATCH, shuffle=True, generator=torch.Generator().manual_seed(rank))


KINDS = {
    "stream": lambda sizes: DataLoader(Part(sizes), BATCH),
    "stateful": lambda sizes: Stateful(Part(sizes), BATCH),
    "noisy": lambda sizes: DataLoader(Noisy(sizes), BATCH),
    "shuffled": shuffled,
}


def saved(folder: Path, kind: str, sizes: tuple[int, ...], resume: Any, *callbacks: Any) -> Any:
    checkpoint = Checkpoint(folder, every="2 steps", keep=None)
    random.seed(0)
    loader = KINDS[kind](sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn = learner_of(loader, None, Distributed(sharded=True), checkpoint, *callbacks)
        learn.fit(2, resume=resume)
    return found_in(learn)


def resumed(folder: Path, sizes: tuple[int, ...]) -> Any:
    """For each case: the whole run, and one that resumes where the first rank has no batch left."""
    found = []
    for kind in KINDS:
        callbacks = [GradientAccumulation(2)] if kind == "stream" else []
        whole, part = folder / kind, folder / f"{kind} part"
        found.append([saved(whole, kind, sizes, "never", *callbacks)])
        if dist.get_rank() == 0:
            part.mkdir()
            shutil.copy(whole / f"step-{2 if callbacks else 4:09}.pt", part)
        dist.barrier()
        found[-1].append(saved(part, kind, sizes, "must", *callbacks))
    return found


def test_a_run_resumes_where_a_rank_has_no_batch_left(tmp_path: Path) -> None:
    for rank in in_ranks(2, resumed, tmp_path, SIZES[2]):
        for whole, part in rank:
            assert {**part, "losses": []} == {**whole, "losses": []}


def sharded(sizes: tuple[int, ...]) -> Any:
    found = []
    for callbacks in ((), (GradientAccumulation(3),)):
        loaders = [DataLoader(Part(sizes), BATCH) for _ in range(2)]
        learn = learner_of(*loaders, Distributed("fsdp", sharded=True), *callbacks)
        learn.fit(2)
        weights = [each.full_tensor().flatten().tolist() for each in learn.model.parameters()]
        found.append([weights, [row["valid_loss"] for row in learn.history], learn.n_samples])
    return found


def test_with_sharded_layers_all_items_count_too() -> None:
    sizes = SIZES[3]
    expected = []
    for callbacks in ((), (GradientAccumulation(3),)):
        learn = learner_of(joined(sizes), joined(sizes), *callbacks)
        learn.fit(2)
        weights = [each.detach().flatten().tolist() for each in learn.model.parameters()]
        expected.append([weights, [row["valid_loss"] for row in learn.history], learn.n_samples])
    for rank in in_ranks(3, sharded, sizes):
        assert flat(rank) == pytest.approx(flat(expected), abs=1e-5)


def of_an_earlier_version(folder: Path, sizes: tuple[int, ...]) -> str:
    """The error of a file that has the position of the first rank only."""
    part = folder / "part"
    saved(folder / "whole", "stateful", sizes, "never")
    if dist.get_rank() == 0:
        part.mkdir()
        contents = checkpoint_file.read(folder / "whole" / "step-000000004.pt")
        del contents["kinds"], contents["of_ranks"]
        checkpoint_file.write(part / "step-000000004.pt", contents)
    dist.barrier()
    try:
        saved(part, "stateful", sizes, "must")
    except ValueError as error:
        return str(error)
    return ""


def test_a_file_without_the_positions_of_all_ranks_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for words in in_ranks(2, of_an_earlier_version, tmp_path, SIZES[2]):
        assert "Resume from a checkpoint that was saved after an epoch" in words
