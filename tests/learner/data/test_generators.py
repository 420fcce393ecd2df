"""Random generators of loaders, data sets and transforms: found, saved and restored."""

from __future__ import annotations

import random

import pytest
import torch
from interrupted_passes import Noisy, Plain, loader_over, several_rngs
from torch.utils.data import DistributedSampler

from callbacks import LearnerWarning
from learner.data.generators import generator_states, generators_in, set_generator_states
from learner.files.plain import from_plain, to_plain
from learner.passes import positions


def test_generators_are_found_in_typical_places():
    loader = loader_over(Noisy([several_rngs()]), shuffle=True, generator=torch.Generator())
    assert sorted(generators_in(loader)) == [
        "dataset.rng",
        "dataset.transform.0.func.legacy",
        "dataset.transform.0.func.numbers",
        "dataset.transform.0.generator",
        "generator",
    ]


GLOBAL = random.Random(0)


def test_a_global_generator_that_a_function_names_is_found():
    def batches():
        yield GLOBAL.random()

    assert generators_in(batches) == {"GLOBAL": GLOBAL}


def test_generators_of_a_transform_that_is_a_module_are_found():
    module = torch.nn.Sequential(torch.nn.Identity())
    module[0].rng = random.Random(0)
    assert list(generators_in(Noisy(module))) == ["rng", "transform._modules.0.rng"]
    assert generators_in(module) == {}  # of a module given itself, its modules are asked one by one


def test_long_lists_and_large_data_are_not_searched():
    dataset = Noisy()
    dataset.items = [random.Random(0)] * 101
    assert list(generators_in(dataset)) == ["rng"]


def test_an_object_that_holds_itself_is_searched_once():
    dataset = Noisy()
    dataset.itself = dataset.friends = [dataset]
    assert list(generators_in(dataset)) == ["rng"]


def test_states_of_all_kinds_are_plain_and_are_restored():
    dataset = Noisy(several_rngs())
    states = to_plain(generator_states(dataset), "")
    first = dataset.transform(), dataset.rng.random()
    second = dataset.transform(), dataset.rng.random()
    set_generator_states(dataset, from_plain(states))
    assert (dataset.transform(), dataset.rng.random()) == first != second


def test_the_epoch_of_a_sampler_is_restored():
    def make():
        return loader_over(sampler=DistributedSampler(range(41), num_replicas=2, rank=0))

    loader = make()
    loader.sampler.set_epoch(4)
    other = make()
    positions.set_generator_states(other, positions.generator_states(loader))
    assert other.sampler.epoch == 4


def test_a_generator_that_is_missing_later_is_reported():
    states = generator_states(Noisy())
    dataset = Plain()
    del dataset.rng
    with pytest.warns(LearnerWarning, match=r"a Plain had random generators at 'rng', .* in the __init__"):
        set_generator_states(dataset, states)
