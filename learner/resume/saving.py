"""What a checkpoint holds, what it must agree with, and how it is put back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch

from callbacks.core.modules import loss_tensors, modules_beside
from callbacks.core.warning import warn
from callbacks.model.finite import n_bad, nan_buffers, suspects
from callbacks.model.lazy import empties_in
from callbacks.model.named import named_tensors
from callbacks.optim import hyperparameters
from learner.checks.preflight import EpochWatch
from learner.files import checkpoint_file, skeleton
from learner.files.plain import from_plain, to_plain
from learner.passes import positions
from learner.resume import weights_file, wrapped_names
from learner.resume.contents import check_contents
from learner.resume.undo import Undo, unchanged_on_error
from learner.state import optimizer_modes, snapshots, unkept
from learner.state.fingerprint import differences, fingerprint, plain_or_none
from learner.state.protocol import FullLearner

At = Literal["batch", "epoch", "end"]

# Without these a file is none of ours; each is put back.
PIECES = (
    *("model", "extra", "frozen", "optimizer", "callbacks", "loaders", "generators", "random", "clock"),
    *("history", "results", "gradients", "fit", "fingerprint"),
)


def save(learn: FullLearner, path: str | Path, *, at: At | None = None) -> Path:
    """Write all that decides the future into one file: what a snapshot holds, and more.

    Args:
        learn: the learner.
        path: the file; it is replaced when the new one is whole on disk. `torch.load(path)["model"]` are
            the weights and buffers.
        at: of a plug-in that saves: where the fit is, so that `fit(resume="auto")` can go on from there:
            after a batch, after an epoch, or at an end that a cancel has made. None: to load by hand.

    Returns:
        The file's absolute path.

    Raises:
        FloatingPointError: weights are NaN or infinite.
        TypeError: a plug-in's state holds something that cannot be kept; the message names its place.
        OSError: the file cannot be written.
    """
    path = Path(path).absolute()
    check_finite(learn, path)
    if at is not None:
        tell_limits(learn)
    with optimizer_modes.in_eval_mode(learn) as training_weights:
        contents = {**contents_of(learn, at), "training_weights": training_weights}
        plain = to_plain(unkept.without_unkept(learn, contents), "")
        checkpoint_file.write(path, {**plain, "kinds": skeleton.sums_of(plain)})
    return path


def contents_of(learn: FullLearner, at: At | None) -> dict[str, Any]:
    """What a file holds, by piece; nothing is copied."""
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
            "groups": learn.groups_begun,
            "stop_reason": None if learn.interrupted else learn.stop_reason,
            "position": None if at is None else position_of(learn, at),
            "batch_size": plain_or_none(batch_size_before(learn, at)),
            "passes": learn.loop.known.to_keep(without=learn.training if at == "batch" else None),
            "mark": learn.loop.known.mark if at == "batch" else None,
            "now": positions.now(loader_under_way(learn)) | {"random": None} if at == "batch" else None,
        },
        "fingerprint": json.dumps(fingerprint(learn)),  # one string: pickled ten times as fast as its parts
    }


def gradients_in(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients that are there, by the parameters' names."""
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def put_gradients(module: torch.nn.Module, gradients: dict[str, torch.Tensor]) -> None:
    """Set exactly these gradients."""
    for name, parameter in module.named_parameters():
        gradient = gradients.get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)


def batch_size_before(learn: FullLearner, at: At | None) -> Any:
    """The batch size that the callbacks of the next epoch to begin find."""
    return learn.loop.known.size_before if at == "batch" else getattr(learn.data.train, "batch_size", None)


def position_of(learn: FullLearner, at: At) -> dict[str, Any]:
    """Where the fit is: what comes next is batch `n_done` of a pass, or, where `phase` is None, an epoch."""
    if at == "batch":
        phase = "train" if learn.training else "validate"
        return {"epoch": learn.epoch, "phase": phase, "n_done": learn.batch_idx + 1, "ended": False}
    ended = at == "end" or bool(learn.stop_reason and not learn.interrupted)
    return {"epoch": learn.epoch + 1, "phase": None, "n_done": 0, "ended": ended}


def loader_under_way(learn: FullLearner) -> Any:
    """The loader of the pass."""
    return learn.data.train if learn.training else learn.data.valid


def tell_limits(learn: FullLearner) -> None:
    """Say once, at the first save, where a run that is cut in the middle of a pass may lose its bits."""
    for name, loader in (("train", learn.data.train), ("valid", learn.data.valid)):
        limit = None if loader is None else positions.limits(loader)
        if limit is not None and id(loader) not in learn.reported:
            learn.reported.add(id(loader))
            warn(
                f"a run that is cut in the middle of a pass may not go on bit for bit; of the {name} data: "
                f"{limit}"
            )


