"""The position in a pass over data, and how another process resumes there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from callbacks.core import draws
from callbacks.core.ranks import ALONE
from learner.data import generators, workers
from learner.data.batching import TensorLoader
from learner.data.loaders import holds_iterators, is_function, is_sequence, n_batches_of
from learner.data.seeded import Seeded
from learner.data.sharing import Share, Shared, by_index, sharding_of
from learner.data.tensors import counted, describe
from learner.passes import own_positions
from learner.passes.clock_seeds import seeded_by_the_clock
from learner.passes.moved_values import put_values
from learner.passes.own_positions import has_own_position

WORKERS = "<workers>"  # a key next to the paths of generators; no path has this name


def mark(loader: Any) -> dict[str, Any]:
    """The random states that the next pass will draw from; call this immediately before the pass."""
    own_positions.pass_the_end(loader)
    return draws_of(loader)


def draws_of(loader: Any) -> dict[str, Any]:
    """The random states, and the order of a loader."""
    return {"random": draws.take(), **order_of(loader)}


def now(loader: Any) -> dict[str, Any]:
    """The same in the middle of a pass, with the position of a loader that has its own."""
    state = draws_of(loader)
    if has_own_position(loader):
        state["loader"] = loader.state_dict()
    return state


def resume(
    loader: Any,
    batches: Callable[[], Iterable[Any]],
    mark: dict[str, Any],
    now: dict[str, Any],
    position: Mapping[str, Any],
) -> tuple[int, Iterator[Any]]:
    """Resume an interrupted pass.

    Args:
        loader: the loader or function in the data, newly created.
        batches: a function that returns the batches of a pass.
        mark: what `mark` returned before the pass.
        now: what `now` returned after the last batch that is done, and the `values` of the loader's parts.
        position: `n_done`, the number of steps that are done, with 0 the pass starts again; and for processes
            that trained together, `group`, the batches of one step, and `shards`, the number of processes
            with data of their own.

    Returns:
        The number of steps that are done, and the batches of the others. All random states are those of
        `now`, and nothing is drawn before the first fetch.

    Raises:
        ValueError: the loader has fewer batches than are done, or the processes differ too much.
    """
    restore(loader, mark)
    found = batches()
    if not position["n_done"]:
        return 0, iter(found)
    n_done = steps_done(position, found.share if isinstance(found, Shared) else Share(0, 1), loader)
    rest = rest_of(loader, found, mark, now, n_done)
    restore(loader, now)
    return n_done, rest


def rest_of(
    loader: Any, found: Iterable[Any], mark: dict[str, Any], now: dict[str, Any], n_done: int
) -> Iterator[Any]:
    """The batches after step `n_done`, in the cheapest way that yields the same batches."""
    if isinstance(loader, TensorLoader):
        loader.load_state_dict(mark["loader"])
    if has_own_position(loader):
        return own_positions.rest_in(loader, found, now)
    if isinstance(found, Shared) and found.share.sharded and can_skip(loader):
        batches, n_skipped = workers.skip(loader, n_done)
        rest = found.rest(batches)
    elif isinstance(found, Shared):
        rest, n_skipped = found.after(n_done)
    elif isinstance(loader, TensorLoader):
        rest, n_skipped = loader.from_batch(n_done), len(loader)
    elif is_sequence(loader):
        rest, n_skipped = islice(iter(loader), n_done, None), len(loader)
    elif can_skip(loader):
        rest, n_skipped = workers.skip(loader, n_done)
    else:  # draw the batches that are done again, and discard them
        rest = iter(found)
        n_skipped = sum(1 for _ in islice(rest, n_done))
    padding = found.padding if isinstance(found, Shared) else None
    check_enough(loader, n_done, n_skipped if padding is None else padding.n_skipped(n_skipped))
    return rest


def steps_done(then: Mapping[str, Any], share: Share, loader: Any) -> int:
    """The number of steps that are done, if the processes differ from those that saved the position.

    Raises:
        ValueError: a step then would end within a step now, or each process had data of its own.
    """
    n_done, group, shards = then["n_done"], then.get("group", 1), then.get("shards", 1)
    own = share.size if share.sharded else 1
    if shards != own:
        raise ValueError(
            f"the pass was interrupted with {shards_in_words(shards)}, but now there is "
            f"{shards_in_words(own)}, so it is not known which batches are done. Resume with as many "
            "processes, or from a checkpoint that was saved after an epoch."
        )
    if group == share.group:
        return n_done
    n_batches, length = n_done * group, n_batches_of(loader)
    if length is not None and n_batches >= length:
        return -(-length // share.group)
    if n_batches % share.group:
        raise ValueError(
            f"the pass was interrupted after {counted(n_batches, 'batch', 'batches')}, of which {group} were "
            f"taken in each step; now {share.group} are, which does not divide {n_batches}. Resume with "
            "as many processes, or from a checkpoint that was saved after an epoch."
        )
    return n_batches // share.group


def shards_in_words(number: int) -> str:
    """The number of parts that the data is sharded into, in words."""
    return "data that is not sharded" if number == 1 else f"data that is sharded into {number} parts"


def limits(loader: Any, ranks: Any = ALONE) -> str | None:
    """What may differ if a pass over this loader is interrupted, and how to fix it; None if nothing may.

    Processes that share out the items of a loader draw the order and the items from separate streams.
    """
    if ranks is not ALONE and not ranks.sharded and by_index.is_possible(loader):
        return None
    clock = seeded_by_the_clock(loader)
    if clock is not None:
        return clock
    if has_own_position(loader):
        return own_position_limit(loader)
    if isinstance(loader, DataLoader) and loader.num_workers:
        return " ".join(worker_limits(loader)) or None
    if isinstance(loader, TensorLoader) or is_sequence(loader) or can_skip(loader):
        return None
    return (
        f"The batches of {describe_source(loader)} are drawn again up to the position. They will differ if "
        "they depend on the model, or on random numbers that training also draws: use a separate generator "
        "for them, or implement state_dict and load_state_dict on the loader."
    )


def own_position_limit(loader: Any) -> str | None:
    """The same for a loader that saves its position."""
    dataset = getattr(loader, "dataset", None)
    persistent = getattr(loader, "persistent_workers", False)
    if not getattr(loader, "num_workers", 0) or (isinstance(dataset, Seeded) and not persistent):
        return None
    if isinstance(dataset, IterableDataset):
        fix = "Draw them in a callback, in before_batch, or with num_workers=0."
    else:
        fix = "Wrap the data set, Seeded(dataset), and leave persistent_workers=True out."
    return (
        f"A {type(loader).__name__} does not save the random states of its workers, so the random "
        f"numbers of its data set will differ, if it draws any. {fix}"
    )


def worker_limits(loader: DataLoader[Any]) -> Iterator[str]:
    """The same for a loader of torch with workers, one by one."""
    if not loader.in_order:
        yield (
            "With in_order=False the order of the batches depends on the speed of the workers: leave it out."
        )
    draws_nothing = holds_rows(loader.dataset) and loader.collate_fn is default_collate
    if loader.persistent_workers and not (draws_nothing or isinstance(loader.dataset, Seeded)):
        can_wrap = not isinstance(loader.dataset, IterableDataset)
        wrap = "wrap the data set, Seeded(dataset), or " if can_wrap else ""
        yield (
            f"The random numbers of persistent workers depend on all earlier epochs: {wrap}leave "
            "persistent_workers=True out."
        )


def holds_rows(dataset: Any) -> bool:
    """Are the items rows of tensors, so that nothing is drawn for them?"""
    if type(dataset) is ConcatDataset:
        return all(map(holds_rows, dataset.datasets))
    return holds_rows(dataset.dataset) if type(dataset) is Subset else type(dataset) is TensorDataset


def describe_source(loader: Any) -> str:
    """A short description of what yields the batches."""
    if isinstance(loader, DataLoader):
        return f"a DataLoader over {describe(loader.dataset)}"
    return f"the function {getattr(loader, '__name__', loader)}" if is_function(loader) else describe(loader)


def restore(loader: Any, state: dict[str, Any]) -> None:
    """Restore the random states that `mark` or `now` returned, and any `values` of the loader's parts."""
    put_values(loader, state.get("values", {}))
    draws.put(state["random"])
    set_generator_states(loader, state["generators"])


