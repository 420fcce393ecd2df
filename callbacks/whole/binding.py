"""What a program was made of, and whether it is still so."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import Callback
from callbacks.core.registry import listens
from callbacks.core.when import unwrapped
from callbacks.fast.lean_proof import find_hooks
from callbacks.inspect.activations import ActivationStats
from callbacks.inspect.surface import LossSurface
from callbacks.inspect.weight_updates import WeightUpdates
from callbacks.record.timer import Timer
from callbacks.step.ema import EMA
from callbacks.step.gradient import GradientClip
from callbacks.step.precision import MixedPrecision
from callbacks.whole.executed import Executed
from callbacks.whole.program import Sources
from callbacks.whole.refusals import (
    HEARD_BY,
    check_autocast,
    check_clipped,
    check_kept,
    check_modules,
    check_optimizer,
    check_parameters,
    check_writers,
)
from callbacks.whole.stock import Stock
from callbacks.whole.updates import Run, kept_of, numbers_of, runs_of
from callbacks.whole.values import is_value
from callbacks.whole.watch import Watch, hooks_of

#: They hear of a step, but look at no gradient; `GradientClip` is told the norm. Others say so themselves,
#: with `reads_gradients = False`.
BLIND = (ActivationStats, EMA, GradientClip, LossSurface, MixedPrecision, Timer, WeightUpdates)
#: What a parameter is trained by.
FLAGS = attrgetter("requires_grad", "dtype")
OF_GRADIENTS = ("after_backward", "before_step", "after_step")
#: Where the program has run already, and the step is not yet taken.
IN_BATCH = ("after_pred", "after_loss", "before_backward", "after_backward", "before_step")


class Binding:
    """Model, loss, optimizer and plug-ins as they were when programs were made of them.

    A program knows nothing but what it was made of: an attribute that has another value since, as `training`
    or the `p` of a dropout, needs another program. So all of them are looked at before each step, by whether
    they are the same objects, which takes some 40 nanoseconds each.

    Args:
        learn: the learner.
        has_update: is the update a part of the program?
        executed: the code that steps have run so far.
        unused: names of parameters that have no part in the loss.

    Raises:
        Unfit: the step cannot be made a program.
    """

    stock: Stock  #: the programs that were made of things like these

    def __init__(self, learn: Any, has_update: bool, executed: Executed, unused: Iterable[str] = ()):
        self.model, self.optimizer = learn.model, learn.optimizer
        self.loss_func, self.callbacks = learn.loss_func, learn.callbacks
        names = {each: name for name, each in learn.model.named_parameters()}
        self.params = [each for each in trained_of(learn.optimizer) if names.get(each, "") not in unused]
        check_parameters(self.params, names)
        check_writers(learn, IN_BATCH if has_update else IN_BATCH[:3])
        if has_update:
            check_optimizer(learn.optimizer)
        self.sources = sources_of(learn, names, self.params, has_update)
        self.sources.unused = frozenset(unused)
        check_autocast(self.sources)
        check_clipped(self.sources)
        check_kept(self.sources.runs, state_of(learn.optimizer))
        self.runs = self.sources.runs
        self.fixed = [*self.sources.frozen.values(), *self.sources.buffers.values()]
        dtypes = {each.dtype for each in self.params}
        self.dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        self._tensor = torch.empty(0, dtype=self.dtype, device=self.sources.device)
        self.settings = settings_of(self.sources)
        self.watch = Watch(learn.model.modules(), learn.loss_func, executed)
        self.modules = self.watch.modules
        check_modules(self.modules)
        self.hooks = hooks_of(self.modules, {each: name for name, each in learn.model.named_modules()})
        self.hook_dicts = [hooks for _, hooks in self.hooks]
        self.all_params = list(names)
        self.flags = list(map(FLAGS, self.all_params))
        self.groups = [(group, list(group["params"])) for group in learn.optimizer.param_groups]
        self.keepers = [each for run in self.runs if run.names for each in run.params]
        self.own_step = vars(learn.optimizer).get("step")
        self.step_hooks = find_hooks(learn.optimizer) if has_update else ()
        self._owns, self._counts = self._owned(), self._counted()
        self.is_doubtful = False  # has the optimizer taken a step of its own since?

    def sign(self) -> tuple[Any, ...]:
        """What two bindings must have alike to share their programs."""
        sources = self.sources
        tensors = sources.params | sources.frozen | sources.buffers
        return (
            *(id(each) for each in (self.model, self.loss_func)),
            *(self.settings, sources.gives_gradients, len(sources.params), len(sources.frozen)),
            *((run.structure, len(run.params)) for run in self.runs),
            *((name, each.shape, each.dtype, each.device, each.stride()) for name, each in tensors.items()),
            *(
                (id(owner), key, (type(value), value) if is_value(value) else id(value))
                for key, value, owner in self.watch
            ),
        )

    def owners(self) -> list[Any]:
        """What the signature tells by which object it is."""
        values = [value for _, value, _ in self.watch]
        return [each for each in [self.model, self.loss_func, *self.modules, *values] if not is_value(each)]

    def is_current(self, learn: Any) -> bool:
        """Is everything as it was?"""
        return (
            not self.is_doubtful
            and learn.callbacks is self.callbacks
            and learn.model is self.model
            and learn.optimizer is self.optimizer
            and learn.loss_func is self.loss_func
            and self._updates_as_ever()
            and self.watch.is_same()
            and self.trains_as_ever()
        )

    def trains_as_ever(self) -> bool:
        """Are the same parameters trained, in the same type, without hooks?"""
        params = self.all_params
        return list(map(FLAGS, params)) == self.flags and not any(map(any, map(HEARD_BY, params)))

    def _updates_as_ever(self) -> bool:
        """Has the optimizer the groups and state that it had, and clip and precision their settings?"""
        optimizer = self.optimizer
        now = optimizer.param_groups
        if len(now) != len(self.groups):
            return False
        for group, (own, params) in zip(now, self.groups, strict=True):
            listed = group["params"]
            if group is not own or len(listed) != len(params) or not all(map(is_, listed, params)):
                return False
        for run in self.runs:
            if run.rule.structure(run.group) != run.structure:
                return False
        own = vars(optimizer)
        return (
            settings_of(self.sources) == self.settings
            and all(map(is_, self._owned(), self._owns))
            and self._counted() == self._counts
            and own.get("step") is self.own_step
            and not (self.runs and "zero_grad" in own)
            and not any(self.step_hooks)
        )

    def _owned(self) -> list[Any]:
        """The dicts in which the optimizer keeps what it keeps of each parameter; None before it has."""
        return list(map(state_of(self.optimizer).get, self.keepers))

    def _counted(self) -> list[int]:
        """How much more often the count of a parameter's updates was written to than that of the first.

        One that somebody has set would else have the numbers of the others of its run.
        """
        if not self.keepers:
            return []
        steps = [own["step"] for own in self._owned() if own and "step" in own]
        return [each._version - steps[0]._version for each in steps]

    def stamp(self) -> tuple[int, list[float]]:
        """Where weights and what the optimizer keeps are, how often written to; the update's numbers."""
        tensors = [*self.params, *self.sources.kept]
        return sum([each._version + each.data_ptr() for each in tensors]), self.sources.numbers

    def still_holds(self, learn: Any, stamp: tuple[int, list[float]]) -> bool:
        """Would the update that is computed be computed again?"""
        return (
            learn.optimizer is self.optimizer
            and learn.model is self.model
            and self._updates_as_ever()
            and self.stamp()[0] == stamp[0]
            and numbers_of(self.runs, state_of(self.optimizer)) == stamp[1]
        )

    def differs_from(self, other: Binding) -> str:
        """What has another value than there, in words."""
        for (key, value, holder), (_, before, _) in zip(self.watch, other.watch, strict=False):
            is_same = value == before if is_value(value) and is_value(before) else value is before
            if not is_same and not isinstance(value, Tensor):
                return self.watch.told(key, holder)
        return "a setting of the model or the optimizer"

    def gather(self) -> None:
        """Take up what the optimizer keeps, and the numbers of the next update."""
        state, sources = state_of(self.optimizer), self.sources
        sources.kept = kept_of(self.runs, state)
        numbers = numbers_of(self.runs, state)
        if numbers != sources.numbers:
            sources.numbers = numbers
            self._tensor = torch.tensor(numbers, dtype=self.dtype).to(sources.device, non_blocking=True)

    def flat(self, leaves: list[Any]) -> list[Tensor]:
        """What a program takes, but for constants."""
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        return [*self.params, *self.fixed, *self.sources.kept, self._tensor, *tensors]

    def commit(self, news: list[Tensor]) -> None:
        """Change weights, and what the optimizer keeps; within `no_grad`."""
        optimizer, counts = self.optimizer, []
        for run in self.runs:
            if run.names or run.counts:
                for param in run.params:
                    own = optimizer.state[param]
                    if not own or (run.names and own.get(run.names[0]) is None):
                        run.rule.begin(own, param, run.group)
                    if run.counts:
                        counts.append(own["step"])
        self._owns, self._counts = self._owned(), self._counted()
        olds = [*self.params, *kept_of(self.runs, state_of(optimizer))]
        torch._foreach_copy_(olds, news)  # type: ignore[reportPrivateImportUsage]
        if counts:
            torch._foreach_add_(counts, 1)  # type: ignore[reportPrivateImportUsage]
        if "step" in vars(optimizer):  # a scheduler's of torch, which marks here that a step was taken
            optimizer._opt_called = True


