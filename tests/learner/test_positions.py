"""A pass that is cut goes on with the same bits, in a loader made anew, whatever kind of loader it is."""

from __future__ import annotations

import functools
import itertools
import random
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from callbacks import LearnerWarning
from learner import TensorLoader, positions
from learner.generators import generator_states, generators_in, set_generator_states
from learner.plain import from_plain, to_plain
from learner.seeded import Seeded

# What StatefulDataLoader 0.11 calls is deprecated in torch.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

N_ITEMS, BATCH_SIZE, N_EPOCHS = 41, 3, 3
CUTS = (
    (0, 1),
    (0, 7),
    (1, 1),
    (1, 12),
    (1, 13),
    (2, 5),
    (2, 14),
)  # epoch and batches done; 14 is a whole pass
FEW = ((0, 1), (1, 12), (2, 14))


class Noisy(Dataset):
    """Items with noise from every stream; it counts, across processes, how often each is fetched."""

    def __init__(self, transform=None):
        self.fetched = torch.zeros(N_ITEMS, dtype=torch.int64).share_memory_()
        self.rng, self.transform = np.random.default_rng(5), transform

    def __len__(self):
        return N_ITEMS

    def __getitem__(self, index):
        self.fetched[index] += 1
        noise = [random.random(), np.random.rand(), self.rng.random(), torch.rand(()).item()]
        return torch.tensor([index, *noise, self.transform() if self.transform else 0.0], dtype=torch.float64)


class Plain(Noisy):
    """Items without noise."""

    def __getitem__(self, index):
        self.fetched[index] += 1
        return torch.tensor([index])


class Stream(IterableDataset):
    """Items in an order of their own, which does not depend on what training draws."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for item in range(first, N_ITEMS, step):
            yield torch.tensor([item, random.random(), np.random.rand(), torch.rand(()).item()])


class Steady(IterableDataset):
    """Items from a generator of its own."""

    def __init__(self):
        self.rng = random.Random(3)

    def __iter__(self):
        for item in range(N_ITEMS):
            yield torch.tensor([item, self.rng.random()])


class Eager:
    """A sampler that draws when it is asked for its iterator, from torch's global state."""

    def __iter__(self):
        return iter(torch.randperm(N_ITEMS).tolist())

    def __len__(self):
        return N_ITEMS


class Lazy(Eager):
    """A sampler that draws index by index, from torch's global state."""

    def __iter__(self):
        for _ in range(N_ITEMS):
            yield int(torch.randint(N_ITEMS, ()))


class Doubling(DataLoader):
    """A loader with an `__iter__` of its own."""

    def __iter__(self):
        for batch in super().__iter__():
            yield 2 * batch


def loader_over(dataset=None, **options):
    options = {"batch_size": BATCH_SIZE, **options}
    return DataLoader(Noisy() if dataset is None else dataset, **options)


def generated(**kind):
    """A sampler with a generator, by the name of its class."""
    ((name, options),) = kind.items()
    generator = torch.Generator().manual_seed(7)
    return {"Random": RandomSampler, "Subset": SubsetRandomSampler, "Weighted": WeightedRandomSampler}[name](
        **options, generator=generator
    )


def several_rngs():
    """A transform with generators in places where people keep them."""
    numbers, legacy = random.Random(1), np.random.RandomState(2)

    def draw(generator):
        return numbers.random() + legacy.rand() + torch.rand((), generator=generator).item()

    return functools.partial(draw, generator=torch.Generator().manual_seed(4))


