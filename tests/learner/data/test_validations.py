"""Several validation data by name: results, monitors, history, and exact resuming."""

from __future__ import annotations

import csv
import signal
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Checkpoint, CSVLogger, EarlyStopping, Timer, ValidateEvery, ZeroGrad, accuracy, on
from callbacks.record.metrics import Metrics
from callbacks.record.recorder import Recorder
from learner import Data, Learner


def items(n, seed, shift=0.0):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x + shift, (x.sum(1) > 0).long())


class Noisy(TensorDataset):
    """A data set with noise from its own generator, which continues from epoch to epoch."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.generator = torch.Generator().manual_seed(5)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.randn(3, generator=self.generator), y


def make(*callbacks, model=None, **more):
    torch.manual_seed(0)
    valid = {
        "valid": DataLoader(items(12, 1), 4),
        "shifted": DataLoader(Noisy(*items(12, 2, 1.0).tensors), 4),
        **more,
    }
    data = Data(DataLoader(items(24, 0), 4, shuffle=True), valid)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    defaults = (ZeroGrad, Metrics, Recorder)
    sgd = partial(torch.optim.SGD, lr=0.5)
    return Learner(model, data, F.cross_entropy, sgd, callbacks, [accuracy], defaults=defaults)


def test_each_data_has_results_under_its_name_and_training_is_the_same():
    learn = make()
    learn.fit(2)
    assert list(learn.history[-1])[1:7] == [
        *("train_loss", "lr", "valid_loss", "valid_accuracy", "shifted_loss", "shifted_accuracy")
    ]
    assert learn.validate(learn.data.valid)["valid_loss"] == learn.history[-1]["valid_loss"]
    assert learn.history[-1]["shifted_loss"] != learn.history[-1]["valid_loss"]
    other = make()
    other.data.more_valid = {}
    other.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), other.model.parameters()))
    assert other.history["valid_loss"] == learn.history["valid_loss"]


def test_validate_without_a_loader_measures_all_of_them():
    assert list(make().validate()) == ["valid_loss", "valid_accuracy", "shifted_loss", "shifted_accuracy"]


def test_a_result_of_other_data_can_be_monitored_and_logged(tmp_path):
    learn = make(EarlyStopping("shifted_accuracy", patience=1), CSVLogger(tmp_path / "log.csv"), Timer())
    learn.fit(3)
    assert learn.history.directions["shifted_accuracy"] == "max"
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["shifted_loss"]) for row in rows] == learn.history["shifted_loss"]
    assert {"valid_seconds", "shifted_seconds"} <= set(learn.history[-1])
    with pytest.raises(ValueError, match="shifted_loss"):
        make(EarlyStopping("shiftd_loss")).fit(1)


def test_what_a_callback_writes_gets_the_name_of_the_data():
    @on("after_validate")
    def count(learn):
        assert "valid_loss" not in learn.results or learn.pass_name == "valid"
        learn.results["valid_count"] = 1 if learn.pass_name == "valid" else 2
        learn.results["count"] = 3

    learn = make(count)
    row = learn.fit(1)[-1]
    assert [row[name] for name in ("valid_count", "count", "shifted_count")] == [1, 3, 3]


def test_validations_within_an_epoch_have_all_names():
    learn = make(ValidateEvery("4 steps"))
    learn.fit(1)
    assert all({"valid_loss", "shifted_loss"} <= set(row) for row in learn.history.validations)


def run_interrupted(tmp_path, name, batch, *callbacks, nested=False):
    """A fit that is interrupted in a pass of epoch 1, and resumed by another learner."""

    @on("after_batch")
    def interrupt(learn):
        is_here = learn.pass_name == name and learn.is_aside is nested
        if learn.epoch == 1 and is_here and learn.batch_idx == batch:
            signal.raise_signal(signal.SIGINT)

    first = make(Checkpoint(tmp_path / "run"), *callbacks)
    with pytest.raises(KeyboardInterrupt):
        first.fit(3, callbacks=[interrupt])
    second = make(Checkpoint(tmp_path / "run"), *callbacks)
    second.fit(3, resume="must")
    return second


@pytest.mark.parametrize(("name", "batch"), [("valid", 1), ("shifted", 0), ("shifted", 2), ("train", 2)])
def test_an_interrupted_fit_resumes_in_the_same_validation_with_the_same_bits(tmp_path, name, batch):
    whole = make(Checkpoint(tmp_path / "whole"))
    whole.fit(3)
    resumed = run_interrupted(tmp_path, name, batch)
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))
    for result in ("train_loss", "valid_loss", "valid_accuracy", "shifted_loss", "shifted_accuracy"):
        assert whole.history[result] == resumed.history[result], result


def test_an_interrupt_in_a_validation_within_an_epoch_resumes_with_the_same_bits(tmp_path):
    whole = make(Checkpoint(tmp_path / "whole"), ValidateEvery("2 steps"))
    whole.fit(3)
    resumed = run_interrupted(tmp_path, "valid", 1, ValidateEvery("2 steps"), nested=True)
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))
    assert whole.history["train_loss"] == resumed.history["train_loss"]


@pytest.mark.parametrize("every", ["2 steps", "8 samples"])
@pytest.mark.parametrize(
    ("ending", "where"), [("Ctrl-C", "train"), ("Ctrl-C", "valid"), ("an error", "valid")]
)
def test_a_validation_within_an_epoch_that_did_not_end_is_run_when_the_fit_resumes(
    tmp_path, ending, where, every
):
    @on("after_pred")
    def end(learn):
        is_here = learn.is_aside if where == "valid" else learn.training
        if is_here and learn.global_step == (2 if where == "valid" else 1):
            if ending == "an error":
                raise RuntimeError("boom")
            signal.raise_signal(signal.SIGINT)

    whole = make(ValidateEvery(every), Checkpoint(tmp_path / "whole"))
    whole.fit(2)
    first = make(ValidateEvery(every), Checkpoint(tmp_path / "run"))
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        first.fit(2, callbacks=[end])
    resumed = make(ValidateEvery(every), Checkpoint(tmp_path / "run"))
    resumed.fit(2, resume="must")
    assert whole.history.validations == resumed.history.validations
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))


def test_other_validation_data_is_reported_when_a_fit_resumes(tmp_path):
    make(Checkpoint(tmp_path / "run")).fit(1)
    learn = make(Checkpoint(tmp_path / "run"), night=DataLoader(items(8, 3), 4))
    with pytest.raises(ValueError, match=r"n_items: None, 8 \(night\)"):
        learn.fit(2, resume="must")


def test_data_sets_are_named_too():
    data = Data.from_datasets(items(8, 0), {"valid": items(4, 1), "night": items(4, 2)}, 4)
    assert list(data.loaders) == ["train", "valid", "night"]
    assert repr(data).endswith("valid=1 batch of a DataLoader, night=1 batch of a DataLoader)")


@pytest.mark.parametrize(
    ("valid", "error", "words"),
    [
        ({"night": [1]}, ValueError, "name one of them 'valid'"),
        ({"valid": [1], "Night": [1]}, ValueError, "the name 'Night' cannot be used"),
        ({"valid": [1], "train": [1]}, ValueError, "the name 'train' cannot be used"),
        ({"valid": [1], "night": 3}, TypeError, r"Data\(valid=\{'night': \.\.\.\}\) is 3"),
        ({}, TypeError, "pass an iterable of batches"),
    ],
)
def test_validation_data_that_cannot_be_used_is_refused(valid, error, words):
    with pytest.raises(error, match=words):
        Data([1], valid)


def test_an_empty_one_is_named_before_the_fit():
    with pytest.raises(ValueError, match="the 'night' validation data"):
        make(night=[]).fit(1)


def test_validate_with_a_name_alone_measures_the_data_of_that_name():
    learn = make()
    learn.data.test = DataLoader(items(8, 3), 4)
    for name, loader in (("test", learn.data.test), ("valid", learn.data.valid)):
        found, right = learn.validate(name=name), learn.validate(loader, name=name)
        assert found[f"{name}_loss"] == right[f"{name}_loss"]
    assert learn.validate(name="shifted").keys() == {"shifted_loss", "shifted_accuracy"}
    assert learn.validate(name="shifted")["shifted_loss"] != learn.validate(name="valid")["valid_loss"]
    with pytest.raises(ValueError, match=r"name='nigth'\): the data has 'test', 'valid', 'shifted'"):
        learn.validate(name="nigth")
