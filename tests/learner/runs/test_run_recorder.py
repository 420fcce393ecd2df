"""The files that a run of a recipe keeps: `run.json`, the final weights and the best ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from learner.files import run_files
from learner.learner import Learner
from learner.recipes.recipe import load_recipe
from learner.recipes.recipe_errors import Mistake
from learner.runs.opening import open_run
from learner.runs.running import resume_run, run

RECIPE = """
recipe: a small net
seed: 0
data: {use: "parts.py:data"}
model: {use: "parts.py:Net"}
loss: mse
optimizer: {use: SGD, lr: 0.1}
callbacks:
  Progress: null
fit: {epochs: 4}
"""

CODE = """
import torch
import warnings
from torch import nn
from callbacks import Callback
from learner import Data

def data():
    inputs = torch.linspace(-1, 1, 24).reshape(12, 2)
    return Data.from_tensors(inputs, inputs.sum(1, keepdim=True), batch_size=3, valid=0.25, seed=0)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

class At(Callback):
    def __init__(self, what: str, epoch: int = 1):
        super().__init__()
        self.what, self.epoch = what, epoch

    def after_batch(self, learn):
        if learn.epoch != self.epoch or not learn.training or learn.batch_idx:
            return
        if self.what == "warn":
            warnings.warn("planted")
        if self.what == "stop":
            learn.stop("enough")
        if self.what == "fail":
            raise KeyError("planted")
        if self.what == "interrupt":
            raise KeyboardInterrupt
        if self.what == "nan":
            next(learn.model.parameters()).data.fill_(float("nan"))
