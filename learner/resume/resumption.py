"""Go on where a checkpoint was: find it, check it, and lead the loop there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from callbacks.core.output import print_line
from callbacks.core.warning import warn
from callbacks.save.checkpoint import Checkpoint
from callbacks.save.checkpoint_folder import checkpoints_in, step_of
from callbacks.schedule.param_scheduler import ParamScheduler
from callbacks.schedule.torch_scheduler import TorchScheduler
from learner.data.batching import TensorLoader
from learner.data.generators import takers
from learner.files import checkpoint_file
from learner.passes import positions
from learner.resume import saving
from learner.resume.undo import Undo, unchanged_on_error
from learner.state.fingerprint import SOFT, check_allow, data_differences, differences, fingerprint, loader_of
from learner.state.protocol import FullLearner
from learner.state.unkept import hidden_tensors

Resume = Literal["auto", "must", "never"]


class Resumption:
    """A checkpoint to go on from; the loop asks it where to begin.

    Args:
        contents: what the file holds.
        path: the file.
    """

    def __init__(self, contents: dict[str, Any], path: Path):
        self.contents, self.path = contents, path
        self.fit = contents["fit"]
        self.position = self.fit["position"]
        self.is_of_a_later_fit = False  # this one had ended when it was saved
        self.may_lose_callbacks = False
        self.undo: Undo | None = None
        self.allow: tuple[str, ...] = ()

    @property
    def in_validation(self) -> bool:
        """Was the training pass of its epoch over?"""
        return self.position["phase"] == "validate"

    def adapt(self, differing: set[str], current: dict[str, Any], allowed: tuple[str, ...]) -> None:
        """Leave out what would not fit, where the user has allowed something to differ."""
        if "optimizer" in differing:
            self.contents["optimizer"] = None
        self.may_lose_callbacks = "callbacks" in allowed
        then, now = self.contents["fingerprint"]["callbacks"], current["callbacks"]
        states = self.contents["callbacks"]
        self.contents["callbacks"] = {
            name: states[name] for name in states if then.get(name) == now.get(name)
        }
        if differing - {"optimizer", "callbacks"}:  # other data: the pass under way begins anew
            self.contents["loaders"] = {}
            self.position["n_done"] = 0
            if self.position["phase"] == "train":
                self.position["phase"] = None

    def begin(self, learn: Any) -> int:
        """Put everything back as it was, after all `before_fit`.

        Returns:
            The first epoch to do.
        """
        if self.undo is not None:
            with unchanged_on_error(self.undo, self.path):
                self._restore(learn)
        self.undo = None  # which holds the weights as they were
        self._check_states(learn)
        size = self.fit.get("batch_size")
        if size is not None and "batch_size" not in self.allow and isinstance(learn.data.train, TensorLoader):
            learn.data.train.batch_size = size  # of which a callback may make the next one
        if self.position["phase"] is None:
            learn.loop.start = None
        if self.position["ended"]:
            learn.stop_reason = self.fit["stop_reason"] or "the fit was cancelled"
        return self.position["epoch"]

    @property
    def loaders(self) -> dict[str, Any]:
        """What the loaders told of themselves when it was saved."""
        return self.contents["fingerprint"].get("loaders", {})

    def check_loader(self, learn: Any) -> None:
        """Refuse to train on different data, if a callback had replaced the data.

        Raises:
            ValueError: in the middle of a pass, the loader is another than that of the pass; else, the loader
                is that of the fit's begin, and was another in the epoch before.
        """
        learn.loop.known.point, then = None, self.loaders.get("train")
        loader = learn.data.train
        is_given = loader is learn.loop.known.begun.get("train", (loader,))[0]
        is_in_pass = self.position["phase"] == "train"
        if then is None or not (is_in_pass or (is_given and not any(takers(loader)))):
            return
        found = {"train": then, "valid": {}}, {"train": loader_of(loader), "valid": {}}
        may_differ = (*self.allow, *SOFT)
        if not is_in_pass and isinstance(loader, TensorLoader):  # whose size was what it was; see begin
            may_differ = (*may_differ, "batch_size", "n_batches")
        words = [f"  {name}: {words}" for name, words in data_differences(*found) if name not in may_differ]
        if words:
            lines = "\n".join(words)
            raise ValueError(
                f"{self.path} was saved with other training data than epoch {learn.epoch} now has (then, "
                f"now):\n{lines}\nA callback that changes the data must create it in each before_epoch, from "
                "learn.epoch alone: a resumed run starts in the middle."
            )

    def rewind(self, loader: Any) -> None:
        """Draw as before the pass under way, to which the loop comes back after a validation."""
        positions.put(loader, self.fit["mark"])
        if "loader" in self.fit["mark"]:
            loader.load_state_dict(self.fit["mark"]["loader"])

    def batches(self, learn: Any, loader: Any) -> tuple[int, Iterator[Any]]:
        """Put everything back as it was after a batch of the pass that is about to go on.

        Returns:
            How many batches of the pass are done, and the others.
        """
        learn.loop.start, n_done = None, self.position["n_done"]
        self._restore(learn)
        learn.loop.known.mark = self.fit["mark"]
        learn.stop_reason = self.fit["stop_reason"]
        give = lambda: learn.loop.known.batches_of(learn, loader)  # noqa: E731
        now = {**self.fit["now"], "random": self.contents["random"]}
        return n_done, positions.go_on(loader, give, self.fit["mark"], now, n_done)

    def _check_states(self, learn: Any) -> None:
        """Refuse to lose the state of a callback that was added in mid-fit, and is not there now."""
        states = self.contents["callbacks"]
        lost = [name for name, state in states.items() if state and name not in learn.callbacks]
        if lost and not self.may_lose_callbacks:
            raise ValueError(
                f"{self.path} holds the state of the callback {lost[0]!r}, which was added in mid-fit and is "
                "not there now. Pass it to the Learner or to fit, or add it in a before_fit. To resume "
                "without its state: allow=('callbacks',)."
            )

    def _restore(self, learn: Any) -> None:
        n_epochs, n_batches = learn.n_epochs, learn.n_batches
        saving.restore(learn, self.contents)
        learn.n_epochs, learn.n_batches = n_epochs, n_batches

    def __str__(self) -> str:
        n_epochs = self.fit["n_epochs"]
        if self.position["phase"] is None:
            return f"after epoch {self.position['epoch'] - 1} of {n_epochs}"
        words = "batch" if self.position["phase"] == "train" else "validation batch"
        return f"in epoch {self.position['epoch']} of {n_epochs}, after {words} {self.position['n_done'] - 1}"


def find(learn: FullLearner, n_epochs: int, resume: Resume, allow: Iterable[str]) -> Resumption | None:
    """The checkpoint from which a fit is to go on; the learner is put to its beginning.

    Raises:
        ValueError: there is no plug-in that saves, nothing to go on from, or a checkpoint of something else.
        CheckpointError: all files are damaged.
    """
    check_resume(resume)
    learn.loop.known.point = None
    learn.given = {plugin.name for plugin in learn.callbacks}
    learn.loop.moved.begin(learn)
    if Checkpoint in learn.callbacks and learn.optimizer is not None:
        learn.groups_begun = saving.settings_of(learn.optimizer)
        learn.hidden_begun = hidden_tensors(learn.model)
        begin_data(learn)
    if resume == "never":
        return None
    if Checkpoint not in learn.callbacks:
        raise ValueError(
            f"fit(resume={resume!r}): nothing saves this run. Add the plug-in that does: "
            "callbacks=[Checkpoint('my_run')]."
        )
    folders = [each.folder.absolute() for each in learn.callbacks if isinstance(each, Checkpoint)]
    found, shown = newest_whole(folders), " or ".join(map(str, folders))
    if found is None:
        if resume == "must":
            raise ValueError(f"fit(resume='must'): there is no checkpoint in {shown}.")
        print_line(f"no run to resume in {shown}: a new run starts")
        return None
    point = Resumption(saving.fitted(learn, saving.read(found), found), found)
    if point.position is None:
        raise checkpoint_file.CheckpointError(
            f"{found} was written by learn.save, by hand: use learn.load for it."
        )
    if point.fit["index"] < learn.n_fits:  # another fit after the one that the file knows
        if resume == "must":
            raise ValueError(f"fit(resume='must'): {found} is of a fit that has ended; nothing is under way.")
        return None
    point.is_of_a_later_fit = point.fit["index"] > learn.n_fits
    if point.is_of_a_later_fit:
        allow = (*allow, "callbacks", "optimizer")
        print_line(
            f"fit {learn.n_fits} of this run is done: {found.name} is of fit {point.fit['index']}, after it"
        )
    current, allow = fingerprint(learn), check_allow(allow)
    point.allow = allow
    point.adapt(differences(point.contents["fingerprint"], current, found, allow=allow), current, allow)
    if not point.is_of_a_later_fit:
        check_n_epochs(learn, point, n_epochs)
    learn.loop.known.catch_up(learn.data, point.fit.get("passes", {}))
    point.undo = Undo(learn)
    with unchanged_on_error(point.undo, found):
        saving.restore(learn, point.contents, begun=True)
    learn.loop.known.point, learn.groups_begun = point, point.fit["groups"]
    return point


def begin_data(learn: FullLearner) -> None:
    """Note with which loaders a fit begins; those that a callback put there in the last fit do not count."""
    for part in ("train", "valid"):
        loader = getattr(learn.data, part)
        if part not in learn.loop.known.begun or loader is not learn.loop.known.ended.get(part):
            learn.loop.known.begun[part] = loader, loader_of(loader)


def check_resume(resume: Any) -> None:
    """One of the three words."""
    if resume not in ("auto", "must", "never"):
        raise ValueError(
            f"fit(resume={resume!r}): there are 'auto' (go on where there is something to go on from), "
            "'must' and 'never'."
        )


def check_n_epochs(learn: FullLearner, point: Resumption, n_epochs: int) -> None:
    """Say what is left to do.

    Raises:
        ValueError: more was done than is asked for.
    """
    done = point.position["epoch"]
    if n_epochs < done or (n_epochs == done and point.position["phase"] is not None):
        raise ValueError(
            f"{point.path} is {point}, but fit was asked for {n_epochs}: ask for at least "
            f"{done + (point.position['phase'] is not None)}, or begin another run in another folder."
        )
    if point.position["ended"]:
        reason = point.fit["stop_reason"] or "it was cancelled"
        print_line(f"already finished: stopped in epoch {done - 1}: {reason} ({point.path.name})")
    elif n_epochs == done:
        print_line(f"already finished (epoch {done} of {n_epochs}): {point.path.name}")
    else:
        print_line(f"resuming from {point.path.name}, {point}")
    if n_epochs != point.fit["n_epochs"] and any(
        isinstance(each, (TorchScheduler, ParamScheduler)) for each in learn.callbacks
    ):
        warn(
            f"the run was planned for {point.fit['n_epochs']} epochs and is now to have {n_epochs}: a "
            "schedule that was made for the whole of it has another total now."
        )


def has_position(path: Path) -> bool:
    """Can a run resume from this file? Not if it holds the weights before an update, for `learn.load`."""
    return saving.read(path)["fit"]["position"] is not None


def newest_whole(folders: list[Path]) -> Path | None:
    """The newest checkpoint that is not damaged; each damaged one is told of.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    faults: list[str] = []
    paths = [path for folder in folders for path in checkpoints_in(folder)]
    for path in sorted(paths, key=step_of, reverse=True):
        fault = checkpoint_file.is_whole(path)
        if fault is None and path.name.startswith("best") and not has_position(path):
            continue
        if fault is None:
            for words in faults:
                warn(f"{words} Resuming from {path.name}.")
            return path
        faults.append(f"{path.name}: {fault}")
    if faults:
        lines, shown = "\n".join(f"  {fault}" for fault in faults), " or ".join(map(str, folders))
        raise checkpoint_file.CheckpointError(
            f"no checkpoint in {shown} can be used:\n{lines}\nNothing was trained. Put a whole one there "
            "from a backup, or begin a new run in another folder."
        )
    return None
