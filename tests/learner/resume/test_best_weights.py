"""`learn.load_best()`: after a fit, after a resume, in a new learner, for a loss with parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from callbacks import EMA, Checkpoint
from learner import Data
from learner.learner import Learner


class Scaled(nn.Module):
    """A loss with a parameter and a running buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        return (self.scale * preds - targets).square().mean()


def make(
    folder: Path, *callbacks, best: str | None = "valid_loss", loss=nn.functional.mse_loss, lr=0.4
) -> Learner:
    torch.manual_seed(0)
    inputs = torch.linspace(-1, 1, 24).reshape(12, 2)
    data = Data.from_tensors(inputs, inputs.sum(1, keepdim=True), batch_size=3, valid=0.25, seed=0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    parts = [Checkpoint(folder, best=best), *callbacks]
    return Learner(model, data, loss, partial(torch.optim.SGD, lr=lr), callbacks=parts)


def test_the_best_weights_are_loaded_after_a_fit_and_in_a_new_learner(tmp_path):
    learn = make(tmp_path)
    learn.fit(4)
    best = min(learn.history["valid_loss"])
    assert learn.history[-1]["valid_loss"] > best
    learn.load_best()
    assert learn.validate()["valid_loss"] == best
    other = make(tmp_path / "another")
    assert other.load_best(tmp_path) == tmp_path / "best.pt"
    assert other.validate()["valid_loss"] == best
    assert (other.global_step, len(other.history)) == (0, 0)


def test_the_best_weights_are_loaded_after_a_resume(tmp_path):
    make(tmp_path).fit(2)
    learn = make(tmp_path)
    learn.fit(4, resume="must", allow=())
    learn.load_best()
    assert learn.validate()["valid_loss"] == min(learn.history["valid_loss"])


def test_the_parameters_of_the_loss_are_loaded_too(tmp_path):
    learn = make(tmp_path, loss=Scaled(), lr=0.2)
    learn.fit(4)
    learn.load_best()
    assert learn.validate()["valid_loss"] == min(learn.history["valid_loss"])


def test_averaged_weights_that_were_measured_are_those_that_are_loaded(tmp_path):
    learn = make(tmp_path, EMA(0.5, at_end="weights"))
    learn.fit(4)
    learn.load_best()
    assert learn.validate()["valid_loss"] == pytest.approx(min(learn.history["valid_loss"]), rel=1e-6)


def test_files_of_earlier_versions_have_no_stable_name_and_are_found(tmp_path):
    make(tmp_path).fit(2)
    (tmp_path / "best.pt").unlink()
    assert make(tmp_path / "other").load_best(tmp_path).name.startswith("best-0")


def test_without_best_weights_the_error_shows_how_to_keep_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no best\.safetensors or best\.pt"):
        make(tmp_path, best=None).load_best()
    learn = make(tmp_path)
    learn.remove_callbacks(Checkpoint)
    with pytest.raises(FileNotFoundError, match=r"Add Checkpoint\('runs/first', best='valid_loss'\)"):
        learn.load_best()
    learn.fit(1, callbacks=[Checkpoint(tmp_path / "own", best="valid_loss")])
    with pytest.raises(FileNotFoundError, match="used by that fit only"):
        learn.load_best()
    assert learn.load_best(tmp_path / "own").parent == tmp_path / "own"


def test_the_best_weights_of_another_model_are_refused(tmp_path):
    learn, other = make(tmp_path), make(tmp_path / "other")
    learn.fit(1)
    other.model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="another run"):
        other.load_best(tmp_path)
