"""Resume a fit from a checkpoint: find the file, check it, and restore the position of the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader

from callbacks.core.output import print_line
from callbacks.core.ranks import ALONE, Ranks
from callbacks.core.warning import warn
from callbacks.save.checkpoint_folder import folders_of
from callbacks.schedule.param_scheduler import ParamScheduler
from callbacks.schedule.torch_scheduler import TorchScheduler
from learner.checks.process_checks import ranks_of
from learner.checks.unsaved_counters import not_saved
from learner.data.batching import TensorLoader
from learner.data.generators import takers
from learner.files import checkpoint_file
from learner.passes import positions
from learner.passes.lengths import has_exact_length
from learner.resume import loading, lost_states, own_data
from learner.resume.fit_start import note_start
from learner.resume.newest import newest_intact
from learner.resume.undo import unchanged_on_error
from learner.state.fingerprint import SOFT, check_allow, data_differences, differences, fingerprint, loader_of
from learner.state.protocol import FullLearner
from learner.state.snapshots import Undo

Resume = Literal["auto", "must", "never"]


class Resumption:
    """A checkpoint from which a fit resumes; it is the `Start` of the loop.

    Args:
        contents: of the file.
        path: the file.

    Attributes:
        is_of_a_later_fit: was the checkpoint saved in a later fit, so that this fit is finished?
    """

    def __init__(self, contents: dict[str, Any], path: Path):
        self.contents, self.path = contents, path
        self.fit = contents["fit"]
        self.position = self.fit["position"]
        self.values = self.fit.get("values", {})  # missing in files of earlier versions
        self.is_of_a_later_fit = self.may_lose_callbacks = False
        self.undo: Undo | None = None
        self.ranks: Ranks = ALONE
        self.allow: tuple[str, ...] = ()

    @property
    def in_validation(self) -> bool:
        """Was the training pass of the epoch over?"""
        return self.position["phase"] == "validate"

    @property
    def n_validated(self) -> int:
        """The number of validation passes of the epoch that were over."""
        return self.position.get("n_validated", 0)

    def adapt(self, learn: FullLearner, allow: tuple[str, ...]) -> None:
        """Remove the contents that do not fit the learner, where the user has allowed a difference.

        Raises:
            ValueError: there are other differences.
        """
        self.allow, current = allow, fingerprint(learn)
        differing = differences(self.contents["fingerprint"], current, self.path, allow=self.allow)
        if "optimizer" in differing:
            self.contents["optimizer"] = None
        self.may_lose_callbacks = "callbacks" in self.allow
        then, now = self.contents["fingerprint"]["callbacks"], current["callbacks"]
        states = self.contents["callbacks"]
        self.contents["callbacks"] = {
            name: states[name] for name in states if then.get(name) == now.get(name)
        }
        if differing - {"optimizer", "callbacks"}:  # the data differs: start the current pass again
            self.contents["loaders"] = {}
            self.position["n_done"] = 0
            if self.position["phase"] == "train":
                self.position["phase"] = None

    def begin(self, learn: FullLearner) -> int:
        """Restore the learner, after all `before_fit`.

        Returns:
            The first epoch to run.
        """
        self.ranks = learn.ranks
        if self.undo is not None:
            with unchanged_on_error(self.undo, self.path):
                self._restore(learn)
        self.undo = None  # free its copy of the weights
        learn.loop.known.put_values(learn.data, self.values, "before")
        self._check_states(learn)
        size = self.fit.get("batch_size")
        if size is not None and "batch_size" not in self.allow and isinstance(learn.data.train, TensorLoader):
            learn.data.train.batch_size = size  # a callback may compute the next size from it
        if self.position["phase"] is None:
            learn.loop.start = None
        if self.position["ended"]:
            learn.stop_reason = self.fit["stop_reason"] or "the fit was cancelled"
        return self.position["epoch"]

    def check_loader(self, learn: FullLearner) -> None:
        """Refuse to train on different data, if a callback had replaced the data.

        Raises:
            ValueError: the checkpoint was saved in the middle of a pass over a different loader; or it was
                saved after an epoch with a different loader, and the loader is the one the fit started with.
        """
        learn.loop.known.point = None
        then = self.contents["fingerprint"].get("loaders", {}).get("train")
        loader = learn.data.train
        is_given = loader is learn.loop.known.at_start.get("train", (loader,))[0]
        is_in_pass = self.position["phase"] == "train"
        if then is None or not (is_in_pass or (is_given and not any(takers(loader)))):
            return
        found = {"train": then, "valid": {}}, {"train": loader_of(loader), "valid": {}}
        may_differ = (*self.allow, *SOFT)
        if not is_in_pass and then.get("n_items") is not None:
            # `begin` has restored the batch size, and the callbacks of this epoch may have changed it
            may_differ = (*may_differ, "batch_size", "n_batches", "drop_last")
        elif isinstance(loader, DataLoader) and not has_exact_length(loader):  # its sampler has planned it
            may_differ = (*may_differ, "n_batches")
        words = [f"  {name}: {words}" for name, words in data_differences(*found) if name not in may_differ]
        if words:
            lines = "\n".join(words)
            raise ValueError(
                f"{self.path} was saved with training data that differs from that of epoch {learn.epoch} now "
                f"(then, now):\n{lines}\nA callback that changes the data must create it in each "
                "before_epoch, from learn.epoch alone, because a resumed run starts in the middle."
            )

    def rewind(self, loader: Any) -> None:
        """Restore the random states of the start of the training pass, after a validation pass."""
        with self.ranks.drawing_data():
            positions.restore(loader, self.fit["mark"])
        if "loader" in self.fit["mark"]:
            loader.load_state_dict(self.fit["mark"]["loader"])

    def batches(self, learn: FullLearner, loader: Any) -> tuple[int, Iterator[Any]]:
        """Restore the learner as it was after the last batch that is done in the current pass.

        Returns:
            The number of batches that are done, and an iterator over the others.
        """
        learn.loop.start = None
        self._restore(learn)
        self._check_states(learn, in_pass=True)
        known, values = learn.loop.known, self.values.get(learn.pass_name, {})
        known.mark, learn.stop_reason = self.fit["mark"], self.fit["stop_reason"]
        known.moved.begin_pass(loader, values.get("start", {}))
        batches_of = partial(known.batches_of, learn, loader)
        now = {**self.fit["now"], "random": self.contents["random"], "values": values.get("now", {})}
        return positions.resume(loader, batches_of, self.fit["mark"], now, self.position)

    def _check_states(self, learn: FullLearner, *, in_pass: bool = False) -> None:
        """Refuse to lose the state of a callback, or of an object in `state`, that is missing now."""
        if not self.may_lose_callbacks:
            lost_states.check_callbacks(learn, self.contents, self.path)
            lost_states.check_objects(learn, self.contents, self.path, in_pass=in_pass)

    def _restore(self, learn: FullLearner) -> None:
        n_epochs, n_batches = learn.n_epochs, learn.n_batches
        loading.restore(learn, self.contents)
        learn.n_epochs, learn.n_batches = n_epochs, n_batches

    def __str__(self) -> str:
        n_epochs = self.fit["n_epochs"]
        if self.position["phase"] is None:
            return f"after epoch {self.position['epoch'] - 1} of {n_epochs}"
        words = "batch" if self.position["phase"] == "train" else "validation batch"
        return f"in epoch {self.position['epoch']} of {n_epochs}, after {words} {self.position['n_done'] - 1}"


def find(learn: FullLearner, n_epochs: int, resume: Resume, allow: Iterable[str]) -> Resumption | None:
    """Find the checkpoint from which a fit resumes, and restore the learner as it was before that fit.

    Raises:
        ValueError: no callback saves the run, there is nothing to resume, or the file is of another run.
        CheckpointError: all files are damaged.
    """
    note_start(learn)
    allow = check_allow(allow)
    if resume == "never":
        return None
    ranks = ranks_of(learn)
    found = ranks.first(lambda: find_file(learn, resume))  # folders may look different elsewhere
    if found is None:
        return None
    point = point_in(learn, ranks, found)
    if point.fit["index"] < learn.n_fits:  # a new fit, after the one of the file
        if resume == "must":
            raise ValueError(f"fit(resume='must'): {found} is from a finished fit; this fit is new.")
        return None
    if point.is_of_a_later_fit:
        allow = (*allow, "callbacks", "optimizer")
    point.adapt(learn, allow)
    if not point.is_of_a_later_fit:
        check_n_epochs(learn, point, n_epochs)
    learn.loop.known.catch_up(learn.data, point.fit.get("passes", {}))
    point.undo = Undo(learn, on_cpu=True)
    ranks.gather(None)  # the ranks share the state of MosaicML's loaders: one writes after all have read
    with unchanged_on_error(point.undo, found):
        loading.restore(learn, point.contents, before_fit=True)
    learn.loop.known.point, learn.groups_at_start = point, point.fit["groups"]
    return point


def point_in(learn: FullLearner, ranks: Ranks, path: Path) -> Resumption:
    """The point in a file from which a fit resumes; a `CheckpointError` if it was not saved in a fit."""
    point = Resumption(loading.matched(learn, read_in(ranks, path), path), path)
    if point.position is None:
        raise checkpoint_file.CheckpointError(f"{path} was written by learn.save: load it with learn.load.")
    if point.fit["index"] > learn.n_fits:
        point.is_of_a_later_fit = True
        print_line(
            f"fit {learn.n_fits} of this run is done: {path.name} is from the later fit {point.fit['index']}"
        )
    return point


def read_in(ranks: Ranks, path: Path) -> dict[str, Any]:
    """The contents of a file; those of the first process, if some process does not have this file."""
    seals = ranks.gather(checkpoint_file.seal_of(path)) if ranks.size > 1 else []
    contents = loading.read(path) if len(set(seals)) < 2 else ranks.first(lambda: loading.read(path))
    return own_data.of_rank(contents, ranks)


def find_file(learn: FullLearner, resume: Resume) -> Path | None:
    """The newest checkpoint of a learner; None if there is none and a new run may start."""
    folders = [each.absolute() for each in folders_of(learn)]
    if not folders:
        raise ValueError(
            f"fit(resume={resume!r}): no callback saves this run. Add callbacks=[Checkpoint('my_run')]."
        )
    found = newest_intact(folders)
    if found is None:
        shown = " or ".join(map(str, folders))
        if resume == "must":
            fix = "Check the folder of the Checkpoint, or use resume='auto' to start a new run."
            raise ValueError(f"fit(resume='must'): there is no checkpoint in {shown}. {fix}")
        print_line(f"no run to resume in {shown}: a new run starts")
    return found


def check_n_epochs(learn: FullLearner, point: Resumption, n_epochs: int) -> None:
    """Print where the run resumes.

    Raises:
        ValueError: more epochs are done than the fit is to have.
    """
    done = point.position["epoch"]
    if n_epochs < done or (n_epochs == done and point.position["phase"] is not None):
        raise ValueError(
            f"{point.path} was saved {point}, but n_epochs is {n_epochs}: pass at least "
            f"{done + (point.position['phase'] is not None)}, or start another run in another folder."
        )
    if point.position["ended"]:
        reason = point.fit["stop_reason"] or "it was cancelled"
        print_line(f"already finished: stopped in epoch {done - 1}: {reason} ({point.path.name})")
    elif n_epochs == done:
        print_line(f"already finished (epoch {done} of {n_epochs}): {point.path.name}")
    else:
        print_line(f"resuming from {point.path.name}, {point}{not_saved(learn.callbacks, point.position)}")
    if n_epochs != point.fit["n_epochs"] and any(
        isinstance(each, (TorchScheduler, ParamScheduler)) for each in learn.callbacks
    ):
        warn(
            f"the run was planned for {point.fit['n_epochs']} epochs and now has {n_epochs}: a schedule "
            "over the whole run now has another length."
        )
