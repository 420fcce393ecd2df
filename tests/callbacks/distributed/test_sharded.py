"""`Distributed("fsdp")`: each process holds a part of every parameter."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from in_ranks import in_ranks
from torch import Tensor, nn

from callbacks.core.contract import LearnerWarning
from callbacks.distributed.distributed import Distributed
from callbacks.guard.stopping import EarlyStopping
from callbacks.save.checkpoint import Checkpoint
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.closures import ClosureStep
from callbacks.step.ema import EMA
from callbacks.step.gradient import GradientClip
from callbacks.step.precision import MixedPrecision
from callbacks.step.swa import SWA
from learner import Data, Learner
from learner.files import shard_files


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(17, 17), nn.LayerNorm(17)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.norm(torch.tanh(self.layer(inputs)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 17), Block(), Block(), nn.Linear(17, 3))


def learner_of(*callbacks: Any, optimizer: Any = torch.optim.AdamW) -> Learner:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(50, 5, generator=generator), torch.randint(3, (50,), generator=generator)
    data = Data.from_tensors(inputs, targets, 7, seed=3)
    return Learner(network(), data, nn.functional.cross_entropy, partial(optimizer, lr=0.01), list(callbacks))


def whole(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights."""
    found = model.named_parameters()
    return {name: getattr(each, "full_tensor", each.clone)().detach() for name, each in found}


def state_of(learn: Learner) -> tuple[dict[str, Tensor], list[Any]]:
    """The whole weights, and the losses."""
    return whole(learn.model), [(row["train_loss"], row["valid_loss"]) for row in learn.history]


MORE = {
    "nothing": list,
    "clip": lambda: [GradientClip(0.1)],
    "accumulation": lambda: [GradientAccumulation(4)],
    "ema": lambda: [EMA(0.9)],
    "swa": lambda: [SWA(0.3)],
    "early": lambda: [EarlyStopping("valid_loss", patience=1)],
}


def trained(more: str, n_epochs: int = 3, **settings: Any) -> Any:
    """What a rank ends with, or one process."""
    first = [Distributed("fsdp", **settings)] if torch.distributed.is_initialized() else []
    learn = learner_of(*first, *MORE[more]())
    learn.fit(n_epochs)
    inputs = torch.ones(2, 5)
    return *state_of(learn), learn.predict(inputs)


@pytest.mark.parametrize("more", MORE)
def test_ranks_end_with_the_weights_and_results_of_one_process(more: str) -> None:
    expected = trained(more)
    for weights, losses, preds in in_ranks(2, trained, more):
        for name, each in expected[0].items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=2e-6)
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(preds, expected[2], rtol=0, atol=1e-5)


def saved(folder: Path, kind: str | None, resume: Any = "never", more: str = "nothing") -> Any:
    """What a rank ends with that saves checkpoints; `kind` is None for one process."""
    first = [] if kind is None else [Distributed(kind)]
    learn = learner_of(
        *first, Checkpoint(folder, every="1 step", keep=None, best="valid_loss"), *MORE[more]()
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


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "fsdp"), (2, "fsdp")),
        ((2, "fsdp"), (0, None)),
        ((2, "fsdp"), (3, "ddp")),
        ((0, None), (2, "fsdp")),
    ],
)
def test_any_processes_resume_from_the_files_of_any(tmp_path: Path, before: Any, after: Any) -> None:
    more = "ema"
    expected = run(before[0], tmp_path / "whole", before[1], "never", more)[0]
    part = cut(tmp_path / "whole", 5, tmp_path / "part")
    for weights, losses in run(after[0], part, after[1], "must", more):
        for name, each in expected[0].items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=0 if before == after else 2e-6)
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected[1]), rtol=0, atol=1e-5)


def validated(n_valid: int) -> Any:
    """The results of validation data whose last batch has fewer items than there are ranks."""
    first = [Distributed("fsdp")] if torch.distributed.is_initialized() else []
    learn = learner_of(*first)
    inputs, targets = torch.ones(n_valid, 5), torch.zeros(n_valid, dtype=torch.long)
    batches = [(inputs[at : at + 3], targets[at : at + 3]) for at in range(0, n_valid, 3)]
    learn.data = Data(learn.data.train, batches)
    learn.fit(1)
    return learn.history[0]["valid_loss"]


