"""The code around a fit, or around a pass outside a fit: checks, notes on errors, clean-up, module modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from callbacks.core.ranks import ALONE
from callbacks.distributed.heartbeat import explained
from learner.checks.preflight import check_before_fit
from learner.engine import errors
from learner.state.attributes import pass_state, restore_pass_state
from learner.state.pass_modes import leave_in_evaluation_mode, modes_of, resume_training_modes, set_modes
from learner.state.protocol import FullLearner


@contextmanager
def under_way(learn: FullLearner) -> Iterator[None]:
    """Check a fit before it runs, and let every callback clean up at its end, whatever happened."""
    was_left = resume_training_modes(learn.model)
    modes = modes_of(learn)
    learn.fitting = True
    try:
        check_before_fit(learn)
        with uncached():
            yield
    except BaseException as error:
        learn.error = explained(errors.with_place(error, learn))
        if learn.error is error:
            raise
        raise learn.error from error
    finally:
        learn.abortable = False
        errors.end(learn, modes)
        if was_left or not (learn.error or learn.interrupted):
            leave_in_evaluation_mode(learn.model)


@contextmanager
def uncached() -> Iterator[None]:
    """Within a `torch.autocast` around the fit, use the current weights in each batch.

    Torch keeps half-precision copies of the weights until the outermost autocast ends, here after the fit.
    """
    is_within = torch.autocast_increment_nesting() > 1
    torch.autocast_decrement_nesting()
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(kept and not is_within)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
        if is_within:
            torch.clear_autocast_cache()


@contextmanager
def aside(learn: FullLearner, *, together: bool = False) -> Iterator[None]:
    """Run batches in evaluation mode, inside or outside a fit; then restore the state of the loop.

    Args:
        learn: the learner.
        together: do all processes of the fit run them? Otherwise this one may be alone.
    """
    modes, kept, ranks = modes_of(learn), pass_state(learn), learn.ranks
    learn.ranks = learn.loop.known.ranks = ranks if together else ALONE
    learn.results, learn.stop_reason, learn.loop.start = {}, None, None
    learn.is_aside, learn.valid_name = True, "valid"
    learn.loop.begin_pass(learn, (), training=False, span="predict")
    try:
        yield
    except BaseException as error:
        placed = errors.with_place(error, learn)
        if not learn.fitting:  # otherwise a callback may catch it, and the fit continue
            learn.error = placed
        if placed is error:
            raise
        raise placed from error
    finally:
        stopped = learn.stop_reason if learn.fitting else None
        restore_pass_state(learn, kept)
        learn.ranks = learn.loop.known.ranks = ranks
        if stopped:
            ranks.stop(learn, stopped)
        set_modes(modes)
