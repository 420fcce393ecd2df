"""What the tests of optimizers share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def with_momentum(make_learner):
    """A learner whose optimizer has a momentum."""

    def make(*callbacks, **options):
        learn = make_learner(callbacks=callbacks, **options)
        learn.optimizer = torch.optim.SGD(learn.model.parameters(), lr=0.1, momentum=0.9)
        return learn

    return make