def sources_of(learn: Any, names: dict[Any, str], params: list[Tensor], has_update: bool) -> Sources:
    """What a program is made of.

    Args:
        learn: the learner.
        names: those of the model's parameters.
        params: those that are trained.
        has_update: is the update a part of it?
    """
    trained = set(params)
    return Sources(
        model=learn.model,
        loss_func=learn.loss_func,
        runs=only(trained, runs_of(learn.optimizer)) if has_update else [],
        params={names[each]: each for each in params},
        frozen={name: each for each, name in names.items() if each not in trained},
        buffers=dict(learn.model.named_buffers()),
        precision=first_of(learn.callbacks, MixedPrecision),
        clip=first_of(learn.callbacks, GradientClip) if has_update else None,
        gives_gradients=not has_update or any(map(looks_at_gradients, learn.callbacks)),
    )


def settings_of(sources: Sources) -> tuple[Any, ...]:
    """Settings of plug-ins that are a part of a program."""
    clip, precision = sources.clip, sources.precision
    return (
        None if precision is None else precision.precision,
        None if clip is None else (clip.max_norm, clip.max_value, clip.norm_type),
    )


def trained_of(optimizer: Any) -> list[Tensor]:
    """The parameters that are trained, in the optimizer's order."""
    return [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]


def only(params: set[Any], runs: list[Run]) -> list[Run]:
    """The runs with these parameters alone."""
    left = [run._replace(params=[each for each in run.params if each in params]) for run in runs]
    return [run for run in left if run.params]


def first_of(plugins: Iterable[Callback], kind: type) -> Any:
    """The plug-in of a class; None where there is none."""
    return next((each for each in plugins if isinstance(each, kind)), None)


def looks_at_gradients(plugin: Callback) -> bool:
    """May this plug-in read or change gradients?"""
    own = unwrapped(plugin)
    blind = isinstance(own, BLIND) or not own.reads_gradients
    return not blind and any(listens(plugin, event) for event in OF_GRADIENTS)


def state_of(optimizer: Any) -> Any:
    """What an optimizer keeps by parameter; nothing of one that keeps it in a way of its own."""
    return getattr(optimizer, "state", {})
