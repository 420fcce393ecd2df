"""Loaders with a `state_dict`: those of torchdata, litdata and MosaicML, and your own.

Libraries differ in what a pass yields after `load_state_dict` with the state of a pass that is over: a loader
of torchdata or litdata starts the next pass, one of MosaicML yields nothing. Here, the rest of that pass is
empty, and the next pass starts as if the loader had never been restored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from callbacks.core import draws
from learner.data import workers
from learner.data.batching import TensorLoader
from learner.data.generators import generator_states, set_generator_states, undrawn
from learner.data.sharing import Shared

END = object()


def has_own_position(loader: Any) -> bool:
    """Can the loader save and restore its position?"""
    both = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    return both and not isinstance(loader, TensorLoader)


def keeps_passes(loader: Any) -> bool:
    """Does its state also hold what depends on earlier passes, such as the number of the epoch?

    A `StatefulDataLoader` saves the position in a pass, but not what its sampler and data set keep from pass
    to pass, unless they have a `state_dict` too.
    """
    return has_own_position(loader) and not hasattr(loader, "next_iter_state")


def state_of(loader: Any) -> Any:
    """The state of a loader, taken without a draw.

    Before its first pass, a `StatefulDataLoader` starts this pass to read its state. It starts again later,
    unless it has workers, which take too long to start for each checkpoint.
    """
    if not hasattr(loader, "next_iter_state") or loader._iterator is not None:
        return loader.state_dict()
    waiting = loader.next_iter_state
    with undrawn(loader):
        state = loader.state_dict()
    if not loader.num_workers:
        loader._iterator, loader._initial_iter_for_state_dict, loader.next_iter_state = None, False, waiting
    return state


def load(loader: Any, state: Any) -> None:
    """Load a state into a loader, even if its own state was read before its first pass."""
    if is_of_nodes(loader):
        # `state_dict` sets it, and the next pass would ignore the new state
        loader._iter_for_state_dict = False
    loader.load_state_dict(state)


def rest_in(loader: Any, found: Iterable[Any], now: dict[str, Any]) -> Iterator[Any]:
    """The batches after the position that the loader saved, in this process if each has data of its own.

    Raises:
        ValueError: the checkpoint does not have the position of this process.
    """
    if not isinstance(found, Shared):
        return rest_of(loader, found, now["loader"])
    if not found.share.sharded:
        return found.rest(rest_of(loader, found.batches, now["loader"]))
    rank = found.share.rank
    if now.get("rank") != rank and "loaders" not in now:
        raise ValueError(
            "the checkpoint was saved in the middle of a pass by an earlier version, and has the position of "
            f"rank 0 in its data, but not that of rank {rank}. Resume from a checkpoint that was saved after "
            "an epoch, or start a new run from its weights: learn.load(path), then learn.fit."
        )
    state = now["loader"] if now.get("rank") == rank else now["loaders"][rank]
    if now.get("is_over"):
        load(loader, state)
        return found.rest(())
    return found.rest(rest_of(loader, found.batches, state))


def rest_of(loader: Any, batches: Iterable[Any], state: Any) -> Iterator[Any]:
    """The batches of an interrupted pass after the position of a state."""
    load(loader, state)
    if is_over(loader, state):
        return iter(())
    draw_nothing_at_start(loader)
    with without_restart(loader):
        return iter(batches)


def is_over(loader: Any, state: Any) -> bool:
    """Was this state, which was just loaded, saved at the end of a pass?

    Other loaders than those of `torchdata.nodes` and litdata then yield nothing, or are not known.
    """
    if not is_of_nodes(loader):
        return getattr(loader, "restore", None) is False  # litdata: a pass continues only with True
    with undrawn(loader), without_restart(loader):
        found = not iter(loader).has_next()  # this fetches a batch
    if not found:
        load(loader, state)
    return found


def draw_nothing_at_start(loader: Any) -> None:
    """Undo the draw of a seed when the workers of the next pass start, if `__iter__` is a generator.

    They then start at the first batch, after all random states were restored.
    """
    if not isinstance(loader, DataLoader) or not inspect.isgeneratorfunction(type(loader).__iter__):
        return
    create = loader._get_iterator

    def created() -> Any:
        del vars(loader)["_get_iterator"]
        with undrawn(loader):
            return create()

    vars(loader)["_get_iterator"] = created


@contextmanager
def without_restart(loader: Any) -> Iterator[None]:
    """Let a `torchdata.nodes.Loader` yield nothing at the end of a pass, instead of the next pass."""
    if not is_of_nodes(loader):
        yield
        return
    kept, loader.restart_on_stop_iteration = loader.restart_on_stop_iteration, False
    try:
        yield
    finally:
        loader.restart_on_stop_iteration = kept


def pass_the_end(loader: Any) -> None:
    """Advance a loader of torchdata that was restored at the end of a pass to the start of the next one.

    It would do this itself, but with more draws than a loader that was not restored.
    """
    workers.pass_the_end(loader)
    state = loader._next_iter_state_dict if is_of_nodes(loader) else None
    if state is None:
        return
    with undrawn(loader):
        iterator = iter(loader)
        if iterator.state_dict()["num_yielded"]:  # it was not at the end
            load(loader, state)


def past_the_end(loader: Any, first: Iterator[Any], batches: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The batches of a new pass over a loader that was restored at the end of the last one.

    Args:
        loader: the loader.
        first: the batches of the next pass; empty if it continues the last one, which is at its end.
        batches: a function that returns the batches of a pass.
    """
    random, own = draws.take(), generator_states(loader)
    batch = next(first, END)
    if batch is END:
        draws.put(random)
        set_generator_states(loader, own)
        yield from batches()
        return
    yield batch
    yield from first


def is_of_nodes(loader: Any) -> bool:
    """Is this a `torchdata.nodes.Loader`?"""
    return hasattr(loader, "restart_on_stop_iteration") and has_own_position(loader)
