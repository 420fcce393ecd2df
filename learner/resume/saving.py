"""Write a checkpoint, and load one into a learner."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from callbacks.core.modules import modules_beside
from callbacks.core.output import print_line
from callbacks.core.ranks import is_first_process
from callbacks.core.warning import warn
from callbacks.distributed.group import Members
from callbacks.model import shards
from callbacks.model.lazy import empties_in
from callbacks.model.named import named_tensors
from callbacks.optim import hyperparameters
from callbacks.record.unkept import note_kept
from learner.data.sharing import Share
from learner.files import checkpoint_file, shard_files, skeleton
from learner.files.plain import from_plain
from learner.passes import positions
from learner.resume import base, weights_file, wrapped_names
from learner.resume.contents import check_contents
from learner.resume.finite_weights import check_finite
from learner.resume.undo import Undo, unchanged_on_error
from learner.resume.writing import write_file, write_shards
from learner.state import optimizer_modes, snapshots
from learner.state.fingerprint import differences, fingerprint, plain_or_none
from learner.state.protocol import FullLearner

At = Literal["batch", "epoch", "end", "before"]

#: What every checkpoint holds.
PIECES = (
    *("model", "extra", "frozen", "optimizer", "callbacks", "loaders", "generators", "random", "clock"),
    *("history", "results", "gradients", "fit", "fingerprint"),
)


def save(learn: FullLearner, path: str | Path, *, at: At | None = None, without: Iterable[str] = ()) -> Path:
    """Write everything that determines the future of the learner to one file.

    The file holds what a snapshot holds, the gradients, and the position in the data.

    Args:
        learn: the learner.
        path: the file; an existing one is replaced when the new one is complete on disk. The weights and
            buffers are `torch.load(path)["model"]`.
        at: for callbacks that save: where the fit is, so that `fit(resume="auto")` resumes there. It is
            after a `"batch"`, after an `"epoch"`, or at the `"end"` of a fit that was cancelled. With None
            the file is for `load`, and so it is with `"before"`, for weights before the last update. If
            several processes train, all of them must call this, unless it is None and the model is whole.
        without: names of parameters that the file leaves out, as the frozen ones of a base model. It is
            loaded into a learner that has them: a checksum of them is compared.

    Returns:
        The file's absolute path.

    Raises:
        FloatingPointError: weights are NaN or infinite.
        TypeError: a callback's state holds something that cannot be saved; the message says where.
        OSError: the file cannot be written.
    """
    path = Path(path).absolute()
    is_shared = shards.are_in(learn.model)
    if not (is_first_process() or is_shared or at is not None):
        return path
    check_finite(learn, path)
    if at is not None:
        warn_of_limits(learn)
    with optimizer_modes.in_eval_mode(learn) as training_weights:
        contents = {**contents_of(learn, at), "training_weights": training_weights}
        ranks = Members() if is_shared else learn.ranks
        if is_shared and at is not None and not without:
            write_shards(learn, path, contents, ranks)
        else:
            if is_shared:
                contents = shards.gathered(contents, is_wanted=is_first_process())
            whole = base.without_base(learn.model, contents, without) if is_first_process() else {}
            write = partial(write_file, learn, path, whole)
            if is_shared or at is not None:
                ranks.first(write)
            else:
                write()
    note_kept()
    return path


def contents_of(learn: FullLearner, at: At | None) -> dict[str, Any]:
    """The contents of a file; nothing is copied."""
    return {
        "format": checkpoint_file.FORMAT,
        **snapshots.contents_of(learn),
        "generators": {
            name: positions.generator_states(each) for name, each in snapshots.parts_with_generators(learn)
        },
        "moved": learn.loop.moved.names(learn),
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
            "now": positions.now(current_loader(learn)) | {"random": None} if at == "batch" else None,
        },
        "fingerprint": json.dumps(fingerprint(learn)),  # pickling one string is ten times as fast
    }


def gradients_in(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients by the parameters' names, without those that are None."""
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def put_gradients(module: torch.nn.Module, gradients: dict[str, torch.Tensor]) -> None:
    """Set these gradients, and None for all other parameters."""
    for name, parameter in module.named_parameters():
        gradient = gradients.get(name)
        copied = None if gradient is None else gradient.to(parameter.device, copy=True)
        parameter.grad = None if copied is None else shards.like(copied, parameter)


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


def current_loader(learn: FullLearner) -> Any:
    """The loader of the current pass."""
    return learn.data.loaders[learn.pass_name]


def warn_of_limits(learn: FullLearner) -> None:
    """Warn once, at the first save, of data that may not resume bit for bit in the middle of a pass."""
    for name, loader in learn.data.loaders.items():
        limit = None if loader is None else positions.limits(loader, learn.ranks)
        if limit is not None and id(loader) not in learn.reported:
            learn.reported.add(id(loader))
            warn(
                "a run that is interrupted in the middle of a pass may not resume bit for bit, because of "
                f"the {name} data. {limit}"
            )


