"""Read a checkpoint, and load it into a learner."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch

from callbacks.core.modules import modules_beside
from callbacks.core.output import print_line
from callbacks.history.paths import as_path
from callbacks.model import shards
from callbacks.model.lazy import tensors_without_values
from callbacks.model.named import named_tensors
from callbacks.optim import hyperparameters
from learner.data.samples import Samples
from learner.data.samples import from_plain as from_plain_samples
from learner.files import checkpoint_file, shard_files, skeleton
from learner.files.plain import from_plain
from learner.messages.keywords import suggest_keywords
from learner.passes import positions
from learner.resume import base_model, weights_file, wrapped_names
from learner.resume.contents import PIECES, check_contents, history_in
from learner.resume.undo import unchanged_on_error
from learner.state import snapshots
from learner.state.fingerprint import differences, fingerprint
from learner.state.protocol import FullLearner


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
            f"{path} lacks {', '.join(map(repr, missing))}, so a run cannot resume from it. Use another "
            "checkpoint. Other code may have written it."
        )
    check_kinds(contents, path)
    try:
        contents = shard_files.filled(contents, path)
        contents = {"moved": [], **from_plain(contents), "fingerprint": fingerprint_in(contents, path)}
    except ValueError as error:
        raise checkpoint_file.CheckpointError(f"{path}: {error} {checkpoint_file.ANOTHER}") from error
    check_contents(contents, path)
    return {**contents, "history": history_in(contents, path)}


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
    now = [*named_tensors(learn.model), *tensors_without_values(learn.model)]
    return base_model.with_base(learn.model, wrapped_names.renamed(contents, learn.model, now, path), path)


MODEL_FIX = "Make the learner with the model that was saved. Nothing was loaded."
LOAD_FIX = "Make the same learner, or load only the weights: load(path, only='model'). Nothing was loaded."


@suggest_keywords
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
    path = as_path("load", "path", path, "the name of a file, such as 'model.pt'")
    if weights_file.is_weights_file(path):
        weights_file.put_weights(learn.model, path.absolute())
        print_line(f"{path.name}: only the weights were loaded; the file contains nothing else for a learner")
        return
    contents = matched(learn, read(path), path)
    parts, fix = (("model",), MODEL_FIX) if only else (("model", "optimizer", "callbacks"), LOAD_FIX)
    differences(contents["fingerprint"], fingerprint(learn), path, parts=parts, fix=fix)
    with unchanged_on_error(snapshots.Undo(learn, on_cpu=True), path):
        if only is None:
            restore(learn, contents)
        else:
            snapshots.put_tensors(learn.model, contents)
            learn.loop.moved.known.update(each for each in contents["moved"] if each.startswith("model."))
    learn.loop.known.loaded_samples = samples_in(contents)


def samples_in(contents: dict[str, Any]) -> Samples | None:
    """What one item of a training batch looked like to the learner that wrote a file; None if unknown."""
    try:
        return from_plain_samples(json.loads(contents.get("item") or "null"))
    except (TypeError, ValueError, KeyError, AttributeError):  # other code wrote it
        return None


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
    if not before_fit:
        learn.loop.known.put_values(learn.data, contents["fit"].get("values", {}), "now")


def put_gradients(module: torch.nn.Module, gradients: dict[str, torch.Tensor]) -> None:
    """Set these gradients, and None for all other parameters."""
    for name, parameter in module.named_parameters():
        gradient = gradients.get(name)
        copied = None if gradient is None else gradient.to(parameter.device, copy=True)
        parameter.grad = None if copied is None else shards.like(copied, parameter)
