"""The upper floor: the loop, data, recipes and the command line."""

from learner.composition import DEFAULT_CALLBACKS
from learner.data import Data, TensorLoader
from learner.learner import Learner

__all__ = ["DEFAULT_CALLBACKS", "Data", "Learner", "TensorLoader"]
