"""Tensors and arrays in memory: order, seed, splits, and what is accepted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from upper.kinds_of_data import Items, Unknown, fit, x, y

from learner import Data, TensorLoader
from learner.data.loaders import n_batches_of

# Tensors in memory


@settings(max_examples=60, deadline=None)
@given(
    n_items=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_each_item_comes_exactly_once_per_epoch(n_items, batch_size, drop_last, shuffle, seed):
    items = torch.arange(n_items)
    loader = TensorLoader((items, -items), batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
    for _ in range(3):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(torch.equal(first, -second) for first, second in batches)
        assert [len(first) for first, _ in batches[:-1]] == [batch_size] * max(len(batches) - 1, 0)
        seen = torch.cat([first for first, _ in batches]).tolist() if batches else []
        assert len(set(seen)) == len(seen) == (n_items // batch_size * batch_size if drop_last else n_items)
        assert shuffle or seen == list(range(len(seen)))


def orders(seed, n_epochs=3):
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=seed)
    return [torch.cat([batch for (batch,) in loader]).tolist() for _ in range(n_epochs)]


def test_the_order_depends_on_the_seed_and_the_epoch_only():
    assert orders(3) == orders(3)
    assert orders(3) != orders(4)
    first, second, third = orders(3)
    assert first != second != third != first


def test_the_order_neither_depends_on_other_draws_nor_changes_them():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    expected = orders(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert orders(3) == expected


def test_without_a_seed_the_order_follows_the_seed_of_torch():
    def draw():
        torch.manual_seed(1)
        return orders(None)

    assert draw() == draw()
    assert orders(None) != orders(None)


def test_an_epoch_that_was_left_early_counts_as_an_epoch():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    next(iter(loader))
    assert torch.cat([batch for (batch,) in loader]).tolist() == orders(3)[1]


def test_a_loader_can_continue_at_the_position_of_another():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    list(loader)
    other = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=9)
    other.load_state_dict(loader.state_dict())
    assert torch.cat([batch for (batch,) in other]).tolist() == orders(3)[1]


def test_two_passes_at_once_do_not_disturb_each_other():
    loader = TensorLoader((torch.arange(50),), 8, shuffle=True, seed=3)
    pairs = list(zip(loader, loader, strict=True))
    seen = [torch.cat([batch for (batch,) in part]).tolist() for part in zip(*pairs, strict=True)]
    assert seen == orders(3)[:2]


@settings(max_examples=30, deadline=None)
@given(n_items=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_a_share_is_held_out_by_the_seed_and_no_item_is_in_both_parts(n_items, share, seed):
    n_valid = round(n_items * share)
    if not 0 < n_valid < n_items:
        return
    data = Data.from_tensors(torch.arange(n_items), valid=share, seed=seed)
    again = Data.from_tensors(torch.arange(n_items), valid=share, seed=seed)
    train, valid = data.train.tensors[0].tolist(), data.valid.tensors[0].tolist()
    assert (len(train), len(valid)) == (n_items - n_valid, n_valid)
    assert sorted(train + valid) == list(range(n_items))
    assert valid == again.valid.tensors[0].tolist()


@pytest.mark.parametrize("valid", [3, np.int64(3), 0.3, np.float32(0.3)])
def test_a_number_or_a_share_may_be_held_out(valid):
    data = Data.from_tensors(torch.arange(10), valid=valid)
    assert (data.train.n_items, data.valid.n_items) == (7, 3)


@pytest.mark.parametrize("test", [2, 0.2])
def test_a_share_is_held_out_for_the_test_and_validation_keeps_its_items(test):
    data = Data.from_tensors(torch.arange(10), valid=0.3, test=test, seed=1)
    train, valid, held = (part.tensors[0].tolist() for part in (data.train, data.valid, data.test))
    assert (len(train), len(valid), len(held)) == (5, 3, 2)
    assert sorted(train + valid + held) == list(range(10))
    assert valid == Data.from_tensors(torch.arange(10), valid=0.3, seed=1).valid.tensors[0].tolist()
    assert held == [int(item) for batch in data.test for item in batch[0]]


def test_test_data_may_be_a_pair_a_mapping_or_a_share_without_validation():
    assert Data.from_tensors(x(6), y(6), valid=None, test=(x(2), y(2))).test.n_items == 2
    named = {"x": x(6), "y": y(6)}
    data = Data.from_tensors(named, "y", valid=2, test={"x": x(3), "y": y(3)})
    assert next(iter(data.test))["x"].shape == (3, 3)
    data = Data.from_tensors(x(6), y(6), valid=None, test=2)
    assert (data.train.n_items, data.valid, data.test.n_items) == (4, None, 2)
    assert Data.from_tensors(x(6), y(6)).test is None


@pytest.mark.parametrize("shuffle", [False, True])
def test_holding_out_copies_no_item_and_gives_the_batches_of_copies(shuffle):
    inputs = torch.arange(40.0).view(20, 2)
    data = Data.from_tensors(inputs, batch_size=4, valid=0.3, test=0.2, seed=4, shuffle=shuffle)
    for part in (data.train, data.valid, data.test):
        assert part.columns[0].data_ptr() == inputs.data_ptr()
        copies = TensorLoader(part.tensors, part.batch_size, shuffle=part.shuffle, seed=4)
        for batch, copied in zip([*part, *part], [*copies, *copies], strict=True):
            assert torch.equal(batch[0], copied[0])


def test_validation_data_may_be_a_pair_or_none():
    data = Data.from_tensors(x(6), y(6), valid=(x(2), y(2)), batch_size=4)
    assert (data.train.n_items, data.valid.n_items) == (6, 2)
    assert Data.from_tensors(x(6), y(6), valid=None).valid is None
    fit(data)


def test_training_is_shuffled_and_validation_is_in_order_with_larger_batches():
    data = Data.from_tensors(torch.arange(100), batch_size=8, valid=0.4, seed=0)
    assert [len(batch) for (batch,) in data.valid] == [16, 16, 8]
    assert [batch.tolist() for (batch,) in data.valid] == [batch.tolist() for (batch,) in data.valid]
    assert [batch.tolist() for (batch,) in data.train] != [batch.tolist() for (batch,) in data.train]
    still = Data.from_tensors(torch.arange(10), batch_size=8, valid=None, shuffle=False)
    assert torch.cat([batch for (batch,) in still.train]).tolist() == list(range(10))


def test_arrays_become_tensors_of_the_default_dtype():
    data = Data.from_tensors(np.ones((6, 3)), np.arange(6), valid=None)
    assert [tensor.dtype for tensor in data.train.tensors] == [torch.float32, torch.int64]
    assert Data.from_tensors(np.ones((6, 3), "float16"), valid=None).train.tensors[0].dtype == torch.float16


def test_numbers_of_numpy_are_accepted():
    data = Data.from_tensors(x(9), batch_size=np.int64(4), seed=np.int64(3), valid=None)
    assert (len(data.train), data.train.seed) == (3, 3)


def test_data_that_requires_gradients_is_detached():
    inputs = x(6).requires_grad_()
    fit(Data.from_tensors(inputs * 2, y(6), valid=None))
    assert inputs.grad is None


def test_a_read_only_or_reversed_array_is_copied():
    still = np.ones((6, 3), "float32")
    still.flags.writeable = False
    upside_down = np.arange(6, dtype="float32")[::-1]
    data = Data.from_tensors(still, upside_down, valid=None)
    assert data.train.tensors[1].tolist() == [5, 4, 3, 2, 1, 0]


def test_a_column_of_a_table_is_accepted_as_an_array():
    class Column:  # as pandas' Series
        shape, dtype = (4,), object

        def __array__(self, dtype=None, copy=None):
            return np.arange(4.0)

    assert Data.from_tensors(Column(), valid=None).train.tensors[0].tolist() == [0, 1, 2, 3]


def test_several_inputs_and_targets_stay_together():
    numbers = torch.arange(20)
    data = Data.from_tensors((numbers, numbers + 100), (numbers + 200,), batch_size=3, seed=1)
    assert data.n_inputs == 2
    for batch in (*data.train, *data.valid):
        (one, other), target = data.split(batch)
        assert torch.equal(other, one + 100)
        assert torch.equal(target, one + 200)


def test_data_sets_are_batched_and_the_training_one_shuffled():
    data = Data.from_datasets(Items(40), Items(5), batch_size=4)
    assert (n_batches_of(data.train), n_batches_of(data.valid)) == (10, 1)
    first, second = ([batch[0][:, 0].tolist() for batch in data.train] for _ in range(2))
    assert first != second
    assert [batch[0][:, 0].tolist() for batch in data.valid] == [[0, 1, 2, 3, 4]]
    fit(data, n_epochs=1)


def test_data_sets_of_unknown_length_lists_and_options_are_accepted():
    fit(Data.from_datasets(Unknown(), Unknown(), batch_size=4))
    fit(Data.from_datasets([(torch.ones(3), torch.ones(1))] * 5, batch_size=2, shuffle=False, drop_last=True))
    data = Data.from_datasets(
        Items(),
        batch_size=4,
        collate_fn=lambda items: [torch.stack(part) for part in zip(*items, strict=True)],
    )
    assert isinstance(next(iter(data.train)), list)
