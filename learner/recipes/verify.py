"""Prove that a training goes on with the same bits, wherever it is cut: kill it, go on, compare."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callbacks import Callback, Checkpoint, DeviceStats, Order, Throughput
from callbacks.core import draws
from callbacks.guard.last_good import tensors_of
from callbacks.model.declared import values_of
from callbacks.model.plain_attributes import is_storable, plain_state
from callbacks.place.device import tensors_in
from learner.data.tensors import counted
from learner.files.plain import to_plain

if TYPE_CHECKING:
    from learner.recipes.recipe import Recipe

Build = Callable[[], tuple[Any, AbstractContextManager[Any]]]

# What no two runs have in common.
OF_THE_MACHINE = ("seconds", *Throughput.measures, *DeviceStats.measures)
LIMIT = 3600.0  # seconds that a child may take
PARTS = ("weights", "optimizer", "history", "plug-ins", "samples", "clock", "random")


def verify_resume(
    make_learner: Callable[[], Any],
    n_epochs: int,
    *,
    n_kills: int = 10,
    every: str = "1 epoch",
    seed: int = 0,
) -> Report:
    """Cut a training by SIGKILL in a child process, go on in another, and compare the ends bit for bit.

    The first and the last moment are among those at which it is cut, the others are drawn at random
    over `before_batch`, `after_loss`, `before_step`, `after_step`, `after_batch` and `after_epoch`, in
    training and validation; one more run is cut three times in a row. Compared are weights and buffers,
    optimizer, history, the plug-ins' states, every training batch in its order, clock and random states.

    Args:
        make_learner: makes the learner; a function at the top of a module, as child processes import it.
        n_epochs: epochs to train.
        n_kills: at how many moments it is cut, at least 2.
        every: how often it is saved, where the learner has no `Checkpoint`.
        seed: of all generators, set before `make_learner` is called, and of the moments.

    Returns:
        A report that prints as a table; `.ok` tells whether all ends were equal.

    Raises:
        ValueError: `make_learner` cannot be handed to another process.
        RuntimeError: the training fails, cut or not.
    """
    return verify(Trial(Maker(make_learner, seed), n_epochs, every), n_kills, seed)


def verify_recipe(recipe: Recipe, n_kills: int = 10, every: str = "1 epoch") -> Report:
    """The same for a recipe."""
    build = RecipeMaker(recipe.path, tuple(recipe.overrides), tuple(recipe.allow))
    return verify(Trial(build, recipe.n_epochs, every), n_kills, 0)


@dataclass
class Maker:
    """Makes a learner after all generators were seeded."""

    make_learner: Callable[[], Any]
    seed: int

    def __call__(self) -> tuple[Any, AbstractContextManager[Any]]:
        from learner.data.seeds import seed_everything

        seed_everything(self.seed)
        return self.make_learner(), nullcontext()


@dataclass
class RecipeMaker:
    """Makes a recipe's learner, with its Python files at hand."""

    path: Path
    overrides: tuple[str, ...]
    allow: tuple[str, ...]

    def __call__(self) -> tuple[Any, AbstractContextManager[Any]]:
        from learner.recipes.recipe import load_recipe

        recipe = load_recipe(self.path, self.overrides, allow=self.allow)
        return recipe.build(), recipe.importable()


@dataclass
class Trial:
    """A training that child processes can run."""

    build: Build
    n_epochs: int
    every: str


@dataclass
class Row:
    """A run that was cut, and gone on with."""

    cuts: list[str]
    n_redone: int
    differing: list[str]

    @property
    def ok(self) -> bool:
        """Was its end that of the run that was never cut?"""
        return not self.differing

    def __str__(self) -> str:
        cut = self.cuts[0] if len(self.cuts) == 1 else f"{len(self.cuts)} cuts, the first at {self.cuts[0]}"
        return f"{cut:<50.50}  {self.n_redone:>6}  {', '.join(self.differing) or 'nothing'}"


@dataclass
class Report:
    """What was found, a row for each run that was cut."""

    n_steps: int
    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Did all go on with the same bits?"""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        head = f"{'cut at':<50}  {'redone':>6}  differs in"
        n_equal = sum(row.ok for row in self.rows)
        most = max((row.n_redone for row in self.rows), default=0)
        last = (
            f"{n_equal} of {counted(len(self.rows), 'run', 'runs')} of {self.n_steps} steps ended with the "
            f"same bits; at most {counted(most, 'step was', 'steps were')} done again."
        )
        return "\n".join([head, *map(str, self.rows), last])


def verify(trial: Trial, n_kills: int, seed: int) -> Report:
    """Run it once without a cut, then cut it at each of some moments."""
    if type(n_kills) is not int or n_kills < 2:
        raise ValueError(f"n_kills={n_kills!r}: write a whole number, 2 or more.")
    check_portable(trial)
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as folder:
        whole = run_to_end(trial, Path(folder) / "whole", [])
        report, n_moments = Report(whole["n_steps"]), whole["n_moments"]
        inner = range(2, n_moments)
        drawn = random.Random(seed).sample(inner, min(n_kills - 2, len(inner)))
        for moment in sorted({1, n_moments, *drawn}):
            report.rows.append(compare(trial, Path(folder) / f"cut-{moment}", [moment], whole))
        third = max(n_moments // 3, 1)
        report.rows.append(compare(trial, Path(folder) / "thrice", [third] * 3, whole))
    return report


def compare(trial: Trial, folder: Path, moments: list[int], whole: dict[str, Any]) -> Row:
    """Cut a run, go on, and see where its end differs."""
    end = run_to_end(trial, folder, moments)
    cuts = (folder / "cuts").read_text(encoding="utf-8").splitlines() if moments else []
    steps = (folder / "steps").read_text(encoding="utf-8").split()
    differing = [part for part in PARTS if end[part] != whole[part]]
    shutil.rmtree(folder)
    return Row(cuts, len(steps) - len(set(steps)), differing)


def run_to_end(trial: Trial, folder: Path, moments: list[int]) -> dict[str, Any]:
    """Run it in child processes, each of which is killed at its moment, but the last.

    Raises:
        RuntimeError: a child ended in another way than it was to; the message has its last words.
    """
    folder.mkdir()
    for moment in moments:
        run_child(trial, folder, moment)
    run_child(trial, folder, None)
    return json.loads((folder / "end").read_text(encoding="utf-8"))


def run_child(trial: Trial, folder: Path, moment: int | None) -> None:
    """One process; it is over when this returns."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        # Every optimizer imports the compiler: imported here, it is there in all child processes.
        context.set_forkserver_preload(["learner.recipes.verify", "torch._dynamo"])
    usual = multiprocessing.get_start_method()
    child = context.Process(target=train, args=(trial, folder, moment, usual))
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
        child.join()
        raise RuntimeError(f"a child process took more than {LIMIT:g} seconds.")
    was_killed = child.exitcode == -signal.SIGKILL
    if not (was_killed if moment is not None else child.exitcode == 0) and not (folder / "end").exists():
        words = (folder / "log").read_text(encoding="utf-8")[-2000:] if (folder / "log").exists() else ""
        raise RuntimeError(f"the training failed (exit code {child.exitcode}):\n{words}")