SKIPPED = {
    "in order": loader_over,
    "shuffled": lambda: loader_over(shuffle=True),
    "shuffled, a generator": lambda: loader_over(shuffle=True, generator=torch.Generator().manual_seed(1)),
    "the last left out": lambda: loader_over(shuffle=True, drop_last=True),
    "single items": lambda: loader_over(batch_size=None, sampler=RandomSampler(range(14))),
    "single items, eager": lambda: loader_over(batch_size=None, sampler=Eager()),
    "a subset": lambda: loader_over(sampler=SubsetRandomSampler(range(40))),
    "a subset, a generator": lambda: loader_over(sampler=generated(Subset={"indices": range(40)})),
    "weighted": lambda: loader_over(sampler=WeightedRandomSampler(torch.arange(1.0, 42), 41)),
    "replacement": lambda: loader_over(sampler=RandomSampler(range(41), replacement=True)),
    "replacement, a generator": lambda: loader_over(
        sampler=generated(Random={"data_source": range(41), "replacement": True})
    ),
    "an eager sampler": lambda: loader_over(sampler=Eager()),
    "a lazy sampler": lambda: loader_over(sampler=Lazy()),
    "a batch sampler": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(range(41)), 3, drop_last=False)
    ),
    "a list of batches": lambda: DataLoader(Noisy(), batch_sampler=[[n, n + 1] for n in range(14)]),
    "generators everywhere": lambda: loader_over(Noisy(several_rngs()), shuffle=True),
    "seeded, no workers": lambda: loader_over(Seeded(Noisy()), shuffle=True),
}
WORKERS = {
    "seeded": lambda: loader_over(Seeded(Noisy()), shuffle=True, num_workers=2),
    "seeded, a generator": lambda: loader_over(
        Seeded(Noisy()), shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(1)
    ),
    "seeded, single items": lambda: loader_over(
        Seeded(Noisy()), batch_size=None, sampler=RandomSampler(range(14)), num_workers=1
    ),
    "seeded, eager sampler": lambda: loader_over(Seeded(Noisy()), sampler=Eager(), num_workers=2),
    "seeded, persistent": lambda: loader_over(
        Seeded(Noisy()), shuffle=True, num_workers=2, persistent_workers=True
    ),
    "no noise, persistent": lambda: loader_over(
        Plain(), shuffle=True, num_workers=2, persistent_workers=True
    ),
}
REPLAYED = {
    "workers": lambda: loader_over(shuffle=True, num_workers=2),
    "workers over a stream": lambda: loader_over(Stream(), num_workers=2),
    "a stream with a generator": lambda: loader_over(Steady()),
    "an __iter__ of its own": lambda: Doubling(Plain(), BATCH_SIZE, shuffle=True),
    "a function": lambda: function_of(np.random.default_rng(6)),
}
WHOLE = {
    "tensors": lambda: TensorLoader([torch.arange(41)], 3, shuffle=True, seed=2),
    "tensors in order": lambda: TensorLoader([torch.arange(42)], 3, drop_last=True),
    "a list": lambda: [torch.tensor([n]) for n in range(14)],
    "a tuple": lambda: tuple(torch.tensor([n]) for n in range(14)),
    "a range": lambda: range(14),
}


def function_of(rng):
    def batches():
        for _ in range(14):
            yield torch.tensor([rng.random()])

    return batches


