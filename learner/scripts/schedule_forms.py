"""What schedules contribute to a script."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchPlateau

from callbacks.core.modules import base_of
from callbacks.schedule import annealers
from callbacks.schedule import plain_curves as curves
from callbacks.schedule.annealers import Annealer
from callbacks.schedule.param_scheduler import ParamScheduler
from callbacks.schedule.plateau import ReduceLROnPlateau
from callbacks.schedule.torch_scheduler import TorchScheduler
from callbacks.schedule.windows import batches_together
from learner.scripts.expressions import literal
from learner.scripts.result_forms import compared, every, gain, needs_results
from learner.scripts.script import Script


def param_scheduler(callback: ParamScheduler, script: Script) -> None:
    """`ParamScheduler`: hyperparameters as functions of progress, set before each batch."""
    script.needs.add("batch_idx")
    n_steps, step, unit = str(callback.n_batches or script.length), "batch_idx", "batch"
    n_together = together(script)
    if n_together > 1:
        n_steps, step = f"math.ceil({n_steps} / {n_together})", f"batch_idx // {n_together}"
        unit = "update"
    own = script.own("n_steps")
    script.setup.append(f"{own} = N_EPOCHS * {n_steps}")
    progress = script.own("progress")
    script.batch_start.append(f"# the schedule: progress is 0 at the first {unit} and 1 at the last")
    script.batch_start.append(f"{progress} = (epoch * {n_steps} + {step}) / max({own} - 1, 1)")
    for name, given in callback.schedules.items():
        schedule_of(name, given, callback.relative, script, (progress, own))


def together(script: Script) -> int:
    """The number of batches that an update follows."""
    size = getattr(script.learn.data.train, "batch_size", None)
    counts_items = any(each.accumulates_gradients and not each.n_batches for each in script.learn.callbacks)
    if counts_items and not size:
        script.problem("GradientAccumulation(n_samples=): a schedule needs the number of batches, n_batches=")
    return batches_together(script.learn.callbacks, size)


def schedule_of(name: str, given: Any, relative: bool, script: Script, at: tuple[str, str]) -> None:
    """The lines for one hyperparameter."""
    each = list(given) if isinstance(given, Sequence) else [given]
    calls = [schedule_call(function, script, at, name) for function in each]
    names, sources = ["group"], ["optimizer.param_groups"]
    value = calls[0]
    if len(set(calls)) > 1:
        script.batch_start.append(f"values = [{', '.join(calls)}]")
        names, sources, value = [*names, "value"], [*sources, "values"], "value"
    if relative:
        script.setup.append(f"{name}_at_start = [{got(script, name)} for group in optimizer.param_groups]")
        names, sources = [*names, "factor"], [*sources, f"{name}_at_start"]
        value = f"factor * {value}"
    elif len(sources) == 1 and len(value) > 60:
        script.batch_start.append(f"{name} = {value}")
        value = name
    source = sources[0] if len(sources) == 1 else f"zip({', '.join(sources)}, strict=True)"
    script.batch_start += [f"for {', '.join(names)} in {source}:", f"    {put(script, name, value)}"]


def got(script: Script, name: str) -> str:
    """How a hyperparameter is read from the parameter group `group`."""
    is_beta = name not in script.learn.optimizer.param_groups[0]
    return 'group["betas"][0]' if is_beta else f'group["{name}"]'


def put(script: Script, name: str, value: str) -> str:
    """The line that sets a hyperparameter in the parameter group `group`."""
    group = script.learn.optimizer.param_groups[0]
    if name in group:
        return f'group["{name}"] = {value}'
    if name == "momentum" and "betas" in group:
        return f'group["betas"] = ({value}, *group["betas"][1:])'
    script.problem(f"ParamScheduler: the hyperparameter {name!r} of this optimizer cannot be converted")
    return "pass"


def schedule_call(function: Any, script: Script, at: tuple[str, str], name: str) -> str:
    """The call that computes a value."""
    progress, n_steps = at
    if not isinstance(function, Annealer):
        return f"{script.expressions.value(function, f'ParamScheduler: {name}')}({progress})"
    phases = phases_of(function)
    if phases is None:
        return simple(function, script, progress, n_steps)
    script.helpers["in_phases"] = IN_PHASES
    parts = []
    for share, part in phases:
        written = simple(part, script, "", "")
        parts.append(f"({literal(share)}, {written})")
    return f"in_phases([{', '.join(parts)}], {progress}, {n_steps})"


def simple(function: Any, script: Script, progress: str, n_steps: str) -> str:
    """The call of an annealer that has no phases; without progress, the function alone."""
    if not isinstance(function, Annealer) or function.name not in SIMPLE:
        shown = getattr(function, "name", function)
        script.problem(f"ParamScheduler: {shown!r} within combine() cannot be converted")
        return "..."
    name = function.name
    script.helpers[name] = SGDR if name == "sgdr" else inspect.getsource(COPIED[name])
    arguments = [literal(each) for each in function.arguments]
    if function.name == "sgdr":
        arguments.append(n_steps)
    if not progress:
        return f"partial({', '.join([function.name, *arguments])})"
    return f"{function.name}({', '.join([*arguments, progress])})"


def phases_of(function: Annealer) -> list[tuple[float, Any]] | None:
    """The shares and the functions of an annealer in phases; None if it has none."""
    if function.name in SIMPLE:
        return None
    value: Any = function.value
    if getattr(value, "func", None) is not annealers._combine:
        return None
    ends, parts = value.args
    return list(zip(ends, parts, strict=True))


def torch_scheduler(callback: TorchScheduler, script: Script) -> None:
    """`TorchScheduler`: torch's scheduler, stepped after an epoch or after updates."""
    made = callback.scheduler
    base = base_of(made)
    own = script.own("scheduler")
    script.setup.append(f"{own} = {script.expressions.call(made, 'TorchScheduler', 'optimizer')}")
    number, unit = int(callback.every.number), callback.every.unit
    step = f"{own}.step()"
    if base is TorchPlateau:
        needs_results(script, "TorchScheduler", callback.monitor)
        step = f'{own}.step(results["{callback.monitor}"])'
    if unit == "epoch":
        script.after_epoch += every(number, "(epoch + 1)", [step])
    elif unit == "step" and base is not TorchPlateau:
        if number > 1:
            script.needs.add("global_step")
        script.after_step += every(number, "global_step", [step])
    else:
        script.problem(f'TorchScheduler(every="{callback.every}"): a script counts by steps or by epochs')


