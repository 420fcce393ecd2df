"""Predictions that are written to files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learner import Data, Learner


def make(loss=F.mse_loss, model=None, batches=None):
    torch.manual_seed(0)
    batches = batches or [(torch.rand(n, 3), torch.rand(n, 1)) for n in (4, 4, 2)]
    return Learner(model or nn.Linear(3, 1), Data(batches, batches), loss, defaults=())


def test_what_is_written_to_files_equals_what_is_returned_in_memory(tmp_path):
    learn = make()
    stored = learn.get_preds(with_inputs=True, with_loss=True, to=tmp_path / "new" / "preds.npy")
    kept = learn.get_preds(with_inputs=True, with_loss=True)
    names = ["preds.npy", "preds.targets.npy", "preds.inputs.npy", "preds.losses.npy"]
    assert sorted(each.name for each in (tmp_path / "new").iterdir()) == sorted(names)
    for name, from_file, in_memory in zip(names, stored, kept, strict=True):
        assert isinstance(from_file, np.memmap)
        assert np.array_equal(np.load(tmp_path / "new" / name), in_memory.numpy())
        assert np.array_equal(from_file, in_memory.numpy())


def test_several_outputs_are_written_to_a_file_each(tmp_path):
    learn = make(lambda preds, targets: preds[0].mean(), Twice())
    mean, spread = learn.get_preds(to=tmp_path / "preds.npy")[0]
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "preds.0.npy",
        "preds.1.npy",
        "preds.targets.npy",
    ]
    assert np.array_equal(2 * mean, spread)


class Twice(nn.Linear):
    """A model with two outputs; the second is twice the first."""

    def __init__(self):
        super().__init__(3, 1)

    def forward(self, x):
        return super().forward(x), 2 * super().forward(x)


def test_an_error_in_the_pass_leaves_no_file_and_the_previous_one_unchanged(tmp_path):
    learn, path = make(), tmp_path / "preds.npy"
    learn.get_preds(to=path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        learn.get_preds([learn.data.valid[0], (torch.rand(2, 7), torch.rand(2, 1))], to=path)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["preds.npy", "preds.targets.npy"]


def test_a_file_that_does_not_fit_on_the_disk_is_refused_after_the_first_batch(tmp_path):
    resource = pytest.importorskip("resource")
    learn = make(batches=100 * [(torch.rand(4, 3), torch.rand(4, 1))])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="no room for 400 rows of 1,600 bytes in all") as caught:
            learn.get_preds(to=tmp_path / "preds.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "preds.npy")
    assert learn.batch_idx == 0
    assert not list(tmp_path.iterdir())


def test_a_loader_that_claims_more_batches_than_it_has_is_written_with_the_rows_it_has(tmp_path):
    class Claims(list):
        def __len__(self):
            return 1_000

    learn = make(batches=[(torch.rand(4, 3), torch.rand(4, 1))])
    preds, _ = learn.get_preds(Claims(learn.data.valid), to=tmp_path / "preds.npy")
    assert preds.shape == (4, 1)
    assert (tmp_path / "preds.npy").stat().st_size == 128 + 4 * 4


def test_an_output_that_is_not_one_array_is_not_written(tmp_path):
    batches = [(torch.rand(4, n), torch.rand(4, 1)) for n in (3, 2)]
    learn = make(model=nn.Identity(), batches=batches)
    with pytest.raises(ValueError, match=r"does not fit in one array\. Leave out to="):
        learn.get_preds(to=tmp_path / "preds.npy")
    assert not list(tmp_path.iterdir())
    assert len(learn.get_preds()[0]) == 8


def test_targets_that_are_not_numbers_stay_in_memory(tmp_path):
    learn = make(batches=[(torch.rand(2, 3), ["a", "b"]), (torch.rand(1, 3), ["c"])])
    assert learn.get_preds(to=tmp_path / "preds.npy")[1] == ["a", "b", "c"]


def test_a_part_whose_name_fits_no_file_is_refused_and_leaves_no_file(tmp_path):
    class Parts(nn.Linear):
        def forward(self, x):
            return {"h": x, "a/b": super().forward(x)}

    learn = make(model=Parts(3, 1))
    with pytest.raises(ValueError, match=r"a part 'a/b', which cannot be a part of a file's name.*keep='h'"):
        learn.get_preds(to=tmp_path / "preds.npy")
    assert not list(tmp_path.iterdir())
