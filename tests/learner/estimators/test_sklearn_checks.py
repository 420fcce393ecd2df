"""The estimators pass scikit-learn's own checks, apart from those that a network cannot pass."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from learner import LearnerClassifier, LearnerRegressor

#: Checks that fail, each with the reason; docs/sklearn.md has the same table.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "a weight of 2 equals a repeated item only up to "
    "rounding in float32, and the batches differ if there are several",
}


class Network(nn.Sequential):
    """A network small enough for hundreds of fits; its name is the same in each process."""

    def __init__(self, n_features: int, n_outputs: int):
        super().__init__(nn.Linear(n_features, 16), nn.ReLU(), nn.Linear(16, n_outputs))


adam = partial(torch.optim.Adam, lr=0.02)


@parametrize_with_checks(
    [
        LearnerClassifier(Network, optimizer=adam, n_epochs=20, seed=0),
        LearnerRegressor(Network, optimizer=adam, n_epochs=20, seed=0),
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_a_check_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_page_lists_the_checks_that_fail():
    page = (Path(__file__).parents[3] / "docs" / "sklearn.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` | {reason} |" in page for name, reason in EXPECTED.items())
