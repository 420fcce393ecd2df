"""`learn.load_best()`: the weights of the best epoch, from the files of `Checkpoint` or of a run."""

from __future__ import annotations

from pathlib import Path

from callbacks.core.modules import loss_module
from callbacks.core.output import print_line
from callbacks.history.paths import as_path
from callbacks.save.checkpoint_folder import checkpoints_in, folders_of
from learner.files.run_files import BEST, SUFFIXES, weights_file
from learner.messages.keywords import suggest_keywords
from learner.resume import loading
from learner.resume import weights_file as weights
from learner.resume.undo import unchanged_on_error
from learner.state import loss_state, snapshots
from learner.state.fingerprint import differences, fingerprint
from learner.state.protocol import FullLearner


@suggest_keywords
def load_best(learn: FullLearner, folder: str | Path | None = None) -> Path:
    """Load the weights of the best epoch, including those of a loss that is a module.

    The optimizer, the counters and the history do not change. After a fit with `EarlyStopping` the model has
    the best weights already.

    Args:
        learn: the learner.
        folder: of a `Checkpoint(best=...)`, or of a run of a recipe; by default that of the learner's own
            `Checkpoint`, or of the run that `open_run` opened.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no such file; the message says where it was looked for.
        CheckpointError, ValueError: the file is damaged, or of another model. Nothing is changed.
    """
    form = "the name of a folder, such as 'runs/first'"
    folders = [as_path("load_best", "folder", folder, form)] if folder is not None else places_of(learn)
    path = next(filter(None, map(best_in, folders)), None)
    if path is None:
        raise FileNotFoundError(no_best(folders))
    if weights.is_weights_file(path):
        weights.put_weights(learn.model, path)
        put_loss(learn, path)
    else:
        put_checkpoint(learn, path)
    print_line(f"loaded the best weights: {path}")
    return path


def places_of(learn: FullLearner) -> list[Path]:
    """Where the best weights of a learner may be."""
    return [each.absolute() for each in (*folders_of(learn), learn.run_folder) if each is not None]


def best_in(folder: Path) -> Path | None:
    """The file with the best weights in a folder of checkpoints or of a run."""
    path = folder / f"{BEST}.pt"
    if path.is_file() and not weights.is_weights_file(path):
        return path.absolute()
    bests = [each for each in checkpoints_in(folder) if each.name.startswith("best")]  # of earlier versions
    below = sorted(folder.glob(f"*/{BEST}.pt"))
    return next((each.absolute() for each in (weights_file(folder, BEST), *bests, *below) if each), None)


def no_best(folders: list[Path]) -> str:
    """The message if there are no best weights."""
    names = " or ".join(f"{BEST}{suffix}" for suffix in SUFFIXES)
    if not folders:
        return (
            "load_best: no callback of this learner keeps the best weights. Add "
            "Checkpoint('runs/first', best='valid_loss') before the fit, or pass the folder of a run. A "
            "Checkpoint that was passed to a fit is used by that fit only: load_best('its folder')."
        )
    if folders[0].is_file():
        return f"load_best: {folders[0]} is a file: load it with learn.load(path), or pass its folder."
    places = ", ".join(map(str, folders))
    missing = "" if any(each.is_dir() for each in folders) else ", because the folder does not exist"
    return (
        f"load_best: {places} has no {names}{missing}. Checkpoint(..., best='valid_loss') keeps the best "
        "weights, and so does a run of a recipe in which a callback monitors a result."
    )


def put_loss(learn: FullLearner, path: Path) -> None:
    """Load the tensors of a loss that is a module, from the file next to that of the model's weights."""
    module, beside = loss_module(learn.loss_func), weights_file(path.parent, f"{path.stem}_loss")
    if module is not None and beside is not None:
        weights.put_weights(module, beside)


def put_checkpoint(learn: FullLearner, path: Path) -> None:
    """Load weights and buffers of a checkpoint into the model and the loss."""
    contents = loading.matched(learn, loading.read(path), path)
    differences(contents["fingerprint"], fingerprint(learn), path, parts=("model",), fix=loading.MODEL_FIX)
    with unchanged_on_error(snapshots.Undo(learn, on_cpu=True), path):
        snapshots.put_tensors(learn.model, contents)
        loss_state.put_loss(learn, contents)
    learn.loop.known.loaded_samples = loading.samples_in(contents)