def read(path: str | Path) -> dict[str, Any]:
    """Read a file and check its contents.

    Raises:
        CheckpointError: it cannot be used; the message says why.
    """
    path = Path(path).absolute()
    contents = checkpoint_file.read(path)
    missing = [piece for piece in PIECES if piece not in contents]
    if missing:
        raise checkpoint_file.CheckpointError(
            f"{path} lacks {', '.join(map(repr, missing))}, so a run cannot resume from it: take another "
            "checkpoint. Other code may have written it."
        )
    check_kinds(contents, path)
    try:
        contents = shard_files.filled(contents, path)
        contents = {"moved": [], **from_plain(contents), "fingerprint": fingerprint_in(contents, path)}
    except ValueError as error:
        raise checkpoint_file.CheckpointError(f"{path}: {error} {checkpoint_file.ANOTHER}") from error
    check_contents(contents, path)
    return contents


def check_kinds(contents: dict[str, Any], path: Path) -> None:
    """Refuse a file that other code has changed; files of earlier versions have no checksums of types."""
    try:
        places = skeleton.altered(contents, contents.get("kinds", "{}"))
    except (TypeError, ValueError) as error:
        raise checkpoint_file.CheckpointError(
            f"{path}: the checksums of its types cannot be read: {error}"
        ) from None
    if places:
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        raise checkpoint_file.CheckpointError(
            f"{path}: {places[0]}{more} does not have the type or shape that was written: other code has "
            f"changed the file. Nothing was changed. {checkpoint_file.ANOTHER}"
        )


def fingerprint_in(contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fingerprint of the run that wrote a file."""
    try:
        return json.loads(contents["fingerprint"])
    except (TypeError, ValueError) as error:
        raise checkpoint_file.CheckpointError(f"{path}: its fingerprint cannot be read: {error}") from None


def matched(learn: FullLearner, contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contents with the current names of the tensors, which differ if the model is or was wrapped."""
    now = [*named_tensors(learn.model), *empties_in(learn.model)]
    return base.with_base(learn.model, wrapped_names.renamed(contents, learn.model, now, path), path)


MODEL_FIX = "Make the learner with the model that was saved. Nothing was loaded."
LOAD_FIX = "Make the same learner, or load the weights alone: load(path, only='model'). Nothing was loaded."


def load(learn: FullLearner, path: str | Path, *, only: Literal["model"] | None = None) -> None:
    """Load a file of `save` or `Checkpoint`, or weights of `safetensors` or plain `torch.save`.

    From a file of plain `torch.save` only a state dict is read: the whole file, or the value under a key such
    as `"model"` or `"state_dict"`. No code in a file is run. If the model is wrapped, or was when it was
    saved, the names are matched without `_orig_mod.` and `module.`, and a line reports it.

    Args:
        learn: the learner.
        path: the file.
        only: `"model"` loads the weights and buffers alone, for any optimizer and callbacks.

    Raises:
        CheckpointError: the file is missing or damaged, is not a checkpoint, or cannot be loaded into this
            learner. Nothing is changed.
        ValueError: it is of another model, optimizer or list of callbacks. Nothing is changed.
    """
    if only not in (None, "model"):
        raise ValueError(f"load(only={only!r}): choose 'model', or None for everything.")
    if weights_file.is_weights_file(path):
        weights_file.put_weights(learn.model, Path(path).absolute())
        print_line(
            f"{Path(path).name}: only the weights were loaded; the file holds nothing else for a learner"
        )
        return
    contents = matched(learn, read(path), Path(path))
    if only is None:
        parts = ("model", "optimizer", "callbacks")
        differences(contents["fingerprint"], fingerprint(learn), Path(path), parts=parts, fix=LOAD_FIX)
        with unchanged_on_error(Undo(learn), path):
            restore(learn, contents)
    else:
        differences(contents["fingerprint"], fingerprint(learn), Path(path), parts=("model",), fix=MODEL_FIX)
        with unchanged_on_error(Undo(learn), path):
            snapshots.put_tensors(learn.model, contents)
            learn.loop.moved.known.update(each for each in contents["moved"] if each.startswith("model."))


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """A copy of the settings of each parameter group."""
    return [copy.deepcopy(hyperparameters.settings_of(group)) for group in optimizer.param_groups]


def put_settings(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Set the settings that `settings_of` returned in each parameter group, and remove all others."""
    for group, kept in zip(optimizer.param_groups, copy.deepcopy(settings), strict=False):
        for name in set(group) - set(kept) - {"params"}:
            del group[name]
        group.update({name: value for name, value in kept.items() if name != "params"})


def restore(learn: FullLearner, contents: dict[str, Any], *, before_fit: bool = False) -> None:
    """Restore everything that a checkpoint holds.

    Args:
        learn: the learner, whose fingerprint has been compared with that of the checkpoint.
        contents: what `read` returned.
        before_fit: `before_fit` is called next, so restore the optimizer's settings of the start of the fit.
    """
    snapshots.restore(learn, contents, before_fit=before_fit)
    learn.loop.moved.known.update(contents["moved"])
    if before_fit and contents["optimizer"] is not None and contents["fit"]["groups"] is not None:
        put_settings(learn.optimizer, contents["fit"]["groups"])
    for name, part in snapshots.parts_with_generators(learn):
        positions.set_generator_states(part, contents["generators"].get(name, {}))
    put_gradients(learn.model, contents["gradients"])
    for place, module in modules_beside(learn).items():
        put_gradients(module, contents.get("gradients_beside", {}).get(place, {}))