def scramble(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def give(loader):
    return loader() if callable(loader) and not hasattr(loader, "__iter__") else loader


def train_on(batches, seen, after=lambda: None):
    """Go through batches as training would: between them it draws for dropout."""
    for batch in batches:
        whole = torch.stack(batch) if isinstance(batch, tuple) else torch.as_tensor(batch)
        seen.append((whole.double().flatten(), torch.rand(2), random.random(), np.random.rand()))
        after()
    return seen


def whole_run(make):
    """All that a run sees, and for each number of batches done of each epoch: the mark, and now."""
    scramble(0)
    loader, epochs, saved = make(), [], {}
    for epoch in range(N_EPOCHS):
        mark, seen = to_plain(positions.mark(loader), ""), []

        def save(epoch=epoch, mark=mark, seen=seen):
            if (epoch, len(seen)) in CUTS:
                saved[epoch, len(seen)] = mark, to_plain(positions.now(loader), "")

        epochs.append(train_on(give(loader), seen, save))
        saved[epoch] = to_plain((positions.generator_states(loader), torch.get_rng_state()), "")
    return epochs, saved


def resumed(make, mark, now, epoch, n_done):
    """What a loader made anew gives after a cut, with how often items were fetched until the first batch."""
    scramble(99)
    loader = make()
    rest = positions.go_on(loader, lambda: give(loader), from_plain(mark), from_plain(now), n_done)
    epochs = [train_on(rest, [])]
    for _ in range(epoch + 1, N_EPOCHS):
        positions.mark(loader)
        epochs.append(train_on(give(loader), []))
    return epochs


def assert_same(left, right):
    assert [len(epoch) for epoch in left] == [len(epoch) for epoch in right]
    for batch, other in zip(itertools.chain(*left), itertools.chain(*right), strict=True):
        for part, counterpart in zip(batch, other, strict=True):
            assert torch.equal(torch.as_tensor(part), torch.as_tensor(counterpart))


def same(left, right):
    """Are two states in plain data the same?"""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def assert_goes_on(make, cuts):
    epochs, saved = whole_run(make)
    for epoch, n_done in cuts:
        if (epoch, n_done) in saved:
            expected = [epochs[epoch][n_done:], *epochs[epoch + 1 :]]
            assert_same(resumed(make, *saved[epoch, n_done], epoch, n_done), expected)


def rest_of_one(make, n_done=5):
    """The rest of a pass by a loader made anew, and how often it has fetched each item."""
    _, saved = whole_run(make)
    scramble(99)
    loader = make()
    rest = positions.go_on(loader, lambda: loader, *map(from_plain, saved[2, n_done]), n_done)
    return loader, rest


@pytest.mark.parametrize("kind", SKIPPED)
def test_a_loader_without_workers_goes_on_with_the_same_bits(kind):
    assert_goes_on(SKIPPED[kind], CUTS)


@pytest.mark.parametrize("kind", WHOLE)
def test_batches_in_memory_go_on_with_the_same_bits(kind):
    assert_goes_on(WHOLE[kind], CUTS)


@pytest.mark.parametrize("kind", REPLAYED)
def test_what_is_drawn_again_goes_on_with_the_same_bits(kind):
    assert_goes_on(REPLAYED[kind], FEW)


@pytest.mark.parametrize("kind", WORKERS)
def test_workers_that_leave_out_what_was_seen_go_on_with_the_same_bits(kind):
    assert_goes_on(WORKERS[kind], FEW)


@pytest.mark.parametrize("kind", ["shuffled", "single items", "a batch sampler", "generators everywhere"])
def test_items_that_were_seen_are_not_fetched(kind):
    loader, rest = rest_of_one(SKIPPED[kind])
    assert loader.dataset.fetched.sum() == 0
    n_left = sum(batch.numel() // 6 for batch in rest)
    assert loader.dataset.fetched.sum() == n_left > 0


@pytest.mark.parametrize("kind", ["seeded", "seeded, persistent", "no noise, persistent"])
def test_workers_do_not_fetch_items_that_were_seen(kind):
    loader, rest = rest_of_one(WORKERS[kind])
    items = sorted(int(row[0]) for batch in rest for row in batch)
    assert loader.dataset.fetched.nonzero().flatten().tolist() == items
    assert loader.dataset.fetched.sum() == len(items) == N_ITEMS - 15


def test_taking_a_mark_changes_nothing():
    def run(take):
        scramble(0)
        loader, seen = SKIPPED["generators everywhere"](), []
        for _ in range(2):
            take(loader)
            train_on(loader, seen, lambda: take(loader))
        return [seen]

    assert_same(run(positions.now), run(lambda loader: None))


def test_all_random_states_are_as_they_were_before_the_first_fetch():
    _, saved = whole_run(SKIPPED["generators everywhere"])
    loader, now = SKIPPED["generators everywhere"](), from_plain(saved[1, 12][1])
    scramble(99)
    positions.go_on(loader, lambda: loader, from_plain(saved[1, 12][0]), now, 12)
    found = to_plain(positions.mark(loader), "")
    assert same(found, saved[1, 12][1])


def test_the_loader_keeps_its_own_sampler():
    _, saved = whole_run(SKIPPED["shuffled"])
    loader = SKIPPED["shuffled"]()
    kept = loader.batch_sampler
    positions.go_on(loader, lambda: loader, *map(from_plain, saved[0, 7]), 7)
    assert loader.batch_sampler is kept


def test_a_pass_that_was_not_begun_begins():
    scramble(0)
    loader = loader_over(shuffle=True)
    mark = positions.mark(loader)
    expected = train_on(loader, [])
    scramble(99)
    loader = loader_over(shuffle=True)
    assert_same([train_on(positions.go_on(loader, lambda: loader, mark, mark, 0), [])], [expected])


def test_persistent_workers_begin_an_epoch_as_those_that_were_there():
    """A checkpoint between two epochs has no mark: what it keeps of the loader is enough."""
    make = WORKERS["seeded, persistent"]
    epochs, saved = whole_run(make)
    scramble(99)
    loader = make()
    generators, torchs = from_plain(saved[0])
    positions.set_generator_states(loader, generators)
    torch.set_rng_state(torchs)
    seen = [train_on(loader, []) for _ in range(2)]
    assert_same([[batch[:2] for batch in epoch] for epoch in seen], [[b[:2] for b in e] for e in epochs[1:]])


def test_the_tensors_order_goes_on_with_the_epochs():
    make = WHOLE["tensors"]
    _, saved = whole_run(make)
    loader = make()
    list(positions.go_on(loader, lambda: loader, *map(from_plain, saved[1, 12]), 12))
    assert loader.epoch == 2


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        (loader_over, lambda: loader_over(range(9))),
        (
            lambda: loader_over(Seeded(Noisy()), num_workers=1),
            lambda: loader_over(Seeded(range(9)), num_workers=1),
        ),
        (WHOLE["tensors"], lambda: TensorLoader([torch.arange(9)], 3, shuffle=True, seed=2)),
        (WHOLE["a list"], lambda: [1, 2, 3]),
        (lambda: iter_of(14), lambda: iter_of(3)),
    ],
)
def test_a_loader_that_gives_fewer_batches_than_were_done_is_refused(longer, shorter):
    _, saved = whole_run(longer)
    loader = shorter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # the data set's own generator has gone, too
        with pytest.raises(ValueError, match=r"cut after 7 batches, but .* now gives 3"):
            positions.go_on(loader, lambda: give(loader), *map(from_plain, saved[0, 7]), 7)


