"""An interrupted pass resumes with the same bits in a new loader, for every kind of loader."""

from __future__ import annotations

import textwrap
import warnings

import pytest
import torch
from interrupted_passes import (
    CUTS,
    FEW,
    N_ITEMS,
    REPLAYED,
    SKIPPED,
    WHOLE,
    WORKERS,
    Noisy,
    assert_resumes,
    assert_same,
    give,
    loader_over,
    rest_of_one,
    rest_of_pass,
    same,
    scramble,
    train_on,
    whole_run,
)
from processes import run

from callbacks import LearnerWarning
from learner import TensorLoader
from learner.data.seeded import Seeded
from learner.files.plain import from_plain, to_plain
from learner.passes import positions

# StatefulDataLoader 0.11 calls a deprecated function of torch.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


@pytest.mark.parametrize("kind", SKIPPED)
def test_a_loader_without_workers_resumes_with_the_same_bits(kind):
    assert_resumes(SKIPPED[kind], CUTS)


@pytest.mark.parametrize("kind", WHOLE)
def test_batches_in_memory_resume_with_the_same_bits(kind):
    assert_resumes(WHOLE[kind], CUTS)


@pytest.mark.parametrize("kind", REPLAYED)
def test_batches_that_are_drawn_again_resume_with_the_same_bits(kind):
    assert_resumes(REPLAYED[kind], FEW)


@pytest.mark.parametrize("kind", WORKERS)
def test_workers_that_skip_seen_items_resume_with_the_same_bits(kind):
    assert_resumes(WORKERS[kind], FEW)


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


def test_all_random_states_are_restored_before_the_first_fetch():
    _, saved = whole_run(SKIPPED["generators everywhere"])
    loader, now = SKIPPED["generators everywhere"](), from_plain(saved[1, 12][1])
    scramble(99)
    rest_of_pass(loader, lambda: loader, from_plain(saved[1, 12][0]), now, 12)
    found = to_plain(positions.mark(loader), "")
    assert same(found, saved[1, 12][1])


def test_the_loader_keeps_its_own_sampler():
    _, saved = whole_run(SKIPPED["shuffled"])
    loader = SKIPPED["shuffled"]()
    kept = loader.batch_sampler
    rest_of_pass(loader, lambda: loader, *map(from_plain, saved[0, 7]), 7)
    assert loader.batch_sampler is kept


def test_a_pass_that_had_not_started_starts():
    scramble(0)
    loader = loader_over(shuffle=True)
    mark = positions.mark(loader)
    expected = train_on(loader, [])
    scramble(99)
    loader = loader_over(shuffle=True)
    assert_same([train_on(rest_of_pass(loader, lambda: loader, mark, mark, 0), [])], [expected])


def test_new_persistent_workers_start_an_epoch_like_the_previous_ones():
    """A checkpoint between two epochs has no mark: the saved state of the loader is enough."""
    make = WORKERS["seeded, persistent"]
    epochs, saved = whole_run(make)
    scramble(99)
    loader = make()
    generators, torchs = from_plain(saved[0])
    positions.set_generator_states(loader, generators)
    torch.set_rng_state(torchs)
    seen = [train_on(loader, []) for _ in range(2)]
    assert_same([[batch[:2] for batch in epoch] for epoch in seen], [[b[:2] for b in e] for e in epochs[1:]])


def test_the_order_of_tensors_continues_with_the_epochs():
    make = WHOLE["tensors"]
    _, saved = whole_run(make)
    loader = make()
    list(rest_of_pass(loader, lambda: loader, *map(from_plain, saved[1, 12]), 12))
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
def test_a_loader_with_fewer_batches_than_were_done_is_refused(longer, shorter):
    _, saved = whole_run(longer)
    loader = shorter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearnerWarning)  # the data set's own generator is missing, too
        with pytest.raises(ValueError, match=r"interrupted after 7 batches, but .* now has 3"):
            rest_of_pass(loader, lambda: give(loader), *map(from_plain, saved[0, 7]), 7)


def iter_of(n):
    return lambda: iter([torch.tensor([item]) for item in range(n)])


def test_another_process_resumes_with_the_same_bits(tmp_path):
    epochs, saved = whole_run(SKIPPED["generators everywhere"])
    torch.save(saved[1, 12], tmp_path / "saved.pt")
    script = """
        import torch, interrupted_passes
        saved = torch.load("saved.pt", weights_only=True)
        seen = interrupted_passes.resumed(interrupted_passes.SKIPPED["generators everywhere"], *saved, 1, 12)
        torch.save(seen, "seen.pt")
    """
    done = run("-c", textwrap.dedent(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(torch.load(tmp_path / "seen.pt"), [epochs[1][12:], epochs[2]])
