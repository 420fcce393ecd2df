"""Checkpoints of several processes: one file, from which any number of processes resumes."""

from __future__ import annotations

import resource
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks.in_ranks import in_ranks
from torch import Tensor, nn

from callbacks.distributed.distributed import Distributed
from callbacks.save.checkpoint import Checkpoint
from callbacks.step.accumulation import GradientAccumulation
from learner import Data, Learner


def network(dropout: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))


def learner_of(folder: Any, *callbacks: Any, dropout: float = 0.0, **settings: Any) -> Learner:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(50, 5, generator=generator), torch.randint(3, (50,), generator=generator)
    data = Data.from_tensors(inputs, targets, 8, seed=3)
    settings = {"every": "1 step", "keep": None, "best": "valid_loss", **settings}
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    return Learner(
        network(dropout),
        data,
        nn.functional.cross_entropy,
        optimizer,
        [Checkpoint(folder, **settings), *callbacks],
    )


def state_of(learn: Learner) -> tuple[dict[str, Tensor], list[Any]]:
    """The weights and the training losses."""
    weights = {name: each.detach().clone() for name, each in learn.model.named_parameters()}
    return weights, [row["train_loss"] for row in learn.history]


def trained(folder: Any, resume: Any = "never", n_batches: int = 1, **settings: Any) -> Any:
    """What one rank ends with."""
    more = [GradientAccumulation(n_batches)] if n_batches > 1 else []
    learn = learner_of(folder, Distributed(), *more, **settings)
    learn.fit(2, resume=resume)
    return state_of(learn)


def alone(folder: Any, resume: Any = "never", **settings: Any) -> Any:
    """What one process ends with."""
    learn = learner_of(folder, **settings)
    learn.fit(2, resume=resume)
    return state_of(learn)


def cut(folder: Path, step: int, target: Path) -> Path:
    """A folder as a run leaves it that is killed after this step."""
    target.mkdir()
    shutil.copy(folder / f"step-{step:09}.pt", target)
    return target


def assert_same(found: Any, expected: Any, **tolerance: float) -> None:
    for name, each in expected[0].items():
        torch.testing.assert_close(found[0][name], each, **{"rtol": 0, "atol": 0, **tolerance})
    assert found[1] == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize(("n_batches", "asynchronous"), [(1, False), (2, True)])
def test_the_same_number_of_ranks_resumes_with_the_same_bits(
    tmp_path: Path, n_batches: int, asynchronous: bool
) -> None:
    settings = {"dropout": 0.5, "n_batches": n_batches, "asynchronous": asynchronous}
    expected = in_ranks(2, partial(trained, tmp_path / "whole", **settings))
    files = sorted(path.name for path in (tmp_path / "whole").glob("step-*.pt"))
    step = int(files[1][5:-3])
    found = in_ranks(
        2, partial(trained, cut(tmp_path / "whole", step, tmp_path / "part"), "must", **settings)
    )
    for rank in range(2):
        assert_same(found[rank], expected[rank])


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 1), (1, 4), (2, 3)])
def test_another_number_of_ranks_continues_with_the_next_item(
    tmp_path: Path, before: int, after: int
) -> None:
    expected = alone(tmp_path / "alone")
    in_ranks(before, partial(trained, tmp_path / "whole")) if before > 1 else alone(tmp_path / "whole")
    part = cut(tmp_path / "whole", 3, tmp_path / "part")
    found = in_ranks(after, partial(trained, part, "must")) if after > 1 else [alone(part, "must")]
    for each in found:
        assert_same(each, expected, atol=1e-6)


def ending(train: Any) -> str:
    """The error that a rank ends with."""
    try:
        train()
    except Exception as error:  # noqa: BLE001 - the test compares its text
        return f"{type(error).__name__}: {error}"
    return ""


def ending_without_space(folder: Path, asynchronous: bool) -> str:
    """The same, if rank 0 cannot write large files."""
    learn = learner_of(folder, Distributed(), asynchronous=asynchronous)
    learn.model = nn.Sequential(nn.Linear(5, 20_000), nn.Linear(20_000, 3))
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if dist.get_rank() == 0 else -1, -1))
    found = ending(lambda: learn.fit(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    return found


def test_every_rank_ends_if_the_folder_has_a_run(tmp_path: Path) -> None:
    alone(tmp_path / "run")
    first, second = in_ranks(2, partial(ending, partial(trained, tmp_path / "run")))
    assert first.startswith("FileExistsError")
    assert "rank 0 failed" in second
    assert "contains a run already" in second


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_rank_ends_if_the_disk_of_the_first_is_full(tmp_path: Path, asynchronous: bool) -> None:
    first, second = in_ranks(2, ending_without_space, tmp_path / "run", asynchronous)
    assert "File too large" in first
    assert "rank 0 failed" in second
    assert "File too large" in second


def resumed_elsewhere(folder: Path) -> Any:
    """The end state of a rank whose folder is not that of rank 0."""
    return trained(folder / str(dist.get_rank()), "must")


def test_a_rank_that_does_not_see_the_file_gets_it_from_the_first(tmp_path: Path) -> None:
    expected = in_ranks(2, partial(trained, tmp_path / "whole"))
    cut(tmp_path / "whole", 3, tmp_path / "0")
    for found, same in zip(in_ranks(2, partial(resumed_elsewhere, tmp_path)), expected, strict=True):
        assert_same(found, same)


def saved_at(folder: Path) -> list[str]:
    """The files that are written at an interval in seconds, in a rank with another clock than rank 0."""
    if dist.get_rank():
        time.monotonic = lambda: 0.0
    trained(folder, every="0.02 seconds")
    return sorted(path.name for path in folder.glob("step-*.pt"))


def test_an_interval_in_seconds_is_due_on_all_ranks_at_once(tmp_path: Path) -> None:
    first, second = in_ranks(2, partial(saved_at, tmp_path / "run"))
    assert first == second
    assert len(first) > 2
