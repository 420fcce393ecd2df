"""Share out the batches of one pass over several processes, the ranks."""

from learner.data.sharing.shares import Share
from learner.data.sharing.sharing import Shared, shared

__all__ = ["Share", "Shared", "shared"]
