"""Collect everything that determines how a learner continues: the contents of a checkpoint."""

from __future__ import annotations

import json
from typing import Any, Literal

import torch

from callbacks.core.modules import modules_beside
from callbacks.core.warning import warn
from learner.data.samples import as_plain
from learner.data.sharing import Share
from learner.files import checkpoint_file
from learner.passes import positions
from learner.state import snapshots
from learner.state.fingerprint import fingerprint, plain_or_none
from learner.state.protocol import FullLearner

At = Literal["batch", "epoch", "end", "before"]


def contents_of(learn: FullLearner, at: At | None) -> dict[str, Any]:
    """The contents of a file; nothing is copied."""
    return {
        "format": checkpoint_file.FORMAT,
        **snapshots.contents_of(learn),
        "history": learn.history.contents(),
        "generators": {
            name: positions.generator_states(each) for name, each in snapshots.parts_with_generators(learn)
        },
        "moved": learn.loop.moved.names(learn),
        "item": item_of(learn),
        "gradients": gradients_in(learn.model),
        "gradients_beside": {place: gradients_in(each) for place, each in modules_beside(learn).items()},
        "fit": {
            "index": learn.n_fits,
            "n_epochs": learn.n_epochs,
            "groups": learn.groups_at_start,
            "stop_reason": None if learn.interrupted else learn.stop_reason,
            "position": None if at in (None, "before") else position_of(learn, at),
            "batch_size": plain_or_none(batch_size_before(learn, at)),
            "passes": learn.loop.known.saved_state(without=learn.pass_name if at == "batch" else None),
            "mark": learn.loop.known.mark if at == "batch" else None,
            "now": now_of(learn) if at == "batch" else None,
            "values": learn.loop.known.saved_values(learn, in_pass=at == "batch"),
        },
        "fingerprint": json.dumps(fingerprint(learn)),  # pickling one string is ten times as fast
    }


def item_of(learn: FullLearner) -> str | None:
    """What one item of a training batch looks like, so that `predict` recognises it in a new process."""
    data, samples = learn.loop.known.samples or (None, {})
    if data is not learn.data:
        samples = learn.loop.known.loaded_samples or {}
    return json.dumps(as_plain(samples)) if samples else None


def gradients_in(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients by the parameters' names, without those that are None."""
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def batch_size_before(learn: FullLearner, at: At | None) -> Any:
    """The batch size before the callbacks of the next epoch to run."""
    return learn.loop.known.size_before if at == "batch" else getattr(learn.data.train, "batch_size", None)


def position_of(learn: FullLearner, at: At) -> dict[str, Any]:
    """The position in the fit: batch `n_done` of a pass comes next, or an epoch if `phase` is None."""
    if at == "batch":
        phase = "train" if learn.training else "validate"
        n_validated = 0 if learn.training else list(learn.data.validations).index(learn.pass_name)
        found = {"epoch": learn.epoch, "phase": phase, "n_done": learn.batch_idx + 1, "ended": False}
        share = learn.loop.known.share or Share(0, 1)
        shards = share.size if share.sharded else 1
        return {**found, "n_validated": n_validated, "group": share.group, "shards": shards}
    ended = at == "end" or bool(learn.stop_reason and not learn.interrupted)
    return {"epoch": learn.epoch + 1, "phase": None, "n_done": 0, "ended": ended}


def now_of(learn: FullLearner) -> dict[str, Any]:
    """The position in the current pass."""
    return {**positions.now(learn.data.loaders[learn.pass_name]), "random": None}


def warn_of_limits(learn: FullLearner) -> None:
    """Warn once, at the first save, of data with which an interrupted run may not resume bit for bit."""
    found: dict[str, list[str]] = {}  # the names of the loaders, by their limit
    for name, loader in learn.data.loaders.items():
        limit = None if loader is None else positions.limits(loader, learn.ranks)
        if limit is not None and id(loader) not in learn.reported:
            learn.reported.add(id(loader))
            found.setdefault(limit, []).append(name)
    if found:
        why = " ".join(f"The {' and '.join(names)} data: {limit}" for limit, names in found.items())
        warn(f"a run that is interrupted may not resume bit for bit. {why}")
