"""One seed for all global generators."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from learner import seed_everything


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_a_seed_makes_all_generators_draw_the_same_again():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert seed_everything(3) == 3
    first, second = draws(), draws()
    seed_everything(3)
    assert (draws(), draws()) == (first, second)
    seed_everything(4)
    assert all(one != other for one, other in zip(draws(), first, strict=True))
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None, "1"])
def test_an_invalid_seed_is_refused(seed):
    with pytest.raises(ValueError, match="pass a whole number from 0 to"):
        seed_everything(seed)
