"""Data functions that return a `Data`, so these files import this project; the scripts themselves do not."""

import models

from learner import Blocks, Data


def two_inputs():
    return Data(*models.two_inputs(), n_inputs=2)


def by_name():
    return Data(models.by_name()[0], targets="y")


def by_function():
    batches, valid = models.two_inputs()
    return Data(batches, valid, split=lambda batch: ((batch[0], batch[1]), batch[2]))


def in_blocks():
    return Data.from_tensors(*models.tensors(), batch_size=16, seed=4, order=Blocks(5, window=3))
