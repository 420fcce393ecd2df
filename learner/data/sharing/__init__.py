"""Share out the batches of one pass over several processes, the ranks."""

from learner.data.sharing.sharded import Sharding, sharding_of
from learner.data.sharing.shares import Share
from learner.data.sharing.sharing import Shared

__all__ = [
    "Sharding",
    "Share",
    "Shared",
    "sharding_of",
]
