"""The plan of a sweep: settings, result and direction, all checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from callbacks import Callback, Metrics, ParamScheduler, Recorder
from callbacks.core.registry import describe
from callbacks.core.warning import warn
from callbacks.history.direction import Direction
from callbacks.results.best import check_measured
from learner.learner import Learner
from learner.recipes.recipe import Recipe, load_recipe
from learner.recipes.recipe_errors import Mistake, mistaken
from learner.report.records import flattened, monitored_in
from learner.runs.search_space import Setting, read_settings

Goal = tuple[str | None, Direction | None]


@dataclass
class Plan:
    """What a sweep does; the same plan is needed to resume it."""

    recipe: str  #: the recipe's path
    settings: list[Setting]  #: what varies
    fixed: list[str]  #: the other overrides
    monitor: str  #: the result that is optimized, by its best epoch
    direction: Direction  #: the direction in which it is better
    seed: int  #: determines the suggestions
    allow: list[str]  #: packages that the recipe may import

    def recipe_of(self, params: dict[str, Any]) -> Recipe:
        """The recipe with the values of a trial."""
        overrides = [each.override(params[each.path]) for each in self.settings]
        return load_recipe(self.recipe, [*self.fixed, *overrides], allow=self.allow)


def make_plan(path: str, words: list[str], goal: Goal, *, allow: list[str], seed: int) -> Plan:
    """Read and check the plan of a sweep; the recipe is built once.

    `words` are what varies and other overrides, as on the command line. Without a result in `goal`, it is the
    one that the recipe monitors, otherwise its loss; without a direction, that of the metric.
    """
    settings, fixed = read_settings(words, path, allow)
    if not settings:
        example = "optimizer.lr=1e-4..1e-1 data.batch_size=16,32"
        raise Mistake(f"sweep: no setting varies. Write a range or choices: {example}.")
    recipe = load_recipe(path, fixed, allow=allow)
    learn = recipe.build()
    if Recorder not in learn.callbacks:
        raise Mistake(
            "sweep: the recipe has no Recorder, so no result is kept. Add `Recorder: {}` to callbacks."
        )
    warn_of_no_effect(learn, settings)
    default = "valid_loss" if learn.data.valid is not None else "train_loss"
    name = goal[0] or monitored_in(flattened(recipe.tree.plain())) or default
    return Plan(str(path), settings, fixed, name, direction_of(learn, name, goal[1]), seed, allow)


def warn_of_no_effect(learn: Learner, settings: list[Setting]) -> None:
    """Warn of a learning rate that varies although a schedule replaces it."""
    schedule = next(filter(sets_lr, learn.callbacks), None)
    if schedule is not None and any(each.path == "optimizer.lr" for each in settings):
        path = f"callbacks.{describe(schedule)}"
        warn(
            f"sweep: {describe(schedule)} sets the learning rate, so optimizer.lr has no effect. Vary an "
            f"argument of its schedule, such as {path}.schedules.lr.peak, or omit it with {path}=null."
        )


def sets_lr(callback: Callback) -> bool:
    """Does a callback set the learning rate, so that the optimizer's own has no effect?"""
    return isinstance(callback, ParamScheduler) and "lr" in callback.schedules and not callback.relative


def direction_of(learn: Learner, name: str, wanted: Direction | None) -> Direction:
    """The direction in which a result is better."""
    for callback in learn.callbacks:
        if isinstance(callback, Metrics):
            callback.before_fit(learn)  # only now are the names known; this learner is never fitted
    with mistaken(ValueError):
        check_measured(name, learn, "sweep")
    known = learn.measured[name]
    if wanted and known and wanted != known:
        verb = {"min": "--minimize", "max": "--maximize"}[known]
        raise Mistake(f"sweep: {name} improves in the other direction. Use {verb} {name}.")
    found = wanted or known
    if found is None:
        raise Mistake(
            f"sweep: which direction of {name} is better? Use --minimize {name} or --maximize {name}."
        )
    return found
