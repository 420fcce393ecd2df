"""What a run writes about itself: `run.json`, the final weights and those of the best epoch."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from callbacks.core.contract import Callback, Direction, LearnerProtocol, Order
from callbacks.core.modules import loss_module
from callbacks.core.ranks import is_first_process
from callbacks.core.warning import warn
from callbacks.history.direction import guess_direction
from callbacks.model import shards
from callbacks.model.finite import first_bad
from callbacks.model.named import named_tensors
from callbacks.results.best import Best
from callbacks.results.measured_weights import MeasuredWeights, in_place
from callbacks.save.checkpoint import Checkpoint
from learner.data.samples import as_plain
from learner.files.run_files import BEST, FINAL, read_facts, write_facts, write_weights
from learner.inference.one_item import training_samples
from learner.learner import Learner
from learner.recipes.recipe import Recipe
from learner.report.learner_parts import monitored_by
from learner.state.fingerprint import versions
from learner.state.loss_state import loss_state
from learner.state.protocol import FullLearner, full

MAX_CODE = 200_000  # characters of a Python file that run.json repeats


class RunRecorder(Callback):
    """Keeps `run.json` and the best weights of a run in its folder, and the final weights at its end."""

    order = Order.SAVE

    facts: dict[str, Any]

    def __init__(self, recipe: Recipe, folder: Path):
        super().__init__()
        self.folder, self.facts = folder, read_facts(folder)
        self._before = self.facts.get("seconds") or 0.0  # of the parts before a resume
        self._begin = time.monotonic()
        title = recipe.sections.value("recipe")
        self.facts = {
            "format": 1,
            "status": "running",
            "recipe": recipe.path.stem if title is None else str(title.value),
            "source": str(recipe.path),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "optimizer": recipe.tree.value["optimizer"].plain(),
            **{key: each for key, each in self.facts.items() if key in ("started", "source", "code")},
            "warnings": self.facts.get("warnings") or [],
            "monitored": self.facts.get("monitored"),
            "seed": recipe.sections.seed,
            "command": command(),
            "weights": self.facts.get("weights") or {},
        }
        self.facts.setdefault("code", code_of(recipe))
        self._best: Best | None = None
        self._measured = MeasuredWeights("")
        self._has_started = False

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._best, name = None, monitored_by(learn)
        if name is None:
            return
        direction = direction_of(learn, name)
        if direction is None:
            return
        self._best, self._measured = Best(name, owner="Checkpoint", mode=direction), MeasuredWeights(name)
        self._best.begin(learn)
        then = self.facts["monitored"] or {}
        if learn.resumed and then.get("name") == name:
            self._best.value, self._best.epoch = then["value"], then["epoch"]
        self._note_best()

    def before_epoch(self, learn: LearnerProtocol) -> None:
        if not self._has_started:  # not in `before_fit`, because a refused fit leaves no trace
            self._has_started = True
            self._try("run.json", lambda: write_facts(self.folder, self.facts))

    def before_train(self, learn: LearnerProtocol) -> None:
        if self._best is not None:
            self._measured.before_train(learn)

    def after_train(self, learn: LearnerProtocol) -> None:
        self._measured.after_train(learn)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        before_update = self._measured.release()
        if self._best is None or not self._best.update(learn):
            return
        self._note_best()
        with in_place(learn, before_update["weights"]) if before_update else nullcontext():
            write = partial(self._write_weights, full(learn), BEST, self.folder)
            self._try("best weights", write, everywhere=shards.are_in(learn.model))
        self._try("run.json", lambda: write_facts(self.folder, self.facts))

    def end(self, learn: Learner, error: BaseException | None) -> None:
        """Note how the run ended."""
        self.facts |= {"status": status(learn, error), **results_of(learn, self.facts["monitored"])}
        if self.facts["status"] == "finished" and not self.facts["n_epochs"]:  # without Recorder
            self.facts["n_epochs"] = learn.n_epochs
        self.facts |= {
            "seconds": round(self._before + time.monotonic() - self._begin, 3),
            "stop_reason": learn.stop_reason,
            "error": None if error is None else f"{type(error).__name__}: {error}",
            "environment": {
                **versions(learn),
                "machine": f"{platform.platform()}, {os.cpu_count()} cores",
            },
            "n_parameters": sum(each.numel() for each in learn.model.parameters() if each.requires_grad),
            "item": item_of(learn),
            "directions": {name: each for name, each in learn.measured.items() if each},
        }

    def keep(self, learn: Learner, folder: Path) -> None:
        """Write the final weights, unless nothing was trained or they are NaN, and `run.json`."""
        reason = self._why_not(learn)
        try:
            if reason is None:
                self._write_weights(learn, FINAL, folder)
        except (ValueError, RuntimeError) as error:  # such as weights that torch cannot save
            reason = str(error)
        self.facts["weights"] = {**self.facts["weights"], "reason": reason}
        if any(isinstance(each, Checkpoint) and each.trainable_only for each in learn.callbacks):
            self.facts["weights"]["frozen"] = "included"  # though the checkpoints leave them out
        if reason is not None:
            self.facts["weights"]["final"] = None
        if is_first_process():
            write_facts(folder, self.facts)

    def _why_not(self, learn: Learner) -> str | None:
        """Why the final weights are not written; None if they are."""
        if not learn.global_step:
            return "nothing was trained"
        if learn.error is not None and shards.are_in(learn.model):
            return "each process has a part of them, but not all processes finished"
        tensors = named_tensors(learn.model)
        bad = first_bad(tensors, tensors)
        return f"{bad!r} contains NaN or infinity" if bad else None

    def _write_weights(self, learn: FullLearner, name: str, folder: Path) -> None:
        """Write the model's weights, and the tensors of a loss that is a module."""
        place = {BEST: "best", FINAL: "final"}[name]
        path = write_weights(learn.model, folder, name)
        loss = loss_module(learn.loss_func)
        if loss is not None and loss_state(learn) is not None and loss.state_dict():
            write_weights(loss, folder, f"{name}_loss")
        self.facts["weights"] = {**self.facts["weights"], place: path.name}

    def _note_best(self) -> None:
        best = self._best
        if best is not None:
            self.facts["monitored"] = {
                "name": best.monitor,
                "direction": best.direction,
                "value": best.value,
                "epoch": best.epoch,
            }

    def _try(self, what: str, write: Callable[[], None], *, everywhere: bool = False) -> None:
        """Write during the fit; a failure is only a warning, because it must not end the training."""
        if not (everywhere or is_first_process()):
            return
        try:
            write()
        except (OSError, ValueError, RuntimeError) as error:
            warn(f"{self.folder}: {what} could not be written: {error}. Training continues.")


