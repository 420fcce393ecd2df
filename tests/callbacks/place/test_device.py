"""DevicePlacement: nests of every kind are moved and keep their types; `meta` is the accelerator here."""

from __future__ import annotations

import dataclasses
from collections import UserDict, defaultdict

import pytest
import torch
from ground.nests import (
    CPU,
    META,
    NESTS,
    Frozen,
    HuggingFaceLike,
    Point,
    Sample,
    x,
)
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from callbacks import DevicePlacement
from callbacks.core import draws
from callbacks.place.device import find_device, map_tensors, tensors_in, to_device


class MovesItself:
    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device):
        return MovesItself(str(device))


@pytest.mark.parametrize("kind", NESTS)
def test_every_tensor_of_a_nest_is_moved_and_the_nest_keeps_its_types(kind):
    batch = NESTS[kind]()
    before = [tensor.device for tensor in tensors_in(batch)]
    moved = to_device(batch, META)
    assert before
    assert type(moved) is type(batch) or isinstance(batch, nn.Parameter)
    assert [tensor.device for tensor in tensors_in(moved)] == [META] * len(before)
    assert [tensor.device for tensor in tensors_in(batch)] == before  # the nest given is not changed


def test_other_values_in_a_nest_are_kept():
    sample = to_device(Sample(x(), note="mine"), META)
    assert (sample.note, sample.doubled.device) == ("mine", META)
    assert to_device(HuggingFaceLike({"a": x()}, encodings="mine"), META).encodings == "mine"
    assert to_device(defaultdict(list, a=x()), META)["new"] == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        to_device(Frozen(x()), META).x = 1


@pytest.mark.parametrize(
    "item", [None, "text", 3, 2.5, True, b"bytes", frozenset([1]), object(), range(3), Sample, torch.float32]
)
def test_a_value_without_tensors_is_left_unchanged(item):
    assert to_device(item, META) is item
    assert to_device([item], META)[0] is item


def test_sets_are_left_unchanged():
    tensors = {x(), x()}
    assert to_device(tensors, META) is tensors


def test_an_object_with_a_to_method_is_moved_by_it():
    assert to_device([MovesItself()], META)[0].device == "meta"


def test_a_packed_sequence_keeps_its_lengths_on_the_cpu():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    moved = to_device((packed, x()), META)[0]
    assert isinstance(moved, PackedSequence)
    assert (moved.data.device, moved.batch_sizes.device) == (META, CPU)


def test_a_tensor_on_the_device_is_not_copied():
    batch = (x(), x())
    assert to_device(batch, CPU) is batch
    nest = {"a": [x()], "b": Sample(x())}
    moved = to_device(nest, CPU)
    assert moved["a"][0] is nest["a"][0]
    assert moved["b"].x is nest["b"].x


def test_all_tensors_of_a_nest_can_be_visited():
    nest = (
        {"a": torch.zeros(1)},
        [Point(torch.zeros(2), None)],
        UserDict(b=torch.zeros(3)),
        Frozen(torch.zeros(4)),
    )
    assert [len(tensor) for tensor in tensors_in(nest)] == [1, 2, 3, 4]
    assert [len(tensor) for tensor in tensors_in(map_tensors(nest, lambda tensor: tensor[1:]))] == [
        0,
        1,
        2,
        3,
    ]


# Which device


def test_auto_takes_the_accelerator_or_the_cpu():
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else CPU
    assert find_device("auto").type == there.type


def test_cuda_is_started_with_the_callback_so_that_its_random_state_can_be_restored(monkeypatch):
    started = []
    for name, value in (("is_available", True), ("device_count", 1), ("current_device_index", 0)):
        monkeypatch.setattr(torch.accelerator, name, lambda value=value: value)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "init", lambda: started.append(1))
    assert DevicePlacement("cpu").device == CPU
    assert not started
    assert DevicePlacement().device == torch.device("cuda", 0)
    assert started


def test_random_states_of_more_gpus_than_there_are_now_are_restored_as_far_as_possible(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    draws.put({"cuda": ["first", "second", "third"]})
    assert restored == ["first", "second"]


def test_a_device_has_the_name_that_tensors_use():
    for device in ("cpu", "cpu:0", torch.device("cpu"), "meta", "auto"):
        found = find_device(device)
        assert torch.empty(1, device=found).device == found
