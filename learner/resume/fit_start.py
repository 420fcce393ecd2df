"""Note the state at the start of a fit, with which checkpoints compare."""

from __future__ import annotations

from learner.resume.loading import settings_of
from learner.state.fingerprint import loader_of
from learner.state.protocol import FullLearner
from learner.state.unkept import hidden_tensors


def note_start(learn: FullLearner) -> None:
    """Note the state at the start of a fit, as far as checkpoints need it."""
    learn.loop.known.point = None
    learn.given = {each.name for each in learn.callbacks}
    learn.loop.moved.begin(learn)
    if learn.optimizer is not None and any(each.saves_checkpoints for each in learn.callbacks):
        learn.groups_at_start = settings_of(learn.optimizer)
        learn.hidden_at_start = hidden_tensors(learn.model)
        note_loaders(learn)


def note_loaders(learn: FullLearner) -> None:
    """Note the loaders at the start of a fit, except those that a callback has set in the last fit."""
    for part, loader in learn.data.loaders.items():
        if part not in learn.loop.known.at_start or loader is not learn.loop.known.at_end.get(part):
            learn.loop.known.at_start[part] = loader, loader_of(loader)
            learn.loop.known.moved.begin(part, loader)
