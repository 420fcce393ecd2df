"""A fit that is one of several processes by accident is refused before it starts."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from callbacks import Callback, Checkpoint
from callbacks.distributed import rendezvous
from callbacks.distributed.distributed import Distributed
from learner.recipes.recipe import load_recipe
from learner.recipes.recipe_errors import Mistake
from learner.runs.running import run

RECIPE = """\
data: {use: article}
model: {use: "models.py:Quadratic"}
loss: mse
optimizer: {use: SGD, lr: 1e-5}
fit: {epochs: 1}
"""


@pytest.fixture
def slurm(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def group(monkeypatch):
    """A process group with this process only."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"tcp://localhost:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class ByHand(Callback):
    distributed = True


def test_a_fit_whose_processes_cannot_meet_is_refused_and_makes_no_folder(make_learner, tmp_path, slurm):
    learn = make_learner(callbacks=[Checkpoint(tmp_path / "run")])
    weight = learn.model.weight.clone()
    with pytest.raises(RuntimeError, match="RANK=0, WORLD_SIZE=2, MASTER_ADDR is missing"):
        learn.fit(1)
    assert not list(tmp_path.iterdir())
    assert torch.equal(learn.model.weight, weight)
    learn.validate()
    learn.predict(torch.ones(1, 1))


def test_a_process_that_starts_alone_names_the_missing_ones(make_learner, slurm, monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(rendezvous, "WAIT", 0.1)
    with pytest.raises(RuntimeError, match=r"rank 0 has waited 0.1 s for rank 1, .*unset RANK"):
        make_learner(callbacks=[Distributed()]).fit(1)


def test_a_recipe_whose_processes_cannot_meet_makes_no_folder(tmp_path, slurm):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "models.py").write_text(
        "from torch import nn\n\nclass Quadratic(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(1, 1)\n"
    )
    with pytest.raises(Mistake, match="MASTER_ADDR is missing"):
        run(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["learner", "fit"])
def test_a_callback_that_declares_itself_distributed_lets_the_fit_run(make_learner, slurm, where):
    learn = make_learner(callbacks=[ByHand()] if where == "learner" else [])
    learn.fit(1, callbacks=[ByHand()] if where == "fit" else [])
    assert learn.global_step == 3


@pytest.mark.parametrize("others", [{}, {"LOCAL_RANK": "1"}])
def test_a_world_of_several_without_a_rank_is_refused(make_learner, monkeypatch, others):
    for name, value in {"WORLD_SIZE": "8", **others}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="one of 8 processes"):
        make_learner().fit(1)


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"WORLD_SIZE": "many", "RANK": "0"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "1"},
        {"OMP_NUM_THREADS": "4", "LOCAL_RANK": "3"},
    ],
)
def test_other_variables_and_a_world_of_one_are_ignored(make_learner, monkeypatch, variables):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    learn = make_learner()
    learn.fit(1)
    assert learn.global_step == 3


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (nn.parallel.DistributedDataParallel, "DistributedDataParallel"),
        (lambda model: nn.Sequential(nn.parallel.DistributedDataParallel(model)), "DistributedDataParallel"),
        (fully_shard, "FSDPModule"),
    ],
)
def test_a_wrapped_model_without_a_distributed_callback_is_refused(make_learner, group, wrap, name):
    learn = make_learner(model=wrap(nn.Linear(1, 1)))
    with pytest.raises(RuntimeError, match=f"wrapped in {name}, and no callback distributes the fit"):
        learn.fit(1)


def test_a_wrapped_loss_is_refused_like_a_wrapped_model(make_learner, group):
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, preds, targets):
            return (self.scale * (preds - targets)).square().mean()

    learn = make_learner()
    learn.loss_func = nn.parallel.DistributedDataParallel(Learned())
    with pytest.raises(RuntimeError, match="the loss_func is wrapped in DistributedDataParallel"):
        learn.fit(1)


def test_data_parallel_and_a_group_of_one_process_are_allowed(make_learner, group):
    learn = make_learner(model=nn.DataParallel(nn.Linear(1, 1)))
    learn.fit(1)
    assert learn.global_step == 3
    assert "WORLD_SIZE" not in os.environ