def check_enough(loader: Any, n_done: int, n_given: int) -> None:
    """Raise an error if a loader has fewer batches than are done."""
    if n_given < n_done:
        raise ValueError(
            f"the pass was interrupted after {counted(n_done, 'batch', 'batches')}, but {describe(loader)} "
            f"now has {n_given}: pass the same data with the same batch size, or start a new run."
        )


def agree(ranks: Any, loaders: Mapping[str, Any]) -> None:
    """Give the loaders of all processes the orders and the random generators of the first process.

    Loaders whose seeds were drawn when the process started may differ in them. Every process must call this.
    """
    shared = {name: each for name, each in loaders.items() if each is not None and sharding_of(each) is None}
    if ranks.size == 1 or ranks.sharded:
        return
    orders = ranks.first(lambda: {name: order_of(each) for name, each in shared.items()})
    for name, order in orders.items():
        set_generator_states(shared[name], order["generators"])
        if "loader" in order:
            shared[name].load_state_dict(order["loader"])


def order_of(loader: Any) -> dict[str, Any]:
    """The states of the generators that belong to a loader, and the order of tensors."""
    state = {"generators": generator_states(loader)}
    return {**state, "loader": loader.state_dict()} if isinstance(loader, TensorLoader) else state


def generator_states(root: Any) -> dict[str, dict[str, Any]]:
    """The states of all generators in an object, by path, and the base seed of a loader's workers."""
    states = generators.generator_states(root)
    base_seed = workers.base_seed_of(root)
    return states if base_seed is None else {**states, WORKERS: {"kind": "workers", "state": base_seed}}


def set_generator_states(root: Any, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore what `generator_states` returned; warn of generators that are missing now."""
    states = dict(states)
    base_seed = states.pop(WORKERS, None)
    workers.put_base_seed(root, None if base_seed is None else base_seed["state"])
    generators.set_generator_states(root, states)


# Kinds of loaders


def can_skip(loader: Any) -> bool:
    """Are the batches independent of those before them?

    In the main process items draw from the states that `now` returns. In workers they draw from states that
    depend on earlier batches, unless the data set is `Seeded`.
    """
    if not workers.is_torchs_own(loader):
        return False
    # Persistent workers that have started drew in earlier epochs too, which cannot be repeated.
    have_started = workers.base_seed_of(loader) is not None
    alone = not loader.num_workers or isinstance(loader.dataset, Seeded) or have_started
    return alone and not holds_iterators(loader.dataset)
