"""Compose the script of a learner from the lines of its parts.

For each class of callbacks, `FORMS` has the function that adds its lines to the script. To give a callback a
form, write such a function next to the others of its kind, and add it to the table of its file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from callbacks.core.contract import Callback
from callbacks.core.draws import undrawn
from callbacks.core.warning import warn
from callbacks.core.when import window_of
from callbacks.fast.lean_step import LeanStep
from callbacks.place.device import DevicePlacement
from callbacks.record.recorder import Recorder
from callbacks.step.precision import MixedPrecision
from learner.data.seeds import seed_everything
from learner.files.imported import imported_from
from learner.loop import OPERATIONS
from learner.scripts import loader_texts as texts
from learner.scripts import result_forms, schedule_forms, step_forms
from learner.scripts.batches import batch_form
from learner.scripts.expressions import Expressions, Part
from learner.scripts.loader_forms import loader_form
from learner.scripts.part_forms import loss_form, model_form, optimizer_form
from learner.scripts.script import Script
from learner.scripts.source_text import indented
from learner.state.pass_modes import set_modes
from learner.state.protocol import FullLearner

FORMS: dict[Any, Callable[[Any, Script], None]] = {
    **step_forms.FORMS,
    **schedule_forms.FORMS,
    **result_forms.FORMS,
}


def script_of(
    learn: FullLearner,
    n_epochs: int,
    *,
    model: Part,
    data: Part,
    seed: int | None,
    folder: Path,
    title: str = "",
) -> Script:
    """Compose the script of a learner, which trains for `n_epochs`; the error lists all parts without a form.

    `model` and `data` are what the script calls to make them. `seed` is set before the data is made, then the
    model. `folder` is the folder of the script, next to the user's files. `title` is its first line.
    """
    expressions = Expressions(folder.resolve())
    built, made = make_parts(model, data, seed, learn)
    loaders = loader_form(data, built, learn.data, expressions)
    with undrawn():
        sample = loaders.sample()
    form = batch_form(learn.data, sample, expressions, has_data=loaders.has_data)
    script = Script(learn, expressions, loaders, form, n_epochs, title)
    script.output = output_of(made.model, learn, sample)
    add_head(script, seed)
    add_parts(script, model, made)
    for callback in learn.callbacks:
        if type(callback) is not DevicePlacement:
            add_callback(callback, script)
    check_operations(learn, script)
    if expressions.problems:
        lines = "\n  ".join(dict.fromkeys(expressions.problems))
        raise ValueError(f"this learner cannot be written as a script:\n  {lines}")
    return script


def add_parts(script: Script, model: Part, made: Made) -> None:
    """The data, the model, the loss and the optimizer, in the order in which the script makes them."""
    for callback in script.learn.callbacks:
        if type(callback) is DevicePlacement:
            step_forms.placement(callback, script)
    if not made.is_first:
        add_loaders(script)
    model_form(model, made.model, script)
    if made.is_first:
        add_loaders(script)
    loss_form(script)
    optimizer_form(script)


class Made(NamedTuple):
    """A new model, and whether it was made before the data."""

    model: Any
    is_first: bool = False


def make_parts(model: Part, data: Part, seed: int | None, learn: FullLearner) -> tuple[Any, Made]:
    """Make the data and the model as the script does, in the order that gives the learner's weights."""
    with undrawn():
        if seed is not None:
            seed_everything(seed)
        built = data.build()
        made = Made(model.build())
        if seed is None or learn.global_step or are_equal(made.model, learn.model):
            return built, made
        seed_everything(seed)
        made = Made(model.build(), is_first=True)
        built = data.build()
    if not are_equal(made.model, learn.model):
        warn(
            f"to_script(seed={seed}): with this seed, {model.name} starts with other weights than the "
            f"learner, so the script ends with other weights too. Call torch.manual_seed({seed}) right "
            "before you make the data, then the model."
        )
        made = Made(made.model)
    return built, made


