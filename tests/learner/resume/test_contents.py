"""Complete files with contents of the wrong kind are refused with the place, and nothing changes."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from callbacks import EMA, Checkpoint, EarlyStopping, LogRMSE
from callbacks.core import draws
from learner import CheckpointError
from learner.files import checkpoint_file

VALUES = {
    "None": None,
    "text": "abc",
    "list": [1],
    "number": 7,
    "shape": torch.zeros(2, 5),
    "dict": {"x": {"y": None}},
}
PLACES = [
    *("model", "extra", "frozen", "optimizer", "callbacks", "loaders", "generators", "random", "clock"),
    *("history", "results", "gradients", "fit", "fingerprint", "kinds", "plain", "learner"),
    *("model.0.weight", "optimizer.state", "optimizer.state.0", "optimizer.state.0.exp_avg"),
    *("optimizer.param_groups", "optimizer.param_groups.0", "optimizer.param_groups.0.lr"),
    *("callbacks.ema", "callbacks.ema.averages", "callbacks.early_stopping.best", "callbacks.log_rmse"),
    *("random.torch", "random.python", "clock.epoch", "history.rows", "history.steps.lr"),
    *("fit.position", "fit.position.phase", "fit.mark", "fit.mark.random", "fit.now"),
]


@pytest.fixture
def make(make_learner):
    def make(folder: Path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        callbacks = [
            Checkpoint(folder, "1 step", keep=None),
            EMA(0.9),
            EarlyStopping("valid_loss", patience=9),
            LogRMSE("1 epoch"),
        ]
        optimizer = partial(torch.optim.Adam, lr=0.01)
        return make_learner(model=model, optimizer=optimizer, callbacks=callbacks)

    return make


TRAINED: list[dict] = []


@pytest.fixture
def contents(make, tmp_path_factory) -> dict:
    """The contents of a checkpoint in the middle of the second epoch, of one fit for all tests."""
    if not TRAINED:
        folder = tmp_path_factory.mktemp("trained")
        make(folder).fit(2)
        TRAINED.append(checkpoint_file.read(folder / "step-000000005.pt"))
    return copy.deepcopy(TRAINED[0])


def replaced(contents: dict, place: str, value: object) -> dict:
    """A copy of the contents with another value at one place."""
    changed = copy.deepcopy(contents)
    *way, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    if way[:1] == ["model"]:
        way, last = ["model"], place.removeprefix("model.")
    node = changed
    for key in way:
        node = node[key]
    node[last] = copy.deepcopy(value)
    return changed


def state_of(learn) -> str:
    """Everything that loading may change, for comparison."""
    found = [
        dict(learn.model.state_dict()),
        learn.optimizer.state_dict(),
        {callback.name: callback.state_dict() for callback in learn.callbacks},
        draws.take(),
        learn.history.state_dict(),
        (learn.epoch, learn.global_step, learn.n_samples, learn.results, learn.n_fits),
        [(each.grad, each.requires_grad) for each in learn.model.parameters()],
    ]
    return repr(found)


@pytest.mark.parametrize("place", PLACES)
def test_an_entry_of_another_kind_is_refused_and_nothing_changes(make, contents, tmp_path, place):
    path = tmp_path / "run" / "step-000000005.pt"
    path.parent.mkdir()
    n_refused, learn = 0, make(path.parent)
    before = state_of(learn)
    for kind, value in VALUES.items():
        checkpoint_file.write(path, replaced(contents, place, value), durable=False)
        for load in (lambda learn: learn.load(path), lambda learn: learn.fit(3, resume="must")):
            try:
                load(learn)
            except CheckpointError as error:
                refused = str(error)
            else:  # None is allowed for a missing value, or the number is of the right kind
                learn = make(path.parent)
                break
            assert path.name in refused, kind
            assert state_of(learn) == before, kind
            n_refused += 1
    assert n_refused >= 2 * (len(VALUES) - 2)


def test_the_place_of_a_wrong_entry_is_named(make, contents, tmp_path):
    path = tmp_path / "step-000000005.pt"
    for place, value, words in [
        ("optimizer.state.0.exp_avg", torch.zeros(3), "optimizer.state does not have the type"),
        ("callbacks.early_stopping.best", "low", "callbacks.early_stopping does not have the type"),
        ("model.0.weight", torch.zeros(5, 5), "model.0.weight does not have the type"),
    ]:
        checkpoint_file.write(path, replaced(contents, place, value))
        with pytest.raises(CheckpointError, match=rf"step-000000005\.pt: {words}"):
            make(tmp_path / "new").load(path)


def test_a_file_of_an_earlier_version_is_checked_for_the_entries_of_every_version(make, contents, tmp_path):
    path = tmp_path / "step-000000005.pt"
    del contents["kinds"]
    checkpoint_file.write(path, contents)
    make(tmp_path / "new").load(path)
    wrong = {"epoch": "two", "global_step": 5, "model": nn.Linear(1, 1).weight.detach()}
    checkpoint_file.write(path, replaced(contents, "clock", {**contents["clock"], **wrong}))
    with pytest.raises(CheckpointError, match=r"clock\.epoch is 'two', but must be a whole number"):
        make(tmp_path / "new").load(path)
    altered = {**json.loads(contents["fingerprint"]), "optimizer": "Adam"}
    checkpoint_file.write(path, replaced(contents, "fingerprint", json.dumps(altered)))
    with pytest.raises(CheckpointError, match=r"fingerprint\.optimizer is 'Adam', but must be a dict"):
        make(tmp_path / "new").load(path)


def test_a_file_of_format_1_has_rows_of_dicts_and_loads(make, contents, tmp_path):
    path, old = tmp_path / "step-000000005.pt", tmp_path / "old.pt"
    checkpoint_file.write(path, contents)
    new = make(tmp_path / "new")
    new.load(path)
    assert len(new.history) == 1
    plain = {"rows": new.history.rows, "validations": [{"step": 3, "epoch": 0, "valid_loss": 0.5}]}
    older = {**contents, "format": 1, "history": {**contents["history"], **plain}}
    del older["kinds"]
    checkpoint_file.write(old, older)
    learn = make(tmp_path / "old")
    learn.load(old)
    assert learn.history.rows == new.history.rows
    assert learn.history.validations == plain["validations"]


def test_rows_that_lack_values_or_have_too_many_are_refused(make, contents, tmp_path):
    path = tmp_path / "step-000000005.pt"
    del contents["kinds"]
    rows = contents["history"]["rows"]
    none, name = torch.zeros(0, dtype=torch.uint8), "history.rows.forms"
    for place, value, words in [
        ("history.rows.floats.value", none, "history.rows lacks values"),
        ("history.rows.others", [1.0], "history.rows has values that its forms do not need"),
        (name, [], "history.rows lacks values"),
        (name, [[("epoch", "words")]], r"history.rows lacks values that its forms need \(KeyError"),
        (name, [[("epoch",)]], "history.rows lacks values"),
        ("history.rows.form_of", rows["others"], r"history\.rows\.form_of is \[\], but must be array"),
    ]:
        checkpoint_file.write(path, replaced(contents, place, value))
        with pytest.raises(CheckpointError, match=words):
            make(tmp_path / "new").load(path)


def test_a_callback_that_refuses_its_state_leaves_the_weights_unchanged(make, contents, tmp_path):
    learn = make(tmp_path / "new")
    learn.fit(1)
    before = state_of(learn)

    def refuse(state):
        raise LookupError("not mine")

    learn.callbacks.ema.load_state_dict = refuse
    checkpoint_file.write(tmp_path / "step-000000005.pt", contents)
    with pytest.raises(CheckpointError, match="LookupError: not mine"):
        learn.load(tmp_path / "step-000000005.pt")
    assert state_of(learn) == before
