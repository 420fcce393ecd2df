"""The search for a batch size agrees with the allocator's count and leaves no trace."""

from __future__ import annotations

import gc
import random
import weakref
from functools import partial

import numpy
import pytest
import torch
from accounting import peak_by_profiler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from upper.sized import make, tensors, wide

from callbacks import EMA, Checkpoint, EarlyStopping, ZeroGrad
from callbacks.place.device import map_tensors
from learner import Data, Learner
from learner.tools.batch_size import BatchSizes
from learner.tools.batch_trials import SizeTrial, is_out_of_memory


class Refuses(nn.Linear):
    """Runs out of memory for batches above a size."""

    def __init__(self, largest: int, error: Exception):
        super().__init__(8, 1)
        self.largest, self.error = largest, error

    def forward(self, input):  # noqa: A002
        if len(input) > self.largest:
            raise self.error
        return super().forward(input)


def out_of_memory(n_bytes: int = 2**60) -> RuntimeError:
    """The error of the CPU allocator."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(n_bytes, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("largest", [1, 2, 3, 37, 100, 599, 600])
def test_it_finds_the_largest_size_that_fits_within_a_sixteenth(largest):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    found = make(Refuses(largest, error)).find_batch_size(n_steps=1)
    assert largest - max(1, largest // 16) <= found.largest <= largest
    sizes = [trial.size for trial in found.trials]
    assert sizes == sorted(set(sizes))
    assert {trial.size for trial in found.trials if not trial.fits} == {n for n in sizes if n > largest}
    assert found.suggested <= largest


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_each_kind_of_out_of_memory_error_is_recognized(error):
    found = make(Refuses(20, error)).find_batch_size(n_steps=1)
    assert found.largest == 20
    assert type(error).__name__ in str(found)


def test_the_error_of_the_cpu_allocator_is_recognized():
    assert is_out_of_memory(out_of_memory())

    class Greedy(nn.Linear):
        def forward(self, input):  # noqa: A002
            torch.empty(1 if len(input) < 20 else 2**60, dtype=torch.uint8)
            return super().forward(input)

    found = make(Greedy(8, 1)).find_batch_size(n_steps=1)
    assert found.largest == 19
    assert "can't allocate memory" in str(found) or "not enough memory" in str(found)


def test_the_curve_equals_the_allocation_of_a_hand_written_loop():
    found = make(defaults=(ZeroGrad,)).find_batch_size(start=100, up_to=400, n_steps=1)
    model = wide()
    optimizer = torch.optim.AdamW(model.parameters())
    held = sum(each.nbytes for each in model.parameters())
    inputs, targets = tensors()

    def train(size: int) -> None:
        for _ in range(2):
            batch = inputs[:size].clone(), targets[:size].clone()
            preds = model(batch[0])
            F.mse_loss(preds, batch[1]).backward()
            optimizer.step()
            optimizer.zero_grad()

    train(1)
    held += sum(each.nbytes for state in optimizer.state.values() for each in state.values())
    assert [trial.size for trial in found.trials] == [100, 200, 400]
    for trial in found.trials:
        assert trial.peak == pytest.approx(held + peak_by_profiler(partial(train, trial.size)), rel=0.02)


def test_a_limit_is_respected_and_predicted():
    free = make().find_batch_size(n_steps=1)
    limit = free.trials[-2].peak
    found = make().find_batch_size(limit=limit, n_steps=1)
    assert found.room == limit
    assert found.trials[-1].why_not is not None
    assert all(trial.peak <= limit for trial in found.trials)
    assert found.largest >= 0.9 * free.trials[-2].size
    assert any("not tried" in (trial.why_not or "") for trial in found.trials)


def test_nothing_is_allocated_beyond_the_limit():
    made = []

    class Makes(nn.Linear):
        def forward(self, input):  # noqa: A002
            made.append(torch.zeros(len(input), 10_000))
            found = super().forward(input) + made.pop().sum()
            return found + torch.zeros(len(input), 10_000).sum()

    found = make(Makes(8, 1)).find_batch_size(limit="1 MB", n_steps=1)
    assert 20 <= found.largest <= 25  # 40,000 bytes per item


def test_the_suggestion_lies_on_the_curve():
    trials = [SizeTrial(size, 1000 + 10 * size, 0.1 + size / 1000) for size in (2, 4, 100, 200)]
    found = BatchSizes(trials, 3000, 0.2, 1000, "", "cpu")
    assert found.suggested == 136  # 2400 = 1000 + 10 * 140, and a multiple of eight
    assert found.quickest == 100
    assert BatchSizes(trials, None, 0.0, 0, "", "cpu").suggested == 200
    assert BatchSizes(trials, 1000, 0.9, 0, "", "cpu").suggested == 2
    failed = [*trials, SizeTrial(300, why_not="no memory", out_of_memory=True)]
    assert BatchSizes(failed, 10**9, 0.2, 0, "", "cpu").suggested == 136  # of 2400, not of the given limit


def test_the_smallest_of_nearly_equal_rates_is_the_quickest():
    trials = [SizeTrial(size, size, seconds) for size, seconds in ((2, 1.0), (4, 1.01), (8, 2.0), (16, 3.98))]
    assert BatchSizes(trials, 100, 0.0, 0, "", "cpu").quickest == 4


def traces(learn: Learner) -> str:
    """All state that a search could change."""
    snapshot = learn.snapshot()
    found = {
        "snapshot": {**snapshot, "random": repr(snapshot["random"])},
        "order": learn.data.train.generator.get_state(),
        "random": (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()),
        "gradients": [each.grad for each in learn.model.parameters()],
        "modes": [each.training for each in learn.model.modules()],
        "attributes": sorted(vars(learn)),
        "callbacks": [id(callback) for callback in learn.callbacks],
        "own": (learn.stop_reason, learn.error, learn.n_fits, dict(learn.results)),
    }
    return repr(map_tensors(found, lambda leaf: (tuple(leaf.shape), leaf.numpy(force=True).tobytes())))


def loaders() -> Data:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(*tensors(64)), 8, shuffle=True, generator=generator)
    return Data(loader, DataLoader(TensorDataset(*tensors(16)), 8))


def test_it_leaves_no_trace(tmp_path, capsys):
    learn = make(None, EMA(0.9), Checkpoint(tmp_path / "run"), EarlyStopping(patience=1), data=loaders())
    learn.fit(1)
    capsys.readouterr()
    before, files = traces(learn), sorted(tmp_path.rglob("*"))
    learn.find_batch_size(n_steps=1, limit="1 MB")
    assert traces(learn) == before
    assert sorted(tmp_path.rglob("*")) == files
    assert capsys.readouterr().out == ""


def test_training_afterwards_has_the_bits_of_training_without():
    plain = make(data=loaders())
    plain.fit(2)
    searched = make(data=loaders())
    searched.find_batch_size(n_steps=1)
    searched.fit(2)
    for one, other in zip(plain.model.parameters(), searched.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.history["valid_loss"] == searched.history["valid_loss"]


def test_no_trace_is_left_after_memory_ran_out():
    learn = make(Refuses(20, out_of_memory()), data=loaders())
    before = traces(learn)
    learn.find_batch_size(n_steps=1)
    assert traces(learn) == before


def test_a_size_that_did_not_fit_holds_no_memory():
    seen = []

    class Keeps(Refuses):
        def forward(self, input):  # noqa: A002
            seen.append(weakref.ref(input))
            return super().forward(input)

    make(Keeps(20, torch.OutOfMemoryError("out of memory"))).find_batch_size(n_steps=1)
    gc.collect()
    assert not any(each() is not None for each in seen)


def test_a_single_item_that_does_not_fit_is_an_error():
    with pytest.raises(RuntimeError, match=r"not even a batch of 1 item fits into 1\.00 kB.*ActivationCheck"):
        make().find_batch_size(limit=1000)
    with pytest.raises(RuntimeError, match=r"not even a batch of 1 item fits.*out of memory.*bf16"):
        make(Refuses(0, torch.OutOfMemoryError("out of memory"))).find_batch_size()


def test_another_error_is_raised_with_its_batch_size():
    learn = make(Refuses(5, RuntimeError("the shapes do not fit")))
    before = [each.clone() for each in learn.model.parameters()]
    with pytest.raises(RuntimeError, match="the shapes do not fit") as caught:
        learn.find_batch_size()
    assert "at a batch size of 8" in caught.value.__notes__
    assert any("learn.find_batch_size()" in note for note in caught.value.__notes__)
    assert all(torch.equal(one, other) for one, other in zip(learn.model.parameters(), before, strict=True))