def are_equal(model: Any, other: Any) -> bool:
    """Do two models have the same weights and buffers?"""
    one, two = model.state_dict(), other.state_dict()
    return list(one) == list(two) and all(
        each.dtype == two[name].dtype and torch.equal(each.cpu(), two[name].cpu())
        for name, each in one.items()
        if isinstance(each, torch.Tensor)
    )


@torch.no_grad()
def output_of(model: Any, learn: FullLearner, sample: Any) -> Any:
    """What a new model returns for a batch, if `MixedPrecision` asks for it and it is not one tensor."""
    if MixedPrecision not in learn.callbacks:
        return None
    inputs, _ = learn.data.split(sample)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with undrawn():
        output = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    set_modes(modes)
    return None if isinstance(output, torch.Tensor) else output


def add_head(script: Script, seed: int | None) -> None:
    """The constants, and the seeds."""
    others = other_generators(script.expressions.folder)
    if others and script.loaders.valid and not script.loaders.is_ours:
        script.needs.add("random_states")
        script.helpers["same_random_states"] = texts.SAME_RANDOM_STATES
    if seed is not None:
        script.constants["SEED"] = str(seed)
        script.setup += ["random.seed(SEED)"] * ("random" in others)
        script.setup += ["np.random.seed(SEED)"] * ("numpy" in others)
        script.setup.append("torch.manual_seed(SEED)")
    script.constants["N_EPOCHS"] = str(script.n_epochs)


def add_loaders(script: Script) -> None:
    """The lines that make the loaders, in a separate function if they are many."""
    loaders = script.loaders
    script.helpers |= loaders.helpers
    script.epoch_start += loaders.epoch_start()
    if len(loaders.setup) < 4:
        script.setup += loaders.setup
        return
    names = "train_loader, valid_loader" if loaders.valid else "train_loader"
    body = indented(loaders.setup)
    text = (
        f'def make_loaders():\n    """The batches of training{" and validation" * bool(loaders.valid)}."""\n'
    )
    script.helpers["make_loaders"] = f"{text}{body}\n    return {names}"
    script.setup.append(f"{names} = make_loaders()")


def add_callback(callback: Callback, script: Script) -> None:
    """The lines of a callback, or a problem."""
    window, kind = window_of(callback), type(callback)
    if kind not in FORMS and (callback.only_observes or kind is LeanStep):
        if kind is not Recorder:
            script.left_out.append(kind.__name__)
    elif kind not in FORMS:
        is_ours = kind.__module__.startswith("callbacks.")
        own = "it is your own code; leave it out, or declare `only_observes = True` if it changes no weight"
        hint = "leave it out" if is_ours else own
        script.problem(f"the callback {kind.__name__} cannot be converted: {hint}")
    elif window is not None:
        script.problem(f"the callback {window!r}: a window of When cannot be converted")
    else:
        FORMS[kind](callback, script)


def check_operations(learn: FullLearner, script: Script) -> None:
    """Note each operation that a subclass of the learner overrides."""
    for name, function in OPERATIONS.items():
        if getattr(type(learn), name) is not function:
            script.problem(f"{type(learn).__name__}.{name} overrides an operation, which cannot be converted")


#: What the user's files may import without drawing from generators other than torch's.
SAFE = {"torch", "learner", "callbacks", "__future__", *sys.stdlib_module_names} - {"random"}


def other_generators(folder: Path) -> set[str]:
    """The generators other than torch's that the user's own files may draw from: "random", "numpy"."""
    found: set[str] = set()
    for file in imported_from(folder):
        names = set(re.findall(r"^\s*(?:import|from)\s+(\w+)", file.read_text(encoding="utf-8"), re.M))
        names -= SAFE | {each.stem for each in folder.iterdir()}
        found |= names & {"random", "numpy"} or {"random", "numpy"} if names else set()
    return found
