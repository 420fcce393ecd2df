"""A resume from damaged files, or into another composition: what is refused, allowed and reported."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from resumed import Crash, differs, in_memory, make, outcome
from torch import nn

from callbacks import Callback, Checkpoint, LearnerWarning
from learner import CheckpointError, Data, Learner
from learner.files import checkpoint_file


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with a run of one epoch."""
    make(tmp_path / "run", data=in_memory).fit(1)
    return tmp_path / "run"


def resume(folder: Path, n_epochs: int = 1, **options) -> Learner:
    fit = {name: options.pop(name) for name in ("allow", "resume") if name in options}
    learn = make(folder, **{"data": in_memory, **options})
    learn.fit(n_epochs, **{"resume": "auto", **fit})
    return learn


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "text": lambda path: path.write_text("<html>not found</html>"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_reported_and_the_previous_one_used(run, damage):
    DAMAGES[damage](run / "step-000000005.pt")
    with pytest.warns(LearnerWarning, match=r"Resuming from step-000000004.pt"):
        learn = resume(run)
    assert learn.global_step == 5
    found = outcome(learn)
    expected = make(data=in_memory)
    expected.fit(1)
    assert differs(found, outcome(expected)) == []


def test_a_missing_part_is_named(run):
    for path in run.glob("*.pt"):
        contents = checkpoint_file.read(path)
        del contents["optimizer"]
        checkpoint_file.write(path, contents)
    with pytest.raises(CheckpointError, match="lacks 'optimizer'"):
        resume(run)


def test_if_all_files_are_damaged_each_is_reported_and_nothing_starts(run):
    for path in run.glob("*.pt"):
        flip(path)
    with pytest.raises(CheckpointError, match=r"(?s)step-000000005.*step-000000004.*step-000000003.*backup"):
        resume(run)


def refused(run: Path, match: str, **options) -> None:
    """A refused resume leaves the learner unchanged."""
    learn = make(run, **{"data": in_memory, **options})
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        learn.fit(2, resume="auto")
    assert differs(dict(learn.model.state_dict()), before) == []
    assert (learn.global_step, len(learn.history)) == (0, 0)


def test_another_model_is_refused_with_names_and_shapes(run):
    learn = make(run, data=in_memory)
    learn.model[4] = nn.Linear(8, 2)
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"4\.weight \(1, 8\) float32, \(2, 8\) float32"):
        learn.fit(2, resume="auto")
    learn.model.append(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"5\.weight, 5\.bias missing from the file"):
        learn.fit(2, resume="auto")


def test_another_optimizer_is_refused_before_the_first_step(run):
    learn = make(run, data=in_memory)
    learn.optimizer = torch.optim.Adam(learn.model.parameters())
    with pytest.raises(ValueError, match="optimizer: SGD, Adam"):
        learn.fit(2, resume="auto")


def test_groups_that_were_added_during_the_fit_are_refused_with_the_fix(tmp_path):
    class Thaw(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.optimizer.add_param_group({"params": learn.model[0].parameters()})

    def learner():
        batches = [(torch.ones(4, 2), torch.ones(4, 1))] * 2
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
        callbacks = [Thaw(), Checkpoint(tmp_path / "run")]
        return Learner(model, Data(batches), nn.functional.mse_loss, optimizer, callbacks)

    with pytest.warns(LearnerWarning, match="it does not train"):
        learner().fit(2)
    with pytest.raises(
        ValueError, match=r"groups of 2 \+ 2 parameters, 2 \(groups that were added during the fit"
    ):
        learner().fit(3, resume="must")


def other_data(**options) -> Data:
    inputs = torch.rand(options.pop("n", 26), 3, generator=torch.Generator().manual_seed(options.pop("s", 0)))
    options = {"batch_size": 4, "valid": 0.25, "seed": 1, **options}
    return Data.from_tensors(inputs, inputs.sum(1, keepdim=True), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 30}, r"n_items: 20, 22 \(train\)"),
        ({"batch_size": 2}, r"batch_size: 4, 2 \(train\)"),
        ({"seed": 2}, r"seed: 1, 2 \(train\)"),
        ({"s": 1}, r"content: \d+, \d+ \(train\) \(other values, or another random split"),
        ({"drop_last": True}, r"drop_last: False, True"),
    ],
)
def test_other_data_is_refused_with_old_and_new_value(run, options, words):
    refused(run, words, data=lambda: other_data(**options))


def test_a_difference_allowed_by_name_is_a_warning(run):
    with (
        pytest.warns(LearnerWarning, match="planned for 1"),
        pytest.warns(LearnerWarning, match="batch_size: 4, 2"),
    ):
        learn = resume(run, 2, data=lambda: other_data(batch_size=2), allow=("batch_size", "n_batches"))
    assert learn.global_step == 5 + 10


