"""A shared pass resumes on another number of ranks with the next item."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from ranks.shared_passes import LOADERS, Lazy, Plain, check_equal, joined, noisy_loader, whole
from torch.utils.data import DataLoader, DistributedSampler

from callbacks.core import draws
from callbacks.distributed.random_streams import Streams
from learner import Data
from learner.data.seeds import seed_everything
from learner.data.sharing import Share, Shared
from learner.passes import positions


def stateful(*arguments, **options):
    """A loader of torchdata."""
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    with warnings.catch_warnings(action="ignore"):  # it calls a deprecated function of torch
        return nodes.StatefulDataLoader(*arguments, **options)


CHANGES = ((4, 2), (2, 1), (1, 4), (2, 3))
KINDS = {
    **LOADERS,
    "workers": lambda n: DataLoader(Plain(n), 5, shuffle=True, num_workers=1),
    "persistent workers": lambda n: DataLoader(
        Plain(n), 5, shuffle=True, num_workers=1, persistent_workers=True
    ),
    "with its own position": lambda n: stateful(Plain(n), 5, shuffle=True),
    "a lazy sampler and workers": lambda n: DataLoader(Plain(n), 5, sampler=Lazy(n), num_workers=1),
}


class Rank:
    """A rank and its loader."""

    def __init__(self, make, share, seed):
        seed_everything(seed)
        self.data, self.share, self.step = Data(make()), share, (0, 0)
        self.loader, self.streams = self.data.train, Streams(share.rank, draws.take())

    def batches(self):
        note, stream = self.note, self.streams.drawing_data
        return Shared(self.data.batches(self.loader), self.share, note, self.data, stream=stream)

    def note(self, *numbers):
        self.step = numbers

    def run(self, n_steps):
        """The first steps of a pass, and what a checkpoint holds then."""
        with self.streams.drawing_data():
            mark = positions.mark(self.loader)
            batches = iter(self.batches())
        for _ in range(n_steps):
            next(batches)
        now = positions.now(self.loader) | {"random": self.streams.data}
        shards = self.share.size if self.share.sharded else 1
        return mark, now, {"n_done": n_steps, "group": self.share.group, "shards": shards}

    def resume(self, mark, now, position):
        """The items to train on in the other batches, and in those of the next pass."""
        with self.streams.drawing_data():
            rest = positions.resume(self.loader, self.batches, mark, now, position)[1]
        found = [self.counted(rest)]
        with self.streams.drawing_data():
            batches = iter(self.batches())
        return [*found, self.counted(batches)]

    def counted(self, batches):
        found = []
        for batch in batches:
            torch.rand(self.share.rank)
            found.append([part[: self.step[0]] for part in batch])
        return found


def resumed(make, n_steps, before, after, **settings):
    """The other batches of the pass, and those of the next one, by pass and rank."""
    saved = Rank(make, Share(0, before, **settings), seed=1).run(n_steps)
    ranks = [Rank(make, Share(rank, after, **settings), seed=7).resume(*saved) for rank in range(after)]
    return list(zip(*ranks, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_the_rest_of_a_pass_is_that_of_one_process_on_another_number_of_ranks(name):
    make = partial(KINDS[name], 21)
    first, second = whole(make, n_passes=2)
    for before, after in CHANGES[1:2] if "workers" in name else CHANGES:
        for ranks, expected in zip(resumed(make, 2, before, after), (first[2:], second), strict=True):
            for step, batch in zip(zip(*ranks, strict=True), expected, strict=True):
                check_equal(joined(step), batch)


@pytest.mark.parametrize("workers", [0, 1])
def test_draws_of_items_continue_too(workers):
    make = partial(noisy_loader, num_workers=workers)
    whole_pass = Rank(make, Share(0, 1), seed=1)
    expected = torch.cat([batch[0] for batch in whole_pass.counted(whole_pass.batches())])
    for before, after in CHANGES[1:2] if workers else CHANGES:
        ranks = resumed(make, 2, before, after)[0]
        assert torch.equal(torch.cat([joined(step)[0] for step in zip(*ranks, strict=True)]), expected[10:])


@pytest.mark.parametrize(
    ("n_steps", "before", "after"), [(2, 2, 1), (2, 1, 2), (2, 2, 4), (4, 1, 2), (3, 2, 4)]
)
@pytest.mark.parametrize("name", ["items", "tensors", "a list"])
def test_whole_batches_in_turn_continue_where_steps_have_the_same_bounds(n_steps, before, after, name):
    make = partial(LOADERS[name], 23)  # five batches: three steps of two ranks are the whole pass
    ranks = resumed(make, n_steps, before, after, each=True)[0]
    expected = whole(make)[0][n_steps * before :]
    for rank, batches in enumerate(ranks):
        own = expected[rank::after]
        for batch, other in zip([each for each in batches if len(each[1])], own, strict=True):
            check_equal(batch, other)


def test_whole_batches_in_turn_refuse_a_step_within_a_step():
    with pytest.raises(ValueError, match=r"after 3 batches, of which 1 were taken in each step; now 2 are"):
        resumed(partial(LOADERS["items"], 23), 3, 1, 2, each=True)


def test_sharded_data_resumes_on_as_many_ranks_alone():
    make = partial(LOADERS["a list"], 23)
    assert len(resumed(make, 2, 2, 2, sharded=True)[0][1]) == 3
    with pytest.raises(ValueError, match=r"into 2 parts, but now .* into 3 parts"):
        resumed(make, 2, 2, 3, sharded=True)
    with pytest.raises(ValueError, match=r"into 2 parts, but now .* not sharded"):
        resumed(make, 2, 2, 1, sharded=True)


def test_sharded_loaders_do_not_fetch_again_what_is_done():
    fetched = []

    class Noted(Plain):
        def __getitem__(self, index):
            fetched.append(index)
            return super().__getitem__(index)

    def make():
        return DataLoader(Noted(23), 3, sampler=DistributedSampler(range(23), 2, 0))

    saved = Rank(make, Share(0, 2, sharded=True), seed=1).run(2)
    done = fetched.copy()
    (rest, _) = Rank(make, Share(0, 2, sharded=True), seed=7).resume(*saved)
    assert len(rest) == 2
    assert not set(done) & set(fetched[len(done) : len(done) + 6])