def iter_of(n):
    return lambda: iter([torch.tensor([item]) for item in range(n)])


def test_another_process_goes_on_with_the_same_bits(tmp_path):
    epochs, saved = whole_run(SKIPPED["generators everywhere"])
    torch.save(saved[1, 12], tmp_path / "saved.pt")
    script = f"""
        import importlib.util, torch
        spec = importlib.util.spec_from_file_location("there", {str(Path(__file__))!r})
        there = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(there)
        saved = torch.load({str(tmp_path / "saved.pt")!r}, weights_only=True)
        seen = there.resumed(there.SKIPPED["generators everywhere"], *saved, 1, 12)
        torch.save(seen, {str(tmp_path / "seen.pt")!r})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=100)
    assert_same(torch.load(tmp_path / "seen.pt"), [epochs[1][12:], epochs[2]])


# Loaders that steer themselves


class Counting:
    """Batches that can tell where they are."""

    def __init__(self):
        self.n, self.rng = 0, random.Random(1)

    def state_dict(self):
        return {"n": self.n, "rng": self.rng.getstate()}

    def load_state_dict(self, state):
        self.n = state["n"]
        self.rng.setstate(state["rng"])

    def __iter__(self):
        while self.n < 14:
            self.n += 1
            yield torch.tensor([self.n, self.rng.random(), torch.rand(()).item()])
        self.n = 0


def test_a_loader_that_tells_where_it_is_goes_there():
    assert_goes_on(Counting, CUTS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stateful_loader_goes_on_with_the_same_bits_also_where_the_data_set_draws(shuffle):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    assert_goes_on(lambda: nodes.StatefulDataLoader(Noisy(), BATCH_SIZE, shuffle=shuffle), CUTS)


def test_a_stateful_loader_does_not_fetch_items_that_were_seen():
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    loader, rest = rest_of_one(lambda: nodes.StatefulDataLoader(Noisy(), BATCH_SIZE, shuffle=True))
    assert loader.dataset.fetched.sum() == 0
    list(rest)
    assert loader.dataset.fetched.sum() == N_ITEMS - 15


@pytest.mark.parametrize("dataset", [Plain, lambda: Seeded(Noisy())])
def test_a_stateful_loader_with_workers_goes_on_where_the_data_set_draws_nothing(dataset):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    assert_goes_on(lambda: nodes.StatefulDataLoader(dataset(), BATCH_SIZE, shuffle=True, num_workers=2), FEW)


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_a_stateful_loader_that_was_at_the_end_of_a_pass_begins_the_next(workers):
    nodes = pytest.importorskip("torchdata.stateful_dataloader")

    def train(loader, n_epochs):
        for _ in range(n_epochs):
            positions.mark(loader)
            yield train_on(loader, [])

    def make():
        return nodes.StatefulDataLoader(Plain(), BATCH_SIZE, shuffle=True, **workers)

    scramble(0)
    loader = make()
    list(train(loader, 2))
    saved = positions.now(loader)
    expected = list(train(loader, 2))
    scramble(99)
    loader = make()
    loader.load_state_dict(saved["loader"])
    positions.put(loader, saved)
    assert_same(list(train(loader, 2)), expected)


# What cannot be promised


@pytest.mark.parametrize(
    "make",
    [
        *SKIPPED.values(),
        *WHOLE.values(),
        *(make for kind, make in WORKERS.items() if kind != "no noise, persistent"),
        REPLAYED["workers"],
        REPLAYED["workers over a stream"],
        Counting,
    ],
)
def test_nothing_is_said_of_what_goes_on_with_the_same_bits(make):
    assert positions.limits(make()) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            WORKERS["no noise, persistent"],
            r"persistent workers .* wrap the data set, Seeded\(dataset\), or leave",
        ),
        (lambda: loader_over(Stream(), num_workers=1, persistent_workers=True), "before: leave persistent"),
        (
            lambda: loader_over(Seeded(Noisy()), num_workers=2, in_order=False),
            "in_order=False .* leave it out",
        ),
        (REPLAYED["a stream with a generator"], r"DataLoader over a Steady are drawn again .* state_dict"),
        (REPLAYED["a function"], "the function batches are drawn again"),
        (REPLAYED["an __iter__ of its own"], "DataLoader over a Plain are drawn again"),
    ],
)
def test_what_cannot_be_promised_is_said_with_what_would_help(make, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert re.search(words, positions.limits(make()))


def test_of_a_stateful_loader_with_workers_it_is_said_that_their_states_are_not_kept():
    nodes = pytest.importorskip("torchdata.stateful_dataloader")
    assert positions.limits(nodes.StatefulDataLoader(Noisy(), 3)) is None
    assert "Seeded" in positions.limits(nodes.StatefulDataLoader(Noisy(), 3, num_workers=2))
    assert positions.limits(nodes.StatefulDataLoader(Seeded(Noisy()), 3, num_workers=2)) is None


# Generators that belong to something


def test_generators_are_found_where_people_keep_them():
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


def test_a_transform_that_is_a_module_is_looked_into_and_the_modules_in_it():
    module = torch.nn.Sequential(torch.nn.Identity())
    module[0].rng = random.Random(0)
    assert list(generators_in(Noisy(module))) == ["rng", "transform._modules.0.rng"]
    assert generators_in(module) == {}  # of a module given itself, its modules are asked one by one


def test_long_lists_and_large_data_are_not_looked_into():
    dataset = Noisy()
    dataset.items = [random.Random(0)] * 101
    assert list(generators_in(dataset)) == ["rng"]


def test_what_holds_itself_is_looked_into_once():
    dataset = Noisy()
    dataset.itself = dataset.friends = [dataset]
    assert list(generators_in(dataset)) == ["rng"]


def test_states_of_all_kinds_are_plain_and_come_back():
    dataset = Noisy(several_rngs())
    states = to_plain(generator_states(dataset), "")
    first = dataset.transform(), dataset.rng.random()
    second = dataset.transform(), dataset.rng.random()
    set_generator_states(dataset, from_plain(states))
    assert (dataset.transform(), dataset.rng.random()) == first != second


def test_the_epoch_of_a_sampler_comes_back():
    def make():
        return loader_over(sampler=DistributedSampler(range(41), num_replicas=2, rank=0))

    loader = make()
    loader.sampler.set_epoch(4)
    other = make()
    positions.set_generator_states(other, positions.generator_states(loader))
    assert other.sampler.epoch == 4


def test_a_generator_that_is_not_there_any_more_is_told_of():
    states = generator_states(Noisy())
    dataset = Plain()
    del dataset.rng
    with pytest.warns(LearnerWarning, match=r"a Plain had random generators at 'rng', .* in its __init__"):
        set_generator_states(dataset, states)
