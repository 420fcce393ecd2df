"""Refuse to save weights that are NaN or infinite."""

from __future__ import annotations

from pathlib import Path

from callbacks.core.modules import loss_tensors
from callbacks.core.warning import warn
from callbacks.model.finite import n_bad, nan_buffers, suspects
from callbacks.model.named import named_tensors
from learner.checks.preflight import EpochWatch
from learner.state.protocol import FullLearner


def check_finite(learn: FullLearner, path: Path) -> None:
    """Refuse to save NaN or infinity in trained weights or in statistics such as those of batch norm.

    Values that were there at the start of the fit are intended, and so are values that are not trained. A
    warning reports any other buffer in which NaN has appeared since.
    """
    found = {**named_tensors(learn.model), **loss_tensors(learn)}
    watch = next((each for each in learn.callbacks if isinstance(each, EpochWatch)), EpochWatch())
    known = watch.n_bad
    bad = [name for name in suspects(found) if n_bad(name, found[name], found[name]) > known.get(name, 0)]
    if bad:
        raise FloatingPointError(
            f"{path.name} was not written: {bad[0]!r} contains NaN or "
            f"infinity{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}, and no run can resume from "
            "that. Earlier checkpoints are unchanged. Lower the learning rate or clip the gradients."
        )
    new = sorted(nan_buffers(found) & watch.good) if watch.good else []
    if new:
        watch.good.difference_update(new)
        warn(
            f"{path.name} contains NaN in "
            f"{', '.join(map(repr, new[:3]))}{', ...' if len(new) > 3 else ''}, which had no NaN at the "
            "start of the fit. If this is not intended, find the code that writes to it, and resume from "
            "an earlier checkpoint."
        )
