"""Recognise data that is sharded already, so that each rank has its own part."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset

from callbacks.core.contract import LearnerWarning
from learner.data.generators import walk
from learner.data.loaders import describe_loader

OWN_PARTS = ("split_by_node", "ShardingFilterIterDataPipe")  # of webdataset, and of the pipes of torch
# The attributes with the number of parts and the own one: of samplers, Hugging Face, litdata, MosaicML.
NUMBERS = (
    ("num_replicas", "rank"),
    ("world_size", "rank"),
    ("world_size", "global_rank"),
    ("num_ranks", "rank"),
)
OF_WORKERS = "_WorkerEnv"  # in litdata, with the attributes `world_size` and `rank` of a worker process
LATE = (
    "It finds its rank when the data set is created: call torch.distributed.init_process_group() first, "
    "or set os.environ['GLOBAL_RANK'] = os.environ['RANK']."
)
WORDS = {"get_rank", "get_world_size", "RANK", "WORLD_SIZE"}  # in the code of a stream that shards itself


@dataclass
class Sharding:
    """Something in a loader that yields only the part of one rank.

    Attributes:
        part: the sampler, data set or function.
        size: into how many parts it divides the data, and which one it yields; None if that is not known.
        is_certain: does it certainly do so? Code that asks for the rank may have another reason.
    """

    part: Any
    size: int | None = None
    rank: int | None = None
    is_certain: bool = True

    @property
    def name(self) -> str:
        """What it is called."""
        return getattr(self.part, "__name__", type(self.part).__name__)

    def problems(self, loader: Any, ranks: Any) -> Iterator[Exception]:
        """Report a part of another rank or for another number of ranks, and repeated items."""
        hint = (
            f"Omit {self.name}: each process then draws the same batches from the loader, and takes its "
            "share of each."
        )
        if hasattr(self.part, "global_rank"):  # of litdata
            hint = LATE
        where = f"{describe_loader(loader)} has a {self.name}"
        yield from self._wrong_parts(where, hint, ranks)
        n_items = n_items_of(self.part)
        n_drawn = getattr(self.part, "total_size", n_items)
        if n_items is not None and n_drawn is not None and n_drawn != n_items:
            more = f"repeats {n_drawn - n_items}" if n_drawn > n_items else f"leaves out {n_items - n_drawn}"
            yield LearnerWarning(f"{where}, which {more} of {n_items} items in each pass. {hint}")
        if not self.is_certain and not ranks.sharded:
            yield LearnerWarning(
                f"{where} that asks for the rank of its process, so its items are taken as those of this "
                "rank only. To confirm this, pass Distributed(sharded=True). If every rank yields the same "
                "items, remove the code that asks for the rank; the ranks then split each batch."
            )

    def _wrong_parts(self, where: str, hint: str, ranks: Any) -> Iterator[Exception]:
        rank, size = ranks.rank, ranks.size
        if self.size is not None and (self.size, self.rank) != (size, rank):
            yield ValueError(
                f"{where} for rank {self.rank} of {self.size}, but this is rank {rank} of {size}. {hint}"
            )
        elif ranks.each:
            more = "." if hint is LATE else f", or {hint[0].lower()}{hint[1:]}"
            yield ValueError(
                f"Distributed(batch='each'): {where}, so each rank already has its own batches. Omit "
                f"batch='each'{more}"
            )


def sharding_of(loader: Any) -> Sharding | None:
    """What shards the data of a loader, such as a `DistributedSampler`; None if nothing is known to."""
    for _, part in walk(loader):
        kept = {} if type(part).__name__ == OF_WORKERS else getattr(part, "__dict__", {})
        for names in NUMBERS:
            found = [kept.get(name) for name in names]
            if all(type(each) is int for each in found):
                return Sharding(part, found[0], found[1])
        if getattr(part, "__name__", type(part).__name__) in OWN_PARTS:
            return Sharding(part)
        if reads_its_rank(part):
            return Sharding(part, is_certain=False)
    return None


def reads_its_rank(part: Any) -> bool:
    """Does the code of a generator or of a stream of items ask for the rank of this process?"""
    if inspect.isgenerator(part):
        code = part.gi_code
    else:
        code = getattr(type(part).__iter__, "__code__", None) if isinstance(part, IterableDataset) else None
    return code is not None and bool(WORDS & {*code.co_names, *map(str, code.co_consts)})


def n_items_of(sampler: Any) -> int | None:
    """The number of items of the data set of a sampler; None if it is not known."""
    try:
        return len(sampler.dataset)
    except (AttributeError, TypeError):
        return None