def test_validation_data_that_cannot_be_shared_out_evenly_hangs_no_rank() -> None:
    assert in_ranks(3, validated, 7) == pytest.approx([validated(7)] * 3, rel=1e-5)


def refused(what: str) -> str:
    """The error of a fit that cannot be sharded."""
    optimizers = {"LBFGS": torch.optim.LBFGS, "Adafactor": torch.optim.Adafactor}
    callbacks = {"MixedPrecision": MixedPrecision("fp16"), "LBFGS": ClosureStep()}
    kept = [callbacks[what]] if what in callbacks else []
    learn = learner_of(Distributed("fsdp"), *kept, optimizer=optimizers.get(what, torch.optim.SGD))
    try:
        learn.fit(1)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("what", ["LBFGS", "Adafactor", "MixedPrecision"])
def test_what_cannot_be_sharded_is_refused_by_name(what: str) -> None:
    for message in in_ranks(2, refused, what):
        assert "Distributed('fsdp')" in message
        assert what in message


class Tied(nn.Module):
    """A model whose first and last layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)])
        self.blocks[2].weight = self.blocks[0].weight

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = torch.tanh(block(inputs))
        return inputs


def tied(**settings: Any) -> Any:
    first = [Distributed("fsdp", **settings)] if torch.distributed.is_initialized() else []
    torch.manual_seed(0)
    inputs = torch.randn(16, 5)
    data = Data.from_tensors(inputs, inputs, 4, valid=None, seed=0)
    learn = Learner(Tied(), data, nn.functional.mse_loss, torch.optim.SGD, first)
    learn.fit(1)
    return whole(learn.model), learn.model.blocks[2].weight is learn.model.blocks[0].weight


def test_tied_weights_stay_tied() -> None:
    (expected, _), found = tied(), in_ranks(2, tied)
    for weights, is_tied in found:
        assert is_tied
        for name, each in expected.items():
            torch.testing.assert_close(weights[name], each, rtol=0, atol=1e-6)


def with_precision() -> Any:
    """The types of parameters and outputs, and the last loss."""
    learn = learner_of(Distributed("fsdp", precision="bf16", layers="Block"))
    learn.fit(1)
    kinds = {str(each.dtype) for each in learn.model.parameters()}
    return kinds, learn.history[0]["train_loss"]


def test_layers_run_in_another_precision() -> None:
    kinds, loss = in_ranks(2, with_precision)[0]
    assert kinds == {"torch.float32"}
    assert loss == pytest.approx(trained("nothing", 1)[1][0][0], rel=0.02)
    assert loss != pytest.approx(trained("nothing", 1)[1][0][0], rel=1e-6)


def test_a_sharded_checkpoint_is_read_without_other_processes(tmp_path: Path) -> None:
    expected = in_ranks(2, saved, tmp_path / "run", "fsdp")[0]
    newest = max((tmp_path / "run").glob("step-*.pt"))
    assert len(list((tmp_path / "run").glob("*.shards"))) == len(list((tmp_path / "run").glob("step-*.pt")))
    learn = learner_of(Checkpoint(tmp_path / "run"))
    learn.load(newest)
    for name, each in whole(learn.model).items():
        torch.testing.assert_close(each, expected[0][name], rtol=0, atol=0)
    learn.load_best(tmp_path / "run")


def test_a_damaged_folder_is_noticed_and_the_checkpoint_before_it_is_used(tmp_path: Path) -> None:
    in_ranks(2, saved, tmp_path / "run", "fsdp")
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


def ending_without_space(folder: Path) -> str:
    """The error of a rank, where rank 1 cannot write large files."""
    learn = learner_of(Distributed("fsdp"), Checkpoint(folder, every="1 step"))
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


def test_every_rank_ends_if_the_disk_of_one_is_full(tmp_path: Path) -> None:
    for message in in_ranks(2, ending_without_space, tmp_path / "run"):
        assert "rank 1 could not write" in message
    assert not list((tmp_path / "run").glob("*.shards*"))