"""


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A recipe with its code, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("parts.py").write_text(CODE)


def facts(folder: str = "runs/small-1") -> dict:
    return json.loads((Path(folder) / "run.json").read_text())


def trained(*overrides: str) -> Learner:
    return run(load_recipe("small.yaml", overrides))


def assert_equal(file: str | Path, module: nn.Module) -> None:
    """The file has the state dict, as read without our code."""
    from safetensors.torch import load_file

    state = load_file(file) if str(file).endswith("safetensors") else torch.load(file, weights_only=True)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(each, module.state_dict()[name]) for name, each in state.items())


def test_a_run_keeps_the_weights_that_it_ended_with_and_what_is_known_about_it():
    learn = trained()
    assert_equal("runs/small-1/model.safetensors", learn.model)
    found = facts()
    assert (found["status"], found["recipe"], found["n_epochs"]) == ("finished", "a small net", 4)
    assert found["last"] == learn.history[-1]
    assert found["item"] == [{"key": 0, "shape": [2], "dtype": "float32"}]
    assert found["weights"] == {"final": "model.safetensors", "reason": None}
    assert found["code"] == {"parts.py": CODE}
    assert not Path("runs/small-1/best.safetensors").exists()


def test_without_safetensors_the_weights_are_a_file_of_torch(monkeypatch):
    monkeypatch.setattr(run_files.importlib.util, "find_spec", lambda name: None)
    learn = trained()
    assert_equal("runs/small-1/model.pt", learn.model)


def test_the_best_weights_are_those_that_early_stopping_restores():
    learn = trained("callbacks.EarlyStopping.monitor=valid_loss", "optimizer.lr=0.4", "fit.epochs=6")
    best = learn.callbacks.early_stopping
    assert_equal("runs/small-1/best.safetensors", learn.model)
    monitored = facts()["monitored"]
    assert (monitored["name"], monitored["direction"]) == ("valid_loss", "min")
    assert (monitored["value"], monitored["epoch"]) == (best.best, best.best_epoch)
    assert facts()["best"]["valid_loss"] == best.best


def test_a_run_whose_checkpoints_leave_frozen_weights_out_prints_that_its_weights_file_has_them(capsys):
    trained("callbacks.Checkpoint={folder: saved, trainable_only: true}")
    assert "with the frozen weights: model.safetensors" in capsys.readouterr().out
    trained("callbacks.Checkpoint={folder: other}")
    assert "frozen" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "status"), [("stop", "stopped"), ("fail", "failed"), ("interrupt", "interrupted")]
)
def test_a_run_that_does_not_finish_keeps_its_status_and_its_weights(what, status):
    try:
        trained(f"callbacks.At={{use: 'parts.py:At', what: {what}}}")
    except (KeyError, KeyboardInterrupt):
        assert what != "stop"
    assert facts()["status"] == status
    assert Path("runs/small-1/model.safetensors").exists()


def test_weights_that_became_nan_are_not_kept():
    with pytest.raises(FloatingPointError):
        trained("callbacks.At={use: 'parts.py:At', what: nan}")
    assert facts()["status"] == "failed"
    assert "NaN" in facts()["weights"]["reason"]
    assert not Path("runs/small-1/model.safetensors").exists()


def test_warnings_of_the_fit_are_kept():
    with pytest.warns(UserWarning, match="planted"):
        trained("callbacks.At={use: 'parts.py:At', what: warn}")
    assert facts()["warnings"] == ["planted"]


def test_a_resumed_run_remembers_its_best_epoch():
    saving = ("callbacks.Checkpoint={folder: saved, best: valid_loss}", "optimizer.lr=0.4")
    with pytest.raises(KeyError):
        trained(*saving, "callbacks.At={use: 'parts.py:At', what: fail, epoch: 3}")
    then = facts()
    recipe = load_recipe("runs/small-1/recipe.yaml", ["callbacks.At=null"])
    resume_run(recipe)
    now = facts()
    assert (now["status"], now["started"]) == ("finished", then["started"])
    whole = trained(*saving)
    assert now["monitored"] == facts("runs/small-2")["monitored"]
    assert_equal("runs/small-1/model.safetensors", whole.model)


def test_a_full_disk_puts_the_run_elsewhere_where_it_can_be_opened(monkeypatch):
    write = run_files.write_safetensors

    def full(path, *rest, **options):
        if path.parent.name == "small-1":
            raise OSError(28, "No space left on device")
        write(path, *rest, **options)

    monkeypatch.setattr(run_files, "write_safetensors", full)
    with pytest.raises(Mistake, match=r"No space left .* kept in .*small-1-.* instead") as caught:
        trained()
    place = str(caught.value).partition("is kept in ")[2].partition(" instead")[0]
    learn = open_run(place)
    assert len(learn.history) == 4
    shutil.rmtree(place)


class Awkward(nn.Module):
    """A model with tied weights, a view, a tensor that is not contiguous, and extra state."""

    def __init__(self, extra=None):
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.body.weight
        self.register_buffer("view", torch.arange(10.0)[2:4])
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_tied_and_strided_weights_are_written_for_a_plain_load_state_dict(tmp_path):
    class Plain(Awkward):
        get_extra_state = nn.Module.get_extra_state

    model = Plain()
    path = run_files.write_weights(model, tmp_path, "model")
    assert path.name == "model.safetensors"
    assert_equal(path, model)


def test_extra_state_needs_a_file_of_torch_and_code_in_it_is_refused(tmp_path):
    path = run_files.write_weights(Awkward({"steps": 3}), tmp_path, "model")
    assert torch.load(path, weights_only=True)["_extra_state"] == {"steps": 3}
    with pytest.raises(ValueError, match="_extra_state"):
        run_files.write_weights(Awkward(nn.ReLU()), tmp_path, "model")


def test_names_in_the_file_are_those_of_the_model_without_its_wrapper(tmp_path):
    model = nn.Linear(2, 1)
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    for wrapper in (compiled, nn.DataParallel(model)):
        assert_equal(run_files.write_weights(wrapper, tmp_path, "model"), model)


def test_a_lazy_model_that_saw_no_batch_has_no_weights(tmp_path):
    with pytest.raises(ValueError, match="no values yet"):
        run_files.write_weights(nn.LazyLinear(3), tmp_path, "model")
