"""Write everything that determines how a learner continues to a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from callbacks.core.modules import modules_beside
from callbacks.core.ranks import is_first_process
from callbacks.core.warning import warn
from callbacks.distributed.group import Members
from callbacks.history.paths import PendingSave, as_path
from callbacks.model import shards
from callbacks.record.unsaved_weights import note_kept
from learner.data.samples import as_plain
from learner.data.sharing import Share
from learner.files import checkpoint_file
from learner.messages.keywords import suggest_keywords
from learner.passes import positions
from learner.resume import base_model, own_data
from learner.resume.finite_weights import check_finite
from learner.resume.writing import write_file, write_file_later, write_shards, write_shards_later
from learner.state import optimizer_modes, snapshots
from learner.state.fingerprint import fingerprint, plain_or_none
from learner.state.protocol import FullLearner

At = Literal["batch", "epoch", "end", "before"]


@suggest_keywords
def save(learn: FullLearner, path: str | Path, *, at: At | None = None, without: Iterable[str] = ()) -> Path:
    """Write everything that training needs to continue to one file.

    The file holds what a snapshot holds, the gradients, and the position in the data.

    Args:
        learn: the learner.
        path: the file; an existing one is replaced when the new one is complete on disk, and a missing folder
            is created. The weights and buffers are `torch.load(path)["model"]`.
        at: for callbacks that save: the position in the fit at which `fit(resume="auto")` resumes: after a
            `"batch"`, after an `"epoch"`, or at the `"end"` of a fit that was cancelled. With None the file
            is only for `load`, and also with `"before"`, for weights before the last update. If several
            processes train, all of them must call this, unless it is None and the model is not sharded.
        without: names of parameters that the file leaves out, such as the frozen ones of a base model. The
            learner that loads the file must have the same parameters: a checksum is compared.

    Returns:
        The file's absolute path.

    Raises:
        FloatingPointError: weights are NaN or infinite.
        TypeError: a callback's state holds something that cannot be saved; the message says where.
        OSError: the file cannot be written.
    """
    path = as_path("save", "path", path, "the name of a file, such as 'model.pt'").absolute()
    if not takes_part(learn, at):
        return path
    if at is None and not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    with collected(learn, path, at) as contents:
        ranks = Members() if shards.are_in(learn.model) else learn.ranks
        if is_in_parts(learn, at, without):
            write_shards(learn, path, contents, ranks)
        else:
            whole = whole_of(learn, contents, without)
            write = partial(write_file, learn, path, whole)
            if shards.are_in(learn.model) or at is not None:
                ranks.first(write)
            else:
                write()
    note_kept()
    return path


@suggest_keywords
def async_save(
    learn: FullLearner,
    path: str | Path,
    *,
    at: At | None = None,
    without: Iterable[str] = (),
    then: Callable[[], None] | None = None,
) -> PendingSave:
    """Copy what `save` writes, and write it in a thread while training continues.

    The copy takes as much main memory as the file. Call `wait()` on the returned object before you use the
    file; it raises what `save` would have raised.

    Args:
        learn: the learner.
        path: the file, as for `save`.
        at: as for `save`.
        without: as for `save`.
        then: a function that the thread calls when the file is complete, in the first process only.

    Returns:
        The save, with the method `wait`.

    Raises:
        FloatingPointError, TypeError: as for `save`.

    Source: `torch.distributed.checkpoint.async_save`, which writes the tensors of sharded models.
    """
    path = as_path("async_save", "path", path, "the name of a file, such as 'model.pt'").absolute()
    then = then or (lambda: None)
    if not takes_part(learn, at):
        return PendingSave(lambda: None)
    with collected(learn, path, at) as contents:
        if is_in_parts(learn, at, without):
            pending = write_shards_later(learn, path, contents, then)
        else:
            pending = write_file_later(learn, path, whole_of(learn, contents, without), then)
    note_kept()
    return pending


def takes_part(learn: FullLearner, at: At | None) -> bool:
    """Does this process have something to write, or to send to a process that writes?"""
    return is_first_process() or shards.are_in(learn.model) or at is not None


def is_in_parts(learn: FullLearner, at: At | None, without: Iterable[str]) -> bool:
    """Does each process write its part of the tensors?"""
    return shards.are_in(learn.model) and at is not None and not without


@contextmanager
def collected(learn: FullLearner, path: Path, at: At | None) -> Iterator[dict[str, Any]]:
    """The contents of the file; nothing is copied, so they are valid only within the block."""
    check_finite(learn, path)
    if at is not None:
        warn_of_limits(learn)
    with optimizer_modes.in_eval_mode(learn) as training_weights:
        contents = {**contents_of(learn, at), "training_weights": training_weights}
        yield contents if at is None else own_data.with_all_ranks(learn, contents)


def whole_of(learn: FullLearner, contents: dict[str, Any], without: Iterable[str]) -> dict[str, Any]:
    """The contents with whole tensors; empty in other processes than the first."""
    if shards.are_in(learn.model):
        contents = shards.gathered(contents, is_wanted=is_first_process())
    return base_model.without_base(learn.model, contents, without) if is_first_process() else {}


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