def check_finite(learn: FullLearner, path: Path) -> None:
    """Refuse trained weights, and statistics as those of batch norm, that no run can resume from.

    What held NaN or infinity as the fit began is meant, as is what is not trained. Warn of any other buffer
    that has come to hold NaN since.
    """
    found = {**named_tensors(learn.model), **loss_tensors(learn)}
    watch = next((each for each in learn.callbacks if isinstance(each, EpochWatch)), EpochWatch())
    meant = watch.n_bad
    bad = [name for name in suspects(found) if n_bad(name, found[name], found[name]) > meant.get(name, 0)]
    if bad:
        raise FloatingPointError(
            f"{path.name} was not written: {bad[0]!r} holds NaN or infinity"
            f"{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}, and no run can resume from that. The "
            "checkpoints before it are as they were. Lower the learning rate or clip the gradients."
        )
    new = sorted(nan_buffers(found) & watch.good) if watch.good else []
    if new:
        watch.good.difference_update(new)
        warn(
            f"{path.name} holds NaN in {', '.join(map(repr, new[:3]))}{', ...' if len(new) > 3 else ''}, "
            "where there was none as the fit began. Where that is not meant, look at what writes to it, and "
            "resume from a checkpoint before."
        )


def read(path: str | Path) -> dict[str, Any]:
    """Read a file and check that all pieces are there.

    Raises:
        CheckpointError: it cannot be used; the message says why.
    """
    path = Path(path).absolute()
    contents = checkpoint_file.read(path)
    missing = [piece for piece in PIECES if piece not in contents]
    if missing:
        raise checkpoint_file.CheckpointError(
            f"{path} lacks {', '.join(map(repr, missing))}, so a run cannot go on from it: take another "
            "checkpoint. It may have been written by other code."
        )
    check_kinds(contents, path)
    try:
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
            f"{path}: the sums of its kinds cannot be read: {error}"
        ) from None
    if places:
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        raise checkpoint_file.CheckpointError(
            f"{path}: {places[0]}{more} does not have the type or shape that was written: other code has "
            f"changed the file. Nothing was changed. {checkpoint_file.ANOTHER}"
        )


def fingerprint_in(contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a file says of the run it is of."""
    try:
        return json.loads(contents["fingerprint"])
    except (TypeError, ValueError) as error:
        raise checkpoint_file.CheckpointError(f"{path}: its fingerprint cannot be read: {error}") from None


def fitted(learn: FullLearner, contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contents with the model's current tensor names: the model may be, or may have been, wrapped."""
    now = [*named_tensors(learn.model), *empties_in(learn.model)]
    return wrapped_names.renamed(contents, learn.model, now, path)


def load(learn: FullLearner, path: str | Path, *, only: Literal["model"] | None = None) -> None:
    """Load what `save` or a `Checkpoint` has written, or weights that plain `torch.save` wrote.

    From the latter only a state dict is read, alone or under `"model"` or `"state_dict"`.
    Names with `_orig_mod.` or `module.`, of a model that is or was wrapped, are matched with those
    without, with a note.

    Args:
        learn: the learner.
        path: the file.
        only: `"model"` for weights and buffers alone, whatever the optimizer and plug-ins are.

    Raises:
        CheckpointError: the file is damaged, of another kind, or not there, or something in it cannot be
            loaded; nothing has been changed then.
        ValueError: it is of another model, optimizer or composition; nothing has been changed then.
    """
    if only not in (None, "model"):
        raise ValueError(f"load(only={only!r}): there is 'model', and None for all.")
    if checkpoint_file.is_plain(path):
        weights_file.put_weights(learn.model, Path(path).absolute())
        return
    contents = fitted(learn, read(path), Path(path))
    if only is None:
        differences(
            contents["fingerprint"], fingerprint(learn), Path(path), parts=("model", "optimizer", "callbacks")
        )
        with unchanged_on_error(Undo(learn), path):
            restore(learn, contents)
    else:
        differences(contents["fingerprint"], fingerprint(learn), Path(path), parts=("model",))
        with unchanged_on_error(Undo(learn), path):
            snapshots.put_tensors(learn.model, contents)
            learn.loop.moved.known.update(each for each in contents["moved"] if each.startswith("model."))


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """A copy of the settings of each parameter group."""
    return [copy.deepcopy(hyperparameters.settings_of(group)) for group in optimizer.param_groups]


def put_settings(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Set in each parameter group the settings that `settings_of` returned; remove others."""
    for group, kept in zip(optimizer.param_groups, copy.deepcopy(settings), strict=False):
        for name in set(group) - set(kept) - {"params"}:
            del group[name]
        group.update({name: value for name, value in kept.items() if name != "params"})


def restore(learn: FullLearner, contents: dict[str, Any], *, begun: bool = False) -> None:
    """Put back all that a checkpoint holds.

    Args:
        learn: the learner, checked to agree.
        contents: what `read` returned.
        begun: with the optimizer's settings as they were when that fit began, as `before_fit` is to see.
    """
    snapshots.restore(learn, contents, before_fit=begun)
    learn.loop.moved.known.update(contents["moved"])
    if begun and contents["optimizer"] is not None and contents["fit"]["groups"] is not None:
        put_settings(learn.optimizer, contents["fit"]["groups"])
    for name, part in snapshots.parts_with_generators(learn):
        positions.set_generator_states(part, contents["generators"].get(name, {}))
    put_gradients(learn.model, contents["gradients"])
    for place, module in modules_beside(learn).items():
        put_gradients(module, contents.get("gradients_beside", {}).get(place, {}))
