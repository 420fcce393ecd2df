"""Where a pass over data is, and how another process goes on there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from callbacks.core import draws
from learner.data import generators, workers
from learner.data.batching import TensorLoader
from learner.data.loaders import is_function
from learner.data.seeded import Seeded
from learner.data.tensors import counted, describe
from learner.passes import streams

WORKERS = "<workers>"  # beside the generators' paths, none of which has such a name
WHOLE = (list, tuple, range)  # kinds whose iterators draw nothing
ITERATED: tuple[Any, ...] = tuple(kind.__iter__ for kind in WHOLE)


def mark(loader: Any) -> dict[str, Any]:
    """What the pass that is about to begin will draw from; to be taken immediately before it."""
    workers.pass_the_end(loader)
    return draws_of(loader)


def draws_of(loader: Any) -> dict[str, Any]:
    """The random states, the states of the generators that belong to a loader, and the order of tensors."""
    state = {"random": draws.take(), "generators": generator_states(loader)}
    if isinstance(loader, TensorLoader):
        state["loader"] = loader.state_dict()
    return state


def now(loader: Any) -> dict[str, Any]:
    """The same in mid-pass, and of a loader that can tell where it is, that too."""
    state = draws_of(loader)
    if steers_itself(loader):
        state["loader"] = loader.state_dict()
    return state


def go_on(
    loader: Any,
    batches: Callable[[], Iterable[Any]],
    mark: dict[str, Any],
    now: dict[str, Any],
    n_done: int,
) -> Iterator[Any]:
    """The rest of a pass that was cut.

    Args:
        loader: what was given as data, made anew.
        batches: gives what the loop would go through.
        mark: what `mark` gave before the pass.
        now: what `now` gave after its last batch that was done.
        n_done: number of batches done, 1 or more; 0 begins the pass.

    Returns:
        The other batches. All random states are those of `now`, and nothing is drawn before the first fetch.

    Raises:
        ValueError: the loader gives fewer batches than were done.
    """
    put(loader, mark)
    if not n_done:
        return iter(batches())
    rest = rest_of(loader, batches, mark, now, n_done)
    put(loader, now)
    return rest


def rest_of(
    loader: Any, batches: Callable[[], Iterable[Any]], mark: dict[str, Any], now: dict[str, Any], n_done: int
) -> Iterator[Any]:
    """The batches from `n_done` on, in the cheapest way that gives the same."""
    if isinstance(loader, TensorLoader):
        check_enough(loader, n_done, len(loader))
        loader.load_state_dict(mark["loader"])
        return loader.from_batch(n_done)
    if is_sequence(loader):
        check_enough(loader, n_done, len(loader))
        return islice(iter(loader), n_done, None)
    if steers_itself(loader):
        loader.load_state_dict(now["loader"])
        return iter(batches())
    if can_skip(loader):
        rest, n_skipped = workers.skip(loader, n_done)
        check_enough(loader, n_done, n_skipped)
        return rest
    return replay(loader, batches, n_done)


def limits(loader: Any) -> str | None:
    """What cannot be promised where a pass of this loader is cut, and what would help; None where all can."""
    found = []
    if isinstance(loader, DataLoader) and loader.num_workers and not steers_itself(loader):
        if not loader.in_order:
            found.append(
                "With in_order=False the order of the batches depends on the workers' speed: leave it out."
            )
        if loader.persistent_workers and not isinstance(loader.dataset, Seeded):
            wrap = (
                ""
                if isinstance(loader.dataset, IterableDataset)
                else "wrap the data set, Seeded(dataset), or "
            )
            found.append(
                f"What persistent workers draw at random depends on all epochs before: {wrap}leave "
                "persistent_workers=True out."
            )
    elif steers_itself(loader):
        seeded = isinstance(getattr(loader, "dataset", None), Seeded)
        persistent = getattr(loader, "persistent_workers", False)
        if getattr(loader, "num_workers", 0) and (persistent or not seeded):
            found.append(
                f"A {type(loader).__name__} does not keep its workers' random states: what its data set "
                "draws at random will differ. Wrap the data set, Seeded(dataset), and leave "
                "persistent_workers out."
            )
    elif not (isinstance(loader, TensorLoader) or is_sequence(loader) or can_skip(loader)):
        found.append(
            f"The batches of {describe_source(loader)} are drawn again up to where it was. If their order "
            "depends on random numbers that training draws as well, it will differ: let them come from a "
            "generator of their own, or give the loader state_dict and load_state_dict."
        )
    return " ".join(found) or None


def describe_source(loader: Any) -> str:
    """Whose batches they are, in a few words."""
    if isinstance(loader, DataLoader):
        return f"a DataLoader over {describe(loader.dataset)}"
    return f"the function {getattr(loader, '__name__', loader)}" if is_function(loader) else describe(loader)


def put(loader: Any, state: dict[str, Any]) -> None:
    """Put back what will be drawn from."""
    draws.put(state["random"])
    set_generator_states(loader, state["generators"])


def check_enough(loader: Any, n_done: int, n_given: int) -> None:
    """Refuse a loader that gives fewer batches than were done."""
    if n_given < n_done:
        raise ValueError(
            f"the pass was cut after {counted(n_done, 'batch', 'batches')}, but {describe(loader)} now gives "
            f"{n_given}: give the same data and batch size as then, or begin a new run."
        )


def generator_states(root: Any) -> dict[str, dict[str, Any]]:
    """The states of the generators that something holds, by path, and of a loader its workers' base seed."""
    states = generators.generator_states(root)
    base_seed = workers.base_seed_of(root)
    return states if base_seed is None else {**states, WORKERS: {"kind": "workers", "state": base_seed}}


def set_generator_states(root: Any, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Put back what `generator_states` gave; warn of generators that are not there now."""
    states = dict(states)
    base_seed = states.pop(WORKERS, None)
    workers.put_base_seed(root, None if base_seed is None else base_seed["state"])
    generators.set_generator_states(root, states)


# What can be done with a loader


def is_sequence(loader: Any) -> bool:
    """A list, tuple or range, or a class of such that iterates as they do."""
    return isinstance(loader, WHOLE) and type(loader).__iter__ in ITERATED


def steers_itself(loader: Any) -> bool:
    """Can it tell where it is, and go there?"""
    both = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    return both and not isinstance(loader, TensorLoader)


def can_skip(loader: Any) -> bool:
    """Does a batch not depend on those before it?

    In the main process items draw from the states that `now` holds, in the workers of other data sets than
    `Seeded` ones from what the batches before have left.
    """
    if not workers.is_torchs_own(loader):
        return False
    # Persistent workers that have begun drew in the epochs before too: nobody can do that again.
    begun = workers.base_seed_of(loader) is not None
    alone = not loader.num_workers or isinstance(loader.dataset, Seeded) or begun
    return alone and not streams.holds_iterators(loader.dataset)


# Ways to go on


def replay(loader: Any, batches: Callable[[], Iterable[Any]], n_done: int) -> Iterator[Any]:
    """Draw the batches that are done again, and throw them away."""
    rest = iter(batches())
    n_given = sum(1 for _ in islice(rest, n_done))
    check_enough(loader, n_done, n_given)
    return rest
