"""Verify that a run resumes with the same bits, wherever it is interrupted."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import random
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from callbacks.core.settings import check_count
from learner.data.seeds import seed_everything
from learner.data.tensors import counted
from learner.learner import Learner
from learner.messages.keywords import suggest_keywords
from learner.recipes.verify_child import Trial, train

LIMIT = 3600.0  # seconds that a child process may take
PARTS = ("weights", "optimizer", "history", "callbacks", "samples", "clock", "random")


@suggest_keywords
def verify_resume(
    make_learner: Callable[[], Learner],
    n_epochs: int,
    *,
    n_kills: int = 10,
    every: str = "1 epoch",
    seed: int = 0,
) -> Report:
    """Kill a run in a child process, resume it in another, and compare the results bit for bit.

    The moments of the SIGKILL are the first, the last, and random ones among `before_batch`, `after_loss`,
    `before_step`, `after_step`, `after_batch` and `after_epoch`, in training and validation. One more run is
    killed three times. The comparison covers weights and buffers, optimizer, history, the callbacks' states,
    every training batch in order, counters and random states.

    Args:
        make_learner: returns the learner; a function at the top level of a module, since child processes
            import it.
        n_epochs: epochs to train.
        n_kills: number of moments at which to kill the training, at least 2.
        every: how often to save, if the learner has no `Checkpoint`.
        seed: sets all generators before `make_learner` is called, and draws the moments.

    Returns: A report that prints as a table; `.ok` is true if all results are equal.

    Raises:
        ValueError: `make_learner` cannot be passed to another process.
        RuntimeError: the training fails, killed or not.
    """
    return verify(Trial(partial(seeded, make_learner, seed), n_epochs, every), n_kills, seed)


def seeded(make_learner: Callable[[], Learner], seed: int) -> tuple[Learner, AbstractContextManager[Any]]:
    """Set the seed, then build a learner."""
    seed_everything(seed)
    return make_learner(), nullcontext()


@dataclass
class Row:
    """A run that was killed and resumed."""

    kills: list[str]  #: the moments, in words
    n_repeated: int  #: number of steps that were done again after a resume
    differing: list[str]  #: what differs at the end

    @property
    def ok(self) -> bool:
        """Does it end like the uninterrupted run?"""
        return not self.differing

    def __str__(self) -> str:
        n_kills = len(self.kills)
        moment = self.kills[0] if n_kills == 1 else f"{n_kills} times, first at {self.kills[0]}"
        return f"{moment:<50.50}  {self.n_repeated:>8}  {', '.join(self.differing) or 'nothing'}"


@dataclass
class Report:
    """The result: one row for each run that was killed."""

    n_steps: int
    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Did all runs end with the same bits?"""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        head = f"{'killed at':<50}  {'repeated':>8}  differs in"
        n_equal = sum(row.ok for row in self.rows)
        most = max((row.n_repeated for row in self.rows), default=0)
        last = (
            f"{n_equal} of {counted(len(self.rows), 'run', 'runs')} of {self.n_steps} steps ended with the "
            f"same bits; at most {counted(most, 'step was', 'steps were')} repeated."
        )
        return "\n".join([head, *map(str, self.rows), last])


def verify(trial: Trial, n_kills: int, seed: int) -> Report:
    """Run it once without interruption, then kill it at each of several moments."""
    check_count("verify_resume", "n_kills", n_kills, 2)
    check_portable(trial)
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as folder:
        whole = run_to_end(trial, Path(folder) / "whole", [])
        report, n_moments = Report(whole["n_steps"]), whole["n_moments"]
        inner = range(2, n_moments)
        drawn = random.Random(seed).sample(inner, min(n_kills - 2, len(inner)))
        for moment in sorted({1, n_moments, *drawn}):
            report.rows.append(compare(trial, Path(folder) / f"killed-{moment}", [moment], whole))
        third = max(n_moments // 3, 1)
        report.rows.append(compare(trial, Path(folder) / "killed-three-times", [third] * 3, whole))
    return report


def compare(trial: Trial, folder: Path, moments: list[int], whole: dict[str, Any]) -> Row:
    """Kill a run, resume it, and compare its end."""
    end = run_to_end(trial, folder, moments)
    kills = (folder / "kills").read_text(encoding="utf-8").splitlines() if moments else []
    steps = (folder / "steps").read_text(encoding="utf-8").split()
    differing = [part for part in PARTS if end[part] != whole[part]]
    shutil.rmtree(folder)
    return Row(kills, len(steps) - len(set(steps)), differing)


def run_to_end(trial: Trial, folder: Path, moments: list[int]) -> dict[str, Any]:
    """Run it in child processes: each is killed at its moment, then a last one runs to the end.

    Raises:
        RuntimeError: a child failed; the message has its last output.
    """
    folder.mkdir()
    for moment in moments:
        run_child(trial, folder, moment)
    run_child(trial, folder, None)
    return json.loads((folder / "end").read_text(encoding="utf-8"))


def run_child(trial: Trial, folder: Path, moment: int | None) -> None:
    """Run one process until it ends."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        # Every optimizer imports the compiler. It is imported here once, so all child processes have it.
        context.set_forkserver_preload(["learner.recipes.verify_child", "torch._dynamo"])
    start_method = multiprocessing.get_start_method()
    child = context.Process(target=train, args=(trial, folder, moment, start_method))
    child.start()
    try:
        child.join(LIMIT)
        is_late = child.is_alive()
    finally:  # Ctrl-C interrupts the wait, and the folder of the child is removed
        child.kill()
        child.join()
    if is_late:
        raise RuntimeError(f"a child process took more than {LIMIT:g} seconds.")
    was_killed = child.exitcode == -signal.SIGKILL
    if not (was_killed if moment is not None else child.exitcode == 0) and not (folder / "end").exists():
        output = (folder / "log").read_text(encoding="utf-8")[-2000:] if (folder / "log").exists() else ""
        raise RuntimeError(f"the training failed (exit code {child.exitcode}):\n{output}")


def check_portable(trial: Trial) -> None:
    """Refuse a training that another process cannot import."""
    try:
        pickle.dumps(trial)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"make_learner cannot be passed to another process ({error}): define it at the top level of a "
            'module, and call verify_resume in a script below `if __name__ == "__main__":`.'
        ) from None
