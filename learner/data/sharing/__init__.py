"""Share out the batches of one pass over several processes, the ranks."""

from learner.data.sharing.first_batch import check_alike, sample_of, unchecked
from learner.data.sharing.padding import Padding
from learner.data.sharing.sharded_data import Sharding, sharding_of
from learner.data.sharing.shares import Share
from learner.data.sharing.sharing import Shared

__all__ = [
    "Padding",
    "Sharding",
    "Share",
    "Shared",
    "check_alike",
    "sample_of",
    "sharding_of",
    "unchecked",
]
