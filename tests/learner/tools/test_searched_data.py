"""The data that a search for a batch size takes, and the settings that it refuses."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from upper.sized import N_ITEMS, make, tensors

from callbacks import EMA, GradientAccumulation, LeanStep, MixedPrecision
from learner import Data, Learner
from learner.tools.batch_trials import as_bytes, available_memory


@pytest.mark.parametrize(
    "callback", [GradientAccumulation(4), LeanStep(), MixedPrecision("bf16"), EMA(0.9)], ids=lambda p: p.name
)
def test_the_search_works_with(callback):
    assert make(None, callback).find_batch_size(n_steps=1).largest == N_ITEMS


def test_the_search_ends_when_its_time_is_up():
    found = make().find_batch_size(max_seconds=1e-9, n_steps=1)
    assert [trial.size for trial in found.trials] == [2]
    assert "have passed" in str(found)


# Batches of any size


def sizes_seen(learn: Learner, **options) -> set[int]:
    seen = set()
    learn.model.register_forward_pre_hook(lambda module, args: seen.add(len(args[0])))
    learn.find_batch_size(n_steps=1, up_to=16, **options)
    return seen


def collate_nested(items):
    return {"x": torch.stack([x for x, _ in items]), "parts": [y for _, y in items]}


def test_a_mapping_with_keys():
    batches = [{"input": x, "y": y} for x, y in [tensors(8)]]
    learn = make(nn.Linear(8, 1), data=Data(batches, targets="y"))
    learn.model.forward = lambda input: nn.Linear.forward(learn.model, input)  # noqa: A006
    found = learn.find_batch_size(n_steps=1, up_to=16)
    assert [trial.size for trial in found.trials] == [2, 4, 8, 16]


def test_items_of_a_data_set_are_collated_if_rows_cannot_be_sliced():
    loader = DataLoader(TensorDataset(*tensors(20)), 8, collate_fn=collate_nested)
    data = Data(loader, split=lambda batch: (batch["x"], torch.stack(batch["parts"])))
    assert sizes_seen(make(data=data)) == {2, 4, 8, 16}


def test_a_stream_of_batches():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(*tensors(12), strict=True)

    assert sizes_seen(make(data=Data(DataLoader(Stream(), 4)))) == {2, 4, 8, 16}


def test_a_function_of_batches_and_a_custom_make_batch():
    data = Data(lambda: iter([{"graph": object()}]), split=lambda batch: batch["pair"])
    learn = make(data=data)
    make_batch = lambda n: {"pair": tuple(each[:n] for each in tensors())}  # noqa: E731
    assert sizes_seen(learn, make_batch=make_batch) == {2, 4, 8, 16}


def test_the_longest_of_the_first_batches_is_used():
    batches = [(torch.rand(4, 8), torch.zeros(4, length)) for length in (2, 50, 3)]
    lengths = set()

    def loss_func(preds, targets):
        lengths.add(targets.shape[1])
        return preds.mean()

    optimizer = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(nn.Linear(8, 1), Data(batches), loss_func, optimizer)
    learn.find_batch_size(n_steps=1, up_to=4)
    assert lengths == {50}


def test_a_batch_that_cannot_be_resized_is_refused():
    graph = (torch.rand(4, 8), torch.zeros(2, 17, dtype=torch.long))  # nodes, and edges between them
    with pytest.raises(TypeError, match=r"cannot be resized.*make_batch=lambda n"):
        make(data=Data([graph])).find_batch_size()


# Settings


@pytest.mark.parametrize(
    ("text", "number"),
    [("4 GB", 4 * 10**9), ("4GiB", 2**32), ("1.5 mb", 1_500_000), (1234, 1234), ("1234", 1234), ("8k", 8000)],
)
def test_bytes_can_be_written_with_units(text, number):
    assert as_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "4 XB", "-4 GB", "0", 0, -1, "four"])
def test_an_invalid_number_of_bytes_is_refused(text):
    with pytest.raises(ValueError, match="write bytes as a whole number above 0, or as in '4 GB'"):
        make().find_batch_size(limit=text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 1.5}, "write bytes"),
        ({"limit": True}, "write bytes"),
        ({"margin": 1}, "a share from 0 to below 1"),
        ({"margin": -0.1}, "a share from 0"),
        ({"start": 0}, "whole number, 1 or more"),
        ({"up_to": 2.0}, "whole number, 1 or more"),
        ({"start": 8, "up_to": 4}, "start must be at most up_to"),
        ({"n_steps": True}, "whole number, 1 or more"),
        ({"max_seconds": 0}, "max_seconds must be a number above 0, or None"),
        ({"make_batch": 3}, "pass a function"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make().find_batch_size(**options)


def test_a_learner_that_cannot_be_searched_is_refused():
    with pytest.raises(TypeError, match="no optimizer to train with"):
        make(optimizer=None).find_batch_size()
    with pytest.raises(ValueError, match="yields no batch"):
        make(data=Data(lambda: iter(()))).find_batch_size()


def test_the_memory_of_this_machine_is_known():
    found = available_memory()
    assert found is None or found > 10**7