def plateau(callback: ReduceLROnPlateau, script: Script) -> None:
    """`ReduceLROnPlateau`: lower the rate after epochs that are not better."""
    needs_results(script, "ReduceLROnPlateau", callback.monitor)
    best, wait, rest = script.own("plateau_best"), script.own("plateau_wait"), script.own("cooldown")
    value, sign, worst = compared(callback, script)
    script.setup.append(f"{best}, {wait} = {worst}, 0")
    lines = [
        f"if {gain(value, best, sign, callback._best.min_delta)}:",
        f"    {best}, {wait} = {value}, 0",
        "else:",
        f"    {wait} += 1",
    ]
    if callback.cooldown:
        script.setup.append(f"{rest} = 0")
        lines += [f"if {rest}:", f"    {rest}, {wait} = {rest} - 1, 0"]
    rate = f'group["lr"] * {literal(callback.factor)}'
    rate = f"max({rate}, {literal(callback.min_lr)})" if callback.min_lr else rate
    done = f"{wait}, {rest} = 0, {callback.cooldown}" if callback.cooldown else f"{wait} = 0"
    lines += [
        f"if {wait} > {callback.patience}:",
        f"    {done}",
        "    for group in optimizer.param_groups:",
        f'        group["lr"] = {rate}',
    ]
    script.after_epoch += lines


FORMS: dict[Any, Callable[[Any, Script], None]] = {
    ParamScheduler: param_scheduler,
    TorchScheduler: torch_scheduler,
    ReduceLROnPlateau: plateau,
}


IN_PHASES = '''
def in_phases(phases: list, progress: float, n_steps: int) -> float:
    """The value of functions of progress, which end at their shares of the steps."""
    ends = [end for end, _ in phases]
    if n_steps > 1:  # the last step of a phase has the phase's end value
        ends = [*((end * n_steps - 1) / (n_steps - 1) for end in ends[:-1]), 1.0]
    at = next((number for number, end in enumerate(ends) if end >= progress), len(ends) - 1)
    start = max(ends[at - 1], 0.0) if at else 0.0
    share = (progress - start) / (ends[at] - start) if ends[at] > start else 1.0
    return phases[at][1](min(max(share, 0.0), 1.0))
'''

#: The functions that scripts copy.
COPIED = {each.__name__: each for each in (curves.constant, curves.lin, curves.cos, curves.exp, curves.poly)}
SIMPLE = {"sgdr", *COPIED}

SGDR = '''
def sgdr(
    start: float, end: float, n_cycles: int, mult: float, n_steps: int, progress: float
) -> float:
    """Down along a cosine with restarts, each cycle `mult` times as long as the one before."""
    lengths = [mult**cycle for cycle in range(n_cycles)]
    ends = [sum(lengths[: cycle + 1]) / sum(lengths) for cycle in range(n_cycles)]
    progress *= (n_steps - 1) / n_steps
    at = next((number for number, each in enumerate(ends) if progress < each - 1e-9), n_cycles - 1)
    first = ends[at - 1] if at else 0.0
    share = (progress - first) / (ends[at] - first)
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
'''