def check_portable(trial: Trial) -> None:
    """Refuse what another process could not import."""
    try:
        pickle.dumps(trial)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"make_learner cannot be handed to another process ({error}): define it at the top of a module, "
            'and let a script call verify_resume below `if __name__ == "__main__":`.'
        ) from None


# In the child


def train(trial: Trial, folder: Path, moment: int | None, usual: str) -> None:
    """Train, or go on; write down how it ended.

    Loaders start their workers in the usual way, not in that of this process: so they see it killed, and end.
    """
    multiprocessing.set_start_method(usual, force=True)
    with (folder / "log").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            learn, files_at_hand = trial.build()
            save_to(learn, folder, trial.every)
            watch = Watch(folder, moment)
            with files_at_hand:
                learn.fit(trial.n_epochs, callbacks=[watch], resume="auto")
            (folder / "end.tmp").write_text(json.dumps(end_of(learn, watch)), encoding="utf-8")
            (folder / "end.tmp").rename(folder / "end")
        except BaseException:
            traceback.print_exc()
            log.flush()
            raise
    sys.exit(0)


def save_to(learn: Any, folder: Path, every: str) -> None:
    """Let everything that is written go below a folder."""
    from learner.recipes.runs import send_files_to

    send_files_to(folder, learn)
    if Checkpoint in learn.callbacks:
        learn.callbacks[Checkpoint].folder = folder / "run"
    else:
        learn.add_callbacks(Checkpoint(folder / "run", every))


class Watch(Callback):
    """Keep what each training batch held; kill the process at a moment; write down what no kill may lose."""

    order = Order.SAVE
    name = "verify_resume"
    state = ("samples",)

    def __init__(self, folder: Path, moment: int | None):
        super().__init__()
        self.folder, self.moment, self.n_moments = folder, moment, 0
        self.samples: list[int] = []

    def before_batch(self, learn: Any) -> None:
        if learn.training:
            self.samples.append(sum_of(tensors_in(learn.batch)))
        self._pass(learn, "before_batch")

    def after_loss(self, learn: Any) -> None:
        self._pass(learn, "after_loss")

    def before_step(self, learn: Any) -> None:
        self._pass(learn, "before_step")

    def after_step(self, learn: Any) -> None:
        append(self.folder / "steps", str(learn.global_step))
        self._pass(learn, "after_step")

    def after_batch(self, learn: Any) -> None:
        self._pass(learn, "after_batch")

    def after_epoch(self, learn: Any) -> None:
        self._pass(learn, "after_epoch")

    def _pass(self, learn: Any, event: str) -> None:
        self.n_moments += 1
        if self.n_moments == self.moment:
            phase = "train" if learn.training else "validate"
            batch = "" if event == "after_epoch" else f", {phase} batch {learn.batch_idx}"
            append(self.folder / "cuts", f"epoch {learn.epoch}{batch}, {event}")
            os.kill(os.getpid(), signal.SIGKILL)


def plain_of(model: Any) -> dict[str, Any]:
    """The tensors in plain attributes, by name: in which order they were set is no difference."""
    return dict(sorted((key, each) for key, each in plain_state(model).items() if is_storable(each)))


def append(path: Path, line: str) -> None:
    """Add a line that outlives the process."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def end_of(learn: Any, watch: Watch) -> dict[str, Any]:
    """Checksums of all that two runs must have in common at their ends."""
    rows = [{name: row[name] for name in row if name not in OF_THE_MACHINE} for row in learn.history]
    history = {**learn.history.state_dict(), "rows": rows}
    states = {each.name: each.state_dict() for each in learn.callbacks if not each.saves_checkpoints}
    return {
        "weights": digest([tensors_of(learn), plain_of(learn.model), values_of(learn, learn.state)]),
        "optimizer": digest(learn.optimizer.state_dict() if learn.optimizer is not None else None),
        "history": digest(history),
        "plug-ins": digest(states),
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
    """A checksum of tensors in a row."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(bytes_of(tensor), found)
    return found


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's values as they lie in memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
