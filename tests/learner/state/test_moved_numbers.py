"""Numbers and flags in plain attributes that training changes are state; the others are settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resumed import Crash
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Callback, Checkpoint, EarlyStopping
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.05)


class Normed(nn.Module):
    """A layer whose scale is set by the first batch, and a flag that records it."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(3)), nn.Linear(3, 1)
        self.is_set, self.power = False, power

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and not self.is_set:
            self.scale.data.copy_(1 / inputs.std(0))
            self.is_set = True
        return self.layer(inputs * self.scale) * self.power


class Annealed(Normed):
    """A temperature that falls with each batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.power *= 0.9
        return self.layer(inputs) * self.power


class Counted(Normed):
    """A count that is created with the first batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.n_calls = getattr(self, "n_calls", 0) + 1
        return self.layer(inputs) * getattr(self, "n_calls", 1)


class Queue(Normed):
    """A queue of outputs, with the index of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.bank, self.place = torch.zeros(7), 0

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.layer(inputs)
        if self.training:
            self.bank[self.place] = out.detach().mean()
            self.place = (self.place + 1) % 7
        return out - self.bank.mean()


class Averaged(Normed):
    """A running mean of the outputs, in a form without tensors."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make, self.mean = make, make(0.0)

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.layer(inputs)
        mean = float(np.ravel(next(iter(self.mean.values())) if type(self.mean) is dict else self.mean)[0])
        if self.training:
            self.mean = self.make(0.9 * mean + 0.1 * float(out.detach().mean()))
        return out - mean


class Warmed(nn.Module):
    """A loss whose weight grows."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.weight, self.power = 0.0, power

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        if self.training:
            self.weight += 0.1
        return self.weight * F.mse_loss(preds, targets) ** self.power


def learner(model: Any = Normed, loss: Any = F.mse_loss, *callbacks: Any) -> Learner:
    torch.manual_seed(0)
    x = 2 * torch.randn(24, 3)
    data = Data.from_tensors(x, x.sum(1, keepdim=True), 6, valid=(x, x.sum(1, keepdim=True)), seed=0)
    return Learner(model(), data, loss, SGD, callbacks)


PARTS = {each.__name__: (each, F.mse_loss) for each in (Normed, Annealed, Counted, Queue)}
FORMS = {"array": lambda mean: np.full(3, mean), "NumPy number": np.float64, "list": lambda mean: [mean, 1]}
FORMS["dict"] = lambda mean: {"mean": np.full(3, mean)}
PARTS |= {name: (partial(Averaged, form), F.mse_loss) for name, form in FORMS.items()}
PARTS["Warmed"] = (Normed, Warmed())


def parts(name: str) -> tuple[Any, Any]:
    model, loss = PARTS[name]
    return model, Warmed() if name == "Warmed" else loss


@pytest.mark.parametrize("name", PARTS)
def test_a_run_that_was_killed_resumes_with_the_numbers_of_its_modules(name: str, tmp_path: Path) -> None:
    whole = learner(*parts(name))
    whole.fit(2)
    with pytest.raises(ZeroDivisionError):
        learner(*parts(name), Checkpoint(tmp_path, every="1 step"), Crash(3)).fit(2)
    resumed = learner(*parts(name), Checkpoint(tmp_path, every="1 step"))
    resumed.fit(2, resume="must")
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)


@pytest.mark.parametrize("name", [each for each in PARTS if each not in ("NumPy number", "dict")])
@pytest.mark.parametrize("trial", [Learner.check, Learner.lr_find, lambda learn: in_sandbox(learn)])
def test_a_trial_restores_the_numbers(name: str, trial: Any, capsys: Any) -> None:
    plain, tried = learner(*parts(name)), learner(*parts(name))
    trial(tried)
    plain.fit(1)
    tried.fit(1)
    assert torch.equal(plain.model.layer.weight, tried.model.layer.weight)


def in_sandbox(learn: Learner) -> None:
    with learn.sandbox():
        learn.fit(1)


def test_best_weights_are_restored_with_their_numbers() -> None:
    class Bad(Callback):
        def after_epoch(self, learn: Any) -> None:
            learn.results["valid_loss"] = float(learn.epoch)

    learn = learner(Annealed, F.mse_loss, Bad(), EarlyStopping("valid_loss", patience=1, restore_best=True))
    learn.fit(4)
    assert learn.model.power == pytest.approx(0.9**4)


def test_a_setting_that_training_does_not_change_keeps_the_value_of_the_script(tmp_path: Path) -> None:
    first = learner(Normed, Warmed())
    first.fit(1)
    first.save(tmp_path / "run.pt")
    other = learner(partial(Normed, 0.5), Warmed(2.0))
    other.load(tmp_path / "run.pt")
    assert (other.model.power, other.loss_func.power) == (0.5, 2.0)
    assert (other.model.is_set, other.loss_func.weight) == (True, first.loss_func.weight)


def test_a_number_loaded_from_a_file_is_saved_to_the_next_file_without_a_fit(tmp_path: Path) -> None:
    first, second, third = learner(), learner(), learner()
    first.fit(1)
    for one, other, name in ((first, second, "a.pt"), (second, third, "b.pt")):
        one.save(tmp_path / name)
        other.load(tmp_path / name, only="model")
    assert third.model.is_set


def test_a_container_of_settings_stays_the_same_object_after_a_sandbox(capsys: Any) -> None:
    learn = learner()
    learn.model.sizes = sizes = [3, {"out": np.ones(2)}]
    in_sandbox(learn)
    assert learn.model.sizes is sizes


def test_a_long_log_that_the_user_empties_after_a_snapshot_stays_empty(capsys: Any) -> None:
    learn = learner()
    learn.model.log = [1.0] * 500
    snapshot = learn.snapshot()
    learn.model.log = []
    learn.restore(snapshot)
    assert learn.model.log == []


def test_numbers_of_a_compiled_model_are_found_in_a_plain_one(tmp_path: Path, capsys: Any) -> None:
    compiled = learner(lambda: torch.compile(Normed(), backend="eager"))
    compiled.fit(1)
    compiled.save(tmp_path / "run.pt")
    plain = learner()
    plain.load(tmp_path / "run.pt", only="model")
    assert plain.model.is_set
