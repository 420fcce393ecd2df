"""The child process of `verify_resume`: train, kill itself at a moment, write down how the training ended."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks import Callback, Checkpoint, DeviceStats, LearnerProtocol, Order, Throughput
from callbacks.core import draws
from callbacks.guard.last_good import tensors_of
from callbacks.history.paths import replacing
from callbacks.model.declared import values_of
from callbacks.model.plain_attributes import is_storable, plain_state
from callbacks.place.device import tensors_in
from learner.files.plain import to_plain
from learner.files.run_files import send_files_to
from learner.learner import Learner

Build = Callable[[], tuple[Learner, AbstractContextManager[Any]]]

# Results that differ between any two runs.
NOT_COMPARED = ("seconds", *Throughput(tokens=len, peak_flops=1).measures, *DeviceStats.measures)


@dataclass
class Trial:
    """A training that child processes can run."""

    build: Build  #: returns the learner, and a context for the fit
    n_epochs: int  #: epochs to train
    every: str  #: how often to save, if the learner has no `Checkpoint`


def train(trial: Trial, folder: Path, moment: int | None, start_method: str) -> None:
    """Train or resume, and write down how it ended.

    Workers of loaders are started with the default method, not with that of this process: only then do they
    notice that this process was killed, and exit.
    """
    multiprocessing.set_start_method(start_method, force=True)
    with (folder / "log").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            learn, context = trial.build()
            save_to(learn, folder, trial.every)
            watch = Watch(folder, moment)
            with context:
                learn.fit(trial.n_epochs, callbacks=[watch], resume="auto")
            with replacing(folder / "end") as part:
                part.write_text(json.dumps(end_of(learn, watch)), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
            log.flush()
            raise
    sys.exit(0)


def save_to(learn: Learner, folder: Path, every: str) -> None:
    """Make everything that is written go into a folder, and add a Checkpoint if it is missing."""
    send_files_to(folder, learn)
    if Checkpoint in learn.callbacks:
        learn.callbacks[Checkpoint].folder = folder / "run"
    else:
        learn.add_callbacks(Checkpoint(folder / "run", every))


class Watch(Callback):
    """Record a checksum of each training batch, and kill the process at a moment."""

    only_observes = True
    order = Order.SAVE
    name = "verify_resume"
    state = ("samples",)

    def __init__(self, folder: Path, moment: int | None):
        super().__init__()
        self.folder, self.moment, self.n_moments = folder, moment, 0
        self.samples: list[int] = []

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self.samples.append(sum_of(tensors_in(learn.batch)))
        self._pass(learn, "before_batch")

    def after_loss(self, learn: LearnerProtocol) -> None:
        self._pass(learn, "after_loss")

    def before_step(self, learn: LearnerProtocol) -> None:
        self._pass(learn, "before_step")

    def after_step(self, learn: LearnerProtocol) -> None:
        append(self.folder / "steps", str(learn.global_step))
        self._pass(learn, "after_step")

    def after_batch(self, learn: LearnerProtocol) -> None:
        self._pass(learn, "after_batch")

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._pass(learn, "after_epoch")

    def _pass(self, learn: LearnerProtocol, event: str) -> None:
        self.n_moments += 1
        if self.n_moments == self.moment:
            phase = "train" if learn.training else "validate"
            batch = "" if event == "after_epoch" else f", {phase} batch {learn.batch_idx}"
            append(self.folder / "kills", f"epoch {learn.epoch}{batch}, {event}")
            os.kill(os.getpid(), signal.SIGKILL)


def plain_of(model: Any) -> dict[str, Any]:
    """The tensors in plain attributes, sorted by name: the order in which they were set does not matter."""
    return dict(sorted((key, each) for key, each in plain_state(model).items() if is_storable(each)))


def append(path: Path, line: str) -> None:
    """Add a line to a file, closing it, so that the line survives a kill."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def end_of(learn: LearnerProtocol, watch: Watch) -> dict[str, Any]:
    """Checksums of everything that must be equal at the end of two runs."""
    rows = [{name: row[name] for name in row if name not in NOT_COMPARED} for row in learn.history]
    history = {**learn.history.state_dict(), "rows": rows}
    states = {each.name: each.state_dict() for each in learn.callbacks if not each.saves_checkpoints}
    return {
        "weights": digest([tensors_of(learn), plain_of(learn.model), values_of(learn, learn.state)]),
        "optimizer": digest(learn.optimizer.state_dict() if learn.optimizer is not None else None),
        "history": digest(history),
        "callbacks": digest(states),
        "samples": digest(watch.samples),
        "clock": [learn.global_step, learn.n_samples, learn.stop_reason],
        "random": digest(draws.take()),
        "n_moments": watch.n_moments,
        "n_steps": learn.global_step,
    }


def digest(value: Any) -> str:
    """A checksum of plain data, bit for bit."""
    found = hashlib.blake2b(digest_size=16)

    def feed(part: Any) -> None:
        if isinstance(part, Tensor):
            found.update(f"{tuple(part.shape)} {part.dtype}".encode())
            found.update(bytes_of(part))
        elif isinstance(part, dict):
            for key in part:
                feed(key)
                feed(part[key])
        elif isinstance(part, (list, tuple)):
            found.update(f"{len(part)} ".encode())
            for each in part:
                feed(each)
        else:
            found.update(f"{part.hex() if isinstance(part, float) else part!r};".encode())

    feed(to_plain(value, "digest"))
    return found.hexdigest()


def sum_of(tensors: Iterable[Tensor]) -> int:
    """A checksum of a sequence of tensors."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(bytes_of(tensor), found)
    return found


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's values as bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
