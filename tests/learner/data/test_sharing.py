"""The parts of all ranks together are the batches of one process, whatever yields them."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks.shared_passes import LOADERS, SIZES, check_equal, joined, parts, whole

from learner.data.sharing import Share


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize(("n_items", "sizes"), [(1, (3,)), (23, SIZES)])
def test_the_parts_of_each_batch_are_the_batch_of_one_process(name, n_items, sizes):
    make = partial(LOADERS[name], n_items)
    expected = whole(make, n_passes=2)
    for size in sizes:
        ranks = [parts(make, Share(rank, size), n_passes=2) for rank in range(size)]
        for n_pass, batches in enumerate(expected):
            assert {len(rank[n_pass]) for rank in ranks} == {len(batches)}
            for n_batch, batch in enumerate(batches):
                taken = [rank[n_pass][n_batch] for rank in ranks]
                assert [n for n, *_ in taken] == [len(each) for each in batch[1].tensor_split(size)]
                assert {n for _, n, _ in taken} == {len(batch[1])}
                check_equal(joined([part[:n] for part in each] for n, _, each in taken), batch)
                assert all(len(each[1]) == max(1, n) for n, _, each in taken)


@pytest.mark.parametrize("name", LOADERS)
def test_in_validation_a_rank_without_an_item_gets_no_batch(name):
    make = partial(LOADERS[name], 21)
    for size in (3, 8):
        ranks = [parts(make, Share(rank, size), training=False)[0] for rank in range(size)]
        found = [n.item() for rank in ranks for *_, batch in rank for n in batch[1]]
        assert sorted(found) == sorted(n.item() for batch in whole(make)[0] for n in batch[1])
        assert all(n_here for rank in ranks for n_here, *_ in rank)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("training", [True, False])
def test_by_whole_batches_each_rank_takes_its_turn(name, training):
    make = partial(LOADERS[name], 23)
    batches = whole(make)[0]
    for size in (2, 3):
        for rank in range(size):
            found = parts(make, Share(rank, size, each=True), training=training)[0]
            own = batches[rank::size]
            groups = [batches[n : n + size] for n in range(0, len(batches), size)]
            assert len(found) == (len(groups) if training else len(own))
            for (n_here, n_everywhere, batch), group in zip(found, groups, strict=False):
                assert n_everywhere == sum(len(each[1]) for each in group)
                assert n_here == (len(group[rank][1]) if rank < len(group) else 0)
                check_equal(batch, group[rank if rank < len(group) else 0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 9), st.booleans(), st.booleans())
def test_each_item_is_taken_once_for_any_number_of_items_and_ranks(sizes, size, each, in_step):
    taken = []
    for rank in range(size):
        share = Share(rank, size, each)
        groups = list(share.groups_of(enumerate(sizes)))
        found = [share.of([n for _, n in group], in_step=in_step) for group in groups]
        assert not in_step or (None not in found and len(found) == share.length(len(sizes)))
        for group, part in zip(groups, found, strict=True):
            if part is not None and part.n_here:
                assert part.n_everywhere == sum(n for _, n in group)
                taken += [(group[part.number][0], item) for item in range(part.start, part.stop)]
    assert sorted(taken) == [(number, item) for number, n in enumerate(sizes) for item in range(n)]