def direction_of(learn: LearnerProtocol, name: str) -> Direction | None:
    """The direction in which a result is better, as its metric or the callback that monitors it declares."""
    declared = [each.direction for each in learn.callbacks if name in each.monitors]
    return next(filter(None, [*declared, learn.measured.get(name), guess_direction(name)]), None)


def status(learn: Learner, error: BaseException | None) -> str:
    """How the run ended."""
    if learn.interrupted or isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    if error is not None and type(error).__name__ != "TrialPruned":
        return "failed"
    return "stopped" if learn.stop_reason else "finished"


def results_of(learn: Learner, monitored: dict[str, Any] | None) -> dict[str, Any]:
    """The results of the last epoch and of the best one."""
    rows, best = learn.history.rows, None
    if monitored and monitored["epoch"] is not None and rows:
        first = len(rows) - (learn.epoch + 1)  # the epochs of a fit are counted from 0
        best = next((row for row in rows if row["epoch"] == monitored["epoch"] + max(first, 0)), None)
    return {"n_epochs": len(rows), "last": rows[-1] if rows else None, "best": best}


def item_of(learn: Learner) -> list[dict[str, Any]] | None:
    """What one item of a training batch looks like; None if it is not known."""
    try:
        samples = training_samples(learn) or {}
    except Exception as error:  # noqa: BLE001 - the data of a failed run may raise anything
        warn(f"run.json does not describe the items of the data: {error}")
        return None
    return as_plain(samples) or None


def code_of(recipe: Recipe) -> dict[str, str]:
    """The text of the recipe's Python files, by their path in the folder."""
    found = {}
    for source in recipe.names.code.sources():
        text = source.read_text(encoding="utf-8", errors="replace")
        if len(text) <= MAX_CODE:
            found[source.relative_to(recipe.names.code.folder).as_posix()] = text
    return found


def command() -> str:
    """The command line of this process."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    first = {"__main__.py": "learner"}.get(name, name)
    return shlex.join([first, *sys.argv[1:]])


@contextmanager
def noted_warnings(messages: list[str]) -> Iterator[None]:
    """Add the message of each warning that is shown within the block to a list, once."""
    show = warnings.showwarning

    def note(message: Warning | str, *rest: Any) -> None:
        if str(message) not in messages:
            messages.append(str(message))
        show(message, *rest)

    warnings.showwarning = note
    try:
        yield
    finally:
        if warnings.showwarning is note:
            warnings.showwarning = show
