"""The upper floor: the loop, data, recipes and the command line."""

from learner.data import Data, TensorLoader
from learner.learner import DEFAULT_CALLBACKS, Learner

__all__ = ["DEFAULT_CALLBACKS", "Data", "Learner", "TensorLoader"]
