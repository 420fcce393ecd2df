"""Checkpoints of adapters leave out the frozen base, and check it when they are loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from callbacks import Checkpoint, LearnerWarning
from learner import Data, Learner


class Adapted(nn.Module):
    """A frozen base with an adapter."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.base = nn.Linear(2, 50).requires_grad_(False)
        self.adapter = nn.Linear(50, 1)

    def forward(self, inputs):
        return self.adapter(self.base(inputs))


def make(folder: Path, *, seed: int = 0, trainable_only: bool = True, wrap=lambda model: model) -> Learner:
    inputs = torch.linspace(-1, 1, 24).reshape(12, 2)
    data = Data.from_tensors(inputs, inputs.sum(1, keepdim=True), batch_size=4, valid=0.25, seed=0)
    saving = Checkpoint(folder, every="1 step", best="valid_loss", trainable_only=trainable_only)
    optimizer = partial(torch.optim.SGD, lr=0.01)
    return Learner(wrap(Adapted(seed)), data, nn.functional.mse_loss, optimizer, [saving])


def same(one: Learner, other: Learner) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_files_hold_the_adapter_alone_and_a_run_resumes_with_the_same_bits(tmp_path):
    whole = make(tmp_path / "whole")
    whole.fit(2)
    make(tmp_path / "run").fit(1)
    file = next((tmp_path / "run").glob("step-*3.pt"))
    assert set(torch.load(file, weights_only=True)["model"]) == {"adapter.weight", "adapter.bias"}
    learn = make(tmp_path / "run")
    learn.fit(2, resume="must")
    assert same(learn, whole)


def test_a_file_is_loaded_into_a_learner_with_the_same_base_also_if_it_is_wrapped(tmp_path):
    learn = make(tmp_path / "run")
    learn.fit(1)
    other = make(tmp_path / "other", wrap=partial(torch.compile, backend="eager"))
    other.load_best(tmp_path / "run")
    other.load(tmp_path / "run" / "best.pt", only="model")
    assert same(learn, other)


def test_another_base_is_refused_and_nothing_changes(tmp_path):
    make(tmp_path / "run").fit(1)
    other, untouched = make(tmp_path / "other", seed=1), make(tmp_path / "other", seed=1)
    for load in (other.load, other.load_best):
        with pytest.raises(ValueError, match=r"base model is a different one: the values of base\.weight"):
            load(tmp_path / "run" / "best.pt" if load == other.load else tmp_path / "run")
    assert same(other, untouched)


def test_layers_frozen_later_are_saved_as_they_were_trained(tmp_path):
    learn = make(tmp_path / "run")
    learn.model.base.requires_grad_(True)
    with pytest.warns(LearnerWarning, match="it does not train"):
        learn.fit(1)
    learn.model.base.requires_grad_(False)
    learn.save(tmp_path / "all.pt")
    file = next((tmp_path / "run").glob("step-*3.pt"))
    assert "base.weight" in torch.load(file, weights_only=True)["model"]


def test_a_name_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no parameter 'bas\.weight'"):
        make(tmp_path).save(tmp_path / "a.pt", without=["bas.weight"])


def test_a_single_name_need_not_be_in_a_list(tmp_path):
    make(tmp_path).save(tmp_path / "a.pt", without="base.weight")
    assert "base.weight" not in torch.load(tmp_path / "a.pt", weights_only=True)["model"]