def test_with_other_data_the_interrupted_pass_starts_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        make(tmp_path, data=in_memory).fit(2, callbacks=[Crash(9)])
    with pytest.warns(LearnerWarning, match="n_batches: 5, 10"):
        learn = resume(tmp_path, 2, data=lambda: other_data(batch_size=2), allow=("batch_size", "n_batches"))
    assert (learn.global_step, len(learn.history)) == (8 + 10, 2)


def test_another_optimizer_can_be_allowed_and_starts_without_state(run):
    learn = make(run, data=in_memory)
    learn.remove_callbacks(learn.callbacks.torch_scheduler)
    learn.optimizer = torch.optim.Adam(learn.model.parameters())
    with pytest.warns(LearnerWarning, match="optimizer: SGD, Adam"):
        learn.fit(2, resume="auto", allow=("optimizer", "callbacks"))
    assert learn.global_step == 10
    assert type(learn.optimizer) is torch.optim.Adam


def test_an_unknown_name_in_allow_is_refused(run):
    with pytest.raises(ValueError, match="allow='batchsize'"):
        resume(run, 2, allow="batchsize")


def test_a_removed_callback_with_state_is_a_difference(run):
    learn = make(run, data=in_memory)
    learn.remove_callbacks(learn.callbacks.early_stopping)
    with pytest.raises(ValueError, match="early_stopping: EarlyStopping, missing"):
        learn.fit(2, resume="auto")


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    make(tmp_path, data=in_memory).fit(2)
    with pytest.raises(ValueError, match=r"after epoch 1 of 2, but n_epochs is 1: pass at least 2"):
        make(tmp_path, data=in_memory).fit(1, resume="auto")


def test_a_newer_format_is_refused_with_both_versions(run, monkeypatch):
    path = run / "step-000000005.pt"
    contents = checkpoint_file.read(path)
    newer = partial(checkpoint_file.trailer, version=7)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "trailer", newer)
        checkpoint_file.write(path, contents)
    with pytest.raises(
        CheckpointError, match="format 7, but this version of plainlearner reads formats up to 2"
    ):
        make(data=in_memory).load(path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_checkpoint_of_a_gpu_loads_on_a_cpu(tmp_path):
    learn = make(data=in_memory)
    learn.model.cuda()
    learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.05, momentum=0.9)
    path = learn.save(tmp_path / "gpu.pt")
    make(data=in_memory).load(path)


def test_another_version_of_torch_is_a_warning(run, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    with pytest.warns(LearnerWarning, match=r"torch .*, now 9\.9\.9.*results may differ"):
        resume(run)


def test_a_missing_path_is_reported_with_the_nearest_name(run):
    with pytest.raises(CheckpointError, match=r"step-000000050\.pt.*step-00000000"):
        make(data=in_memory).load(run / "step-000000050.pt")
    with pytest.raises(CheckpointError, match="folder"):
        make(data=in_memory).load(run)


def test_a_callback_that_refuses_its_state_leaves_everything_unchanged(run):
    class Refuse(Callback):
        state = ("n",)
        n = 1

        def load_state_dict(self, state):
            if state["n"] == 2:
                raise RuntimeError("no")

    callback = Refuse()
    learn = make(data=in_memory, callbacks=(callback,))
    callback.n = 2
    path = learn.save(run / "mine.pt")
    other = make(data=in_memory, callbacks=(Refuse(),), seed=4)
    before = outcome(other)
    before = {name: before[name] for name in ("weights", "optimizer", "early stopping")}
    before["weights"] = {name: tensor.clone() for name, tensor in before["weights"].items()}
    with pytest.raises(CheckpointError, match=r"RuntimeError: no \(while the callback 'refuse'"):
        other.load(path)
    after = outcome(other)
    assert differs({name: after[name] for name in before}, before) == []


def test_the_newest_file_is_chosen_by_step_and_not_by_time(run):
    os.utime(run / "step-000000003.pt", (2e9, 2e9))
    learn = resume(run)
    assert learn.global_step == 5


def test_the_names_to_allow_are_complete_and_are_not_suggested_for_another_model(run):
    with pytest.raises(ValueError, match=r"allow=\('batch_size', 'n_batches'\)\."):
        resume(run, 2, data=lambda: other_data(batch_size=2), allow=("batch_size",))
    learn = make(run, data=lambda: other_data(batch_size=2))
    learn.model[4] = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="is from another run") as caught:
        learn.fit(2, resume="auto")
    assert "allow=" not in str(caught.value)
