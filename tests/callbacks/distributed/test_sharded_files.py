"""Checkpoints of sharded models: written in parts, and read by any number of processes."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from ranks.sharded_models import learner_of, state_of, whole
from torch import nn

from callbacks.core.contract import LearnerWarning
from callbacks.distributed.distributed import Distributed
from callbacks.save.checkpoint import Checkpoint
from callbacks.step.ema import EMA
from learner import open_run
from learner.cli.commands import main
from learner.files import shard_files
from learner.resume import loading


def saved(folder: Path, kind: str | None, resume: Any = "never", more: str = "nothing") -> Any:
    """What a rank ends with that saves checkpoints; `kind` is None for one process."""
    first = [] if kind is None else [Distributed(kind)]
    learn = learner_of(
        *first,
        Checkpoint(folder, every="2 steps", keep=None, best="valid_loss"),
        *([EMA(0.9)] if more == "ema" else []),
    )
    learn.fit(2, resume=resume)
    found = state_of(learn)
    if kind != "ddp":  # whose processes do not wait for the first one here
        learn.save(folder / "last.pt")
        learn.load(folder / "last.pt")
    return found


def cut(folder: Path, step: int, target: Path) -> Path:
    """A folder as a run leaves it that is killed after this step."""
    target.mkdir()
    for each in folder.glob(f"step-{step:09}*"):
        assert not each.name.endswith(".tmp")
        copy = shutil.copytree if each.is_dir() else shutil.copy
        copy(each, target / each.name)
    return target


def run(size: int, *arguments: Any) -> list[Any]:
    """What each rank ends with; of size 0, what one process does."""
    return in_ranks(size, saved, *arguments) if size else [saved(*arguments)]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, list[Any]]]:
    """The folder of a whole run, which no test changes, and what each rank ends with; a run is made once."""

    @cache
    def made(size: int, kind: str | None, more: str) -> tuple[Path, list[Any]]:
        folder = tmp_path_factory.mktemp("whole")
        return folder, run(size, folder, kind, "never", more)

    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "fsdp"), (2, "fsdp")),
        ((2, "fsdp"), (0, None)),
        ((2, "fsdp"), (3, "ddp")),
        ((2, "ddp"), (3, "fsdp")),
        ((0, None), (2, "fsdp")),
    ],
)
def test_any_processes_resume_from_the_files_of_any(
    tmp_path: Path, whole_run: Any, before: Any, after: Any
) -> None:
    folder, (expected, *_) = whole_run(*before, "ema")
    part = cut(folder, 4, tmp_path / "part")
    for weights, losses in run(after[0], part, after[1], "must", "ema"):
        for name, each in expected[0].items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=0 if before == after else 2e-6)
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected[1]), rtol=0, atol=1e-5)


def test_a_sharded_checkpoint_is_read_without_other_processes(whole_run: Any) -> None:
    folder, (expected, _) = whole_run(2, "fsdp", "nothing")
    newest = max(folder.glob("step-*.pt"))
    assert len(list(folder.glob("*.shards"))) == len(list(folder.glob("step-*.pt")))
    learn = learner_of(Checkpoint(folder))
    learn.load(newest)
    for name, each in whole(learn.model).items():
        torch.testing.assert_close(each, expected[0][name], rtol=0, atol=0)
    learn.load_best(folder)


def test_a_damaged_folder_is_noticed_and_the_checkpoint_before_it_is_used(
    tmp_path: Path, whole_run: Any
) -> None:
    shutil.copytree(whole_run(2, "fsdp", "nothing")[0], tmp_path / "run")
    newest, before = sorted((tmp_path / "run").glob("step-*.pt"), reverse=True)[:2]
    part = next((tmp_path / "run").glob(f"{newest.stem}-*.shards")) / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is not what was written"):
        learner_of(Checkpoint(tmp_path / "run")).load(newest)
    with pytest.warns(LearnerWarning, match=f"{newest.name}.*Resuming from {before.name}"):
        saved(tmp_path / "run", None, "must")


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


def test_no_code_in_a_sharded_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".metadata").write_bytes(pickle.dumps(Code()))
    with pytest.raises(ValueError, match="nothing was run"):
        shard_files.read(tmp_path)
    assert not Path("was-run").exists()


def loaded_without_base(folder: Path) -> Any:
    """The weights of a rank that loads the trained ones alone."""
    learn = learner_of(Distributed("fsdp"), Checkpoint(folder, best="valid_loss", trainable_only=True))
    learn.model[0].requires_grad_(False)
    learn.fit(2)
    learn.load_best(folder)
    found = whole(learn.model)
    with torch.no_grad():
        learn.model[0].bias.add_(1)
    with pytest.raises(ValueError, match="the base model is a different one"):
        learn.load_best(folder)
    return found


def test_a_sharded_model_loads_a_file_without_its_base(tmp_path: Path) -> None:
    found = in_ranks(2, loaded_without_base, tmp_path / "run")[0]
    best = torch.load(tmp_path / "run" / "best.pt")["model"]
    assert set(best) == set(found) - {"0.weight", "0.bias"}
    assert all(torch.equal(each, found[name]) for name, each in best.items())


def saved_by_threads(folder: Path) -> Any:
    """What a rank ends with whose files are written while it trains."""
    learn = learner_of(
        Distributed("fsdp"),
        Checkpoint(folder, every="2 steps", keep=None, best="valid_loss", asynchronous=True),
        EMA(0.9),
    )
    learn.fit(2)
    return state_of(learn)


def test_threads_write_the_files_that_a_waiting_run_writes(tmp_path: Path, whole_run: Any) -> None:
    folder, (waiting, _) = whole_run(2, "fsdp", "ema")
    ended = in_ranks(2, saved_by_threads, tmp_path / "threads")[0]
    assert ended[1] == waiting[1]
    names = {each.name for each in folder.glob("*-*.pt")}
    assert {each.name for each in (tmp_path / "threads").glob("*-*.pt")} == names
    assert not list((tmp_path / "threads").glob("*.tmp"))
    for name in names:
        found = [loading.read(each / name) for each in (folder, tmp_path / "threads")]
        for each in found:
            each["ema"] = each["callbacks"]["ema"]  # without those with clocks
        for piece in ("model", "optimizer", "ema", "gradients"):
            torch.testing.assert_close(*(each[piece] for each in found), rtol=0, atol=0)


def ending_without_space(folder: Path, asynchronous: bool) -> str:
    """The error of a rank, where rank 1 cannot write large files."""
    learn = learner_of(Distributed("fsdp"), Checkpoint(folder, every="1 step", asynchronous=asynchronous))
    learn.model = nn.Sequential(nn.Linear(5, 20_000), nn.Linear(20_000, 3))
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if torch.distributed.get_rank() else -1, -1))
    try:
        learn.fit(1)
    except OSError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    return ""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_rank_ends_if_the_disk_of_one_is_full(tmp_path: Path, asynchronous: bool) -> None:
    for message in in_ranks(2, ending_without_space, tmp_path / "run", asynchronous):
        assert "rank 1 could not write" in message
    assert not list((tmp_path / "run").glob("*.shards*"))


def ran(folder: Path) -> None:
    """What a rank does that runs a recipe."""
    os.chdir(folder)
    main(["run", str(folder / "recipe.yaml")])


RECIPE = """
model: {use: "parts.py:model"}
data: {use: "parts.py:data"}
loss: mse_loss
optimizer: {use: SGD, lr: 0.01}
callbacks: {Distributed: {kind: fsdp}, Checkpoint: {folder: files, best: valid_loss}}
fit: {epochs: 1}
"""
PARTS = """
import torch
from torch import nn
from learner import Data

model = lambda: nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1))
data = lambda: Data.from_tensors(torch.ones(32, 8), torch.ones(32, 1), batch_size=8, seed=0)
"""


def test_a_sharded_run_of_a_recipe_is_opened_without_other_processes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "parts.py").write_text(PARTS)
    in_ranks(2, ran, tmp_path)
    folder = next((tmp_path / "runs").iterdir())
    final, best, last = (
        whole(open_run(folder, weights).model) for weights in ("final", "best", "checkpoint")
    )
    for name, each in final.items():
        assert torch.equal(each, best[name])
        assert torch.equal(each, last[name])
