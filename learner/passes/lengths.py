"""The number of batches of a pass, and whether it is certain."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader

from callbacks.core.ranks import Ranks
from learner.data.batching import TensorLoader
from learner.data.loaders import is_sequence, n_batches_of
from learner.data.sharing import sharding_of
from learner.data.workers import is_torchs_own


class Length(NamedTuple):
    """The length of a pass."""

    n_batches: int | None  #: of this process, or of the one with the most; None if it is not known
    is_certain: bool
    is_even: bool = True  #: is it certain that all processes have the same number of batches?


def length_of(loader: Any, ranks: Ranks, *, in_step: bool) -> Length:
    """The length of a pass over a loader.

    Args:
        loader: the loader or function in the data.
        ranks: the processes that train together.
        in_step: do all of them need the same number of batches? If each has data of its own, every process
            must then call this.
    """
    own = Length(ranks.n_steps(n_batches_of(loader)), is_exact(loader) or has_exact_length(loader))
    if not in_step or ranks.size == 1 or not (ranks.sharded or sharding_of(loader) is not None):
        return own
    found = ranks.gather(own)
    numbers = [each.n_batches for each in found if each.n_batches is not None]
    is_certain = all(each.is_certain and each.n_batches is not None for each in found)
    longest = max(numbers) if len(numbers) == ranks.size else None
    return Length(longest, is_certain, is_certain and len(set(numbers)) == 1)


def is_exact(loader: Any) -> bool:
    """Are the batches in memory, so that their number is known and no user code runs between them?"""
    return isinstance(loader, TensorLoader) or is_sequence(loader)


def has_exact_length(loader: Any) -> bool:
    """Is this a plain `DataLoader`, with samplers of torch, so that its length is right?"""
    if not is_torchs_own(loader) or type(loader).__len__ is not DataLoader.__len__:
        return False
    sampler = loader._index_sampler
    parts = (sampler, sampler.sampler) if type(sampler) is BatchSampler else (sampler,)
    return all(type(part).__module__.startswith("torch.utils.data.") for part in parts)
