"""A run that is interrupted and resumed, and the same run without interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
from resumed import Crash, make, outcome

N_EPOCHS = 4


def run_interrupted(folder: Path, at: int | None, n_epochs: int = N_EPOCHS, **options):
    """Fit until an error, then resume with a new learner."""
    if at is not None:
        with pytest.raises(ZeroDivisionError):
            make(folder, **options).fit(n_epochs, callbacks=[Crash(at)])
    learn = make(folder, **options)
    learn.fit(n_epochs, resume="auto")
    return learn


def whole(n_epochs: int = N_EPOCHS, **options):
    learn = make(**options)
    learn.fit(n_epochs)
    return outcome(learn)
