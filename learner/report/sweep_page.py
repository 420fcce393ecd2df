"""The report of a sweep: the best trial first, each setting against the result, all trials."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from callbacks.history.direction import Direction
from learner.data.tensors import counted
from learner.files.run_files import shown_path
from learner.report.curves import Axis, points
from learner.report.page import Cell, card, code, page, paragraph, section, shown, table
from learner.report.reporting import RunReport
from learner.report.run_page import duration
from learner.report.text_tables import MISSING, shortened, tabulated

N_SHOWN = 10  # trials in the terminal


@dataclass
class Trial:
    """A trial of a sweep."""

    number: int  #: from 0
    params: dict[str, Any]  #: the values of the settings by path
    state: str  #: `finished`, `pruned`, `failed` or `interrupted`
    value: float | None  #: the result; None if it did not finish
    seconds: float | None  #: its duration, if it ended
    error: str  #: why it failed


@dataclass
class Sweep:
    """A sweep and its trials."""

    folder: Path  #: where it is kept
    monitor: str  #: the result that is optimized
    direction: Direction  #: the direction in which it is better
    trials: list[Trial]  #: in the order in which they were run
    axes: dict[str, Axis]  #: the settings by path, with what their axes show

    @property
    def ranked(self) -> list[Trial]:
        """The finished trials, the best first."""
        found = [trial for trial in self.trials if trial.value is not None]
        return sorted(found, key=lambda trial: self._sign * (trial.value or 0.0))

    @property
    def best(self) -> Trial | None:
        """The best trial; None if no trial finished."""
        return next(iter(self.ranked), None)

    @property
    def command(self) -> str:
        """The command that trains with the best settings."""
        return f"learner run {shlex.quote(shown_path(self.folder / 'best.yaml'))}"

    @property
    def _sign(self) -> int:
        return 1 if self.direction == "min" else -1

    def counts(self) -> str:
        """How many trials ended in which way."""
        states = [trial.state for trial in self.trials]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no trials"

    def __repr__(self) -> str:
        shown_trials = self.ranked[:N_SHOWN]
        columns = [["trial", *(str(trial.number) for trial in shown_trials)]]
        columns.append([self.monitor, *(shown(trial.value) for trial in shown_trials)])
        for path in self.axes:
            columns.append([shortened(path), *(shortened(setting(t.params.get(path))) for t in shown_trials)])
        rows = [tabulated(columns), ""] if shown_trials else []
        end = (
            f"best settings: {self.command}" if shown_trials else "no trial finished, so there is no best one"
        )
        return "\n".join([*rows, f"{counted(len(self.trials), 'trial', 'trials')}: {self.counts()}", end])


def setting(value: Any) -> str:
    """The value of a setting; a float with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def sweep_report(found: Sweep) -> RunReport:
    """The page of a sweep."""
    title = f"{found.folder.name}: {counted(len(found.trials), 'trial', 'trials')}"
    sections = [
        section("Result", best_settings(found)),
        section("Settings against the result", figures(found)),
        section("Trials", trial_table(found)),
    ]
    return RunReport(page(title, f'<p class="dim">{escape(found.counts())}</p>', sections))


def best_settings(found: Sweep) -> str:
    """The best value with its settings, and the command that uses them."""
    best = found.best
    if best is None:
        return paragraph("No trial finished.")
    label = f"{found.monitor}, {'lowest' if found.direction == 'min' else 'highest'}, in trial {best.number}"
    cards = [card(shown(best.value), label, is_main=True)]
    cards += [card(setting(value), path) for path, value in best.params.items()]
    return f'<div class="cards">{"".join(cards)}</div>{code(found.command)}'


def figures(found: Sweep) -> str:
    """The result of the finished trials against each setting, the best one marked."""
    trials = found.ranked
    values = [float(trial.value or 0.0) for trial in trials]
    panels = [
        points(path, found.monitor, axis, [trial.params.get(path) for trial in trials], values, 0)
        for path, axis in (found.axes if trials else {}).items()
    ]
    return f'<div class="panels">{"".join(panels)}</div>' if panels else ""


def trial_table(found: Sweep) -> str:
    """All trials, the best first, those that did not finish last."""
    rest = [trial for trial in found.trials if trial.value is None]
    rows = [
        [
            trial.number,
            Cell(trial.value, is_best=trial is found.best),
            *(setting(trial.params.get(path)) for path in found.axes),
            MISSING if trial.seconds is None else duration(trial.seconds),
            trial.error or trial.state,
        ]
        for trial in [*found.ranked, *rest]
    ]
    return table(["trial", found.monitor, *found.axes, "time", "ended"], rows, caption="Trials")
