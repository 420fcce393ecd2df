"""Save the step that raised an error, and run that one step again to find the reason."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.core import draws
from callbacks.core.contract import Callback, Order
from callbacks.core.modules import LOSS
from callbacks.core.when import saved_part
from callbacks.guard.blackbox import FILE
from callbacks.guard.culprit import watched
from callbacks.model.module_state import extra_states, frozen_in, tensors_of
from callbacks.model.plain_attributes import is_storable, plain_state
from callbacks.optim.optimizers import set_mode
from callbacks.optim.saved_state import put_optimizer, wrapped_states
from learner.engine import errors
from learner.files import checkpoint_file
from learner.files.plain import from_plain, to_plain
from learner.state import snapshots
from learner.state.attributes import CLOCK, pass_state, restore_pass_state
from learner.state.loss_state import loss_state, put_loss
from learner.state.pass_modes import modes_of
from learner.state.protocol import FullLearner
from learner.state.snapshot_fits import check_fits
from learner.tools.cost_runs import untouched
from learner.tools.seen import Notes

PIECES = ("batch", "inputs", "targets", "model", "extra", "frozen", "plain", LOSS, "optimizer", "callbacks")
KIND = "step"  # the kind of the file; a checkpoint has no kind


# Save a step


def write(learn: FullLearner, path: str | Path, begin: dict[str, Any]) -> Path:
    """Write the training step in which an error was raised, as `BlackBox` does; `learner replay` reads it.

    What a file cannot hold, such as objects in a batch, is left out and listed in the file.

    Args:
        learn: the learner.
        path: the file; an existing one is replaced.
        begin: from before the step: `random` states, `inputs`, `targets` and `global_step`.

    Returns:
        The file's absolute path.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path).absolute()
    left_out: list[str] = []
    state = {**pieces_of(learn, left_out), "inputs": begin["inputs"], "targets": begin["targets"]}
    contents: dict[str, Any] = {name: plain_parts(state[name], name, left_out) for name in PIECES}
    contents["kind"] = KIND
    contents["random"] = to_plain(begin["random"], "random")
    contents["clock"] = {name: getattr(learn, name) for name in CLOCK}
    contents["error"] = {"type": type(learn.error).__name__, "message": str(learn.error)}
    contents["is_updated"] = learn.global_step != begin["global_step"] or fails_in_step(learn)
    contents["left_out"] = left_out
    checkpoint_file.write(path, contents)
    return path


def pieces_of(learn: FullLearner, left_out: list[str]) -> dict[str, Any]:
    """The state that determines the step, not copied."""
    states = {}
    for each in learn.callbacks:
        try:
            states[each.name] = saved_part(each).state_dict()
        except Exception as error:  # noqa: BLE001 - listed in the file
            left_out.append(f"callbacks.{each.name}: {type(error).__name__}: {error}")
    return {
        "batch": learn.batch,
        "model": tensors_of(learn.model),
        "extra": extra_states(learn.model),
        "frozen": frozen_in(learn.model),
        "plain": {key: each for key, each in plain_state(learn.model).items() if is_storable(each)},
        LOSS: loss_state(learn),
        "optimizer": learn.optimizer.state_dict() if learn.optimizer is not None else None,
        "wrapped": wrapped_states(learn.optimizer),
        "callbacks": states,
    }


def plain_parts(value: Any, where: str, left_out: list[str]) -> Any:
    """The value as plain data, with None for parts that a file cannot hold; a mapping becomes a dict."""
    try:
        return to_plain(value, where)
    except TypeError as error:
        if isinstance(value, Mapping) and all(type(key) is str for key in value):
            return {key: plain_parts(item, f"{where}.{key}", left_out) for key, item in value.items()}
        if type(value) in (list, tuple):
            found = [plain_parts(item, f"{where}[{i}]", left_out) for i, item in enumerate(value)]
            return found if type(value) is list else tuple(found)
        left_out.append(str(error).partition(". ")[0])
        return None


def fails_in_step(learn: FullLearner) -> bool:
    """Was the error raised in the update itself, which may have changed some weights?"""
    frames = (frame for frame, _ in traceback.walk_tb(getattr(learn.error, "__traceback__", None)))
    return "step" in learn.loop.place.operations or any(
        frame.f_locals.get("self") is learn.optimizer for frame in frames
    )


# Run it again


def replay(learn: FullLearner, path: str | Path) -> None:
    """Run a saved step again in a sandbox, print the output of each layer, and raise the step's error.

    The learner's callbacks run, except those that report or save. `python -m pdb` stops at the line that
    raises.

    Args:
        learn: a learner with the same model and callbacks.
        path: the file that `BlackBox` has written.

    Raises:
        CheckpointError: the file cannot be used.
        ValueError: the file belongs to another model, or could not hold the batch.
        Exception: the error of the step.
    """
    kept = read(path)
    check_fits(learn, kept)
    if "batch" in lost_pieces(kept) and lost_pieces(kept) & {"inputs", "targets"}:
        raise ValueError(
            f"{path}: the step cannot run again, because its batch could not be saved in the file: "
            f"{kept['left_out'][0]}. Let Data(split=...) return tensors, or tuples and dicts of them, as "
            "inputs and targets."
        )
    print(head_of(kept))
    notes = Notes()
    try:
        with snapshots.sandbox(learn), watched(learn.model, notes.take_layer):
            learn.loop.connect(learn, [*involved(learn), notes])
            step_again(learn, kept)
    finally:
        print(notes)
    print("The step raised no error this time.")


def read(path: str | Path) -> dict[str, Any]:
    """The saved step."""
    contents = checkpoint_file.read(path)
    if contents.get("kind") != KIND:
        raise checkpoint_file.CheckpointError(
            f"{path} does not contain a step: pass the {FILE} that BlackBox has written."
        )
    return from_plain(contents)


def involved(learn: FullLearner) -> list[Callback]:
    """The callbacks that neither report nor save, and those that they need; none that acts outside."""
    there = [each for each in learn.callbacks if each.order not in (Order.REPORT, Order.SAVE)]
    needed = tuple(kind for each in there for kind in each.needs)
    kept = [each for each in learn.callbacks if each in there or isinstance(each, needed)]
    return [each for each in kept if not each.acts_outside]


def lost_pieces(kept: dict[str, Any]) -> set[str]:
    """The pieces that are not complete."""
    return {re.split(r"\W", place, maxsplit=1)[0] for place in kept["left_out"]}


def step_again(learn: FullLearner, kept: dict[str, Any]) -> None:
    """The step as a fit runs it, with the events before and after it."""
    modes, kept_state = modes_of(learn), pass_state(learn)
    learn.fitting, learn.error, learn.stop_reason, learn.loop.started = True, None, None, []
    try:
        begin(learn, kept)
        with untouched(learn.data):
            give_batch(learn, kept)
            learn.loop.run_batch(learn)
    except BaseException as error:
        learn.error = errors.with_place(error, learn)
        if learn.error is error:
            raise
        raise learn.error from error
    finally:
        errors.end(learn, modes)
        restore_pass_state(learn, kept_state)


def begin(learn: FullLearner, kept: dict[str, Any]) -> None:
    """Restore everything to the state at the start of the step."""
    put_clock(learn, kept)
    learn.loop.on["before_fit"](learn)
    learn.loop.on["before_epoch"](learn)
    learn.loop.begin_pass(learn, learn.data.train, training=True)
    learn.loop.on["before_train"](learn)
    states = {name: state for name, state in kept["callbacks"].items() if state is not None}
    snapshots.put_callback_states(learn, states)
    set_mode(learn.optimizer, training=True)
    snapshots.put_tensors(learn.model, kept)
    if kept.get(LOSS) is not None:
        put_loss(learn, kept)
    if kept["optimizer"] is not None and learn.optimizer is not None:
        put_optimizer(learn.optimizer, kept["optimizer"], kept.get("wrapped", {}))
    put_clock(learn, kept)
    draws.put(kept["random"])


def put_clock(learn: FullLearner, kept: dict[str, Any]) -> None:
    """Restore the clock."""
    for name, value in kept["clock"].items():
        setattr(learn, name, value)


def give_batch(learn: FullLearner, kept: dict[str, Any]) -> None:
    """Use the saved batch; if the file could not hold it, the inputs and targets made from it."""
    learn.batch = kept["batch"]
    if "batch" in lost_pieces(kept):
        vars(learn.data)["split"] = lambda _batch: (kept["inputs"], kept["targets"])


def head_of(kept: dict[str, Any]) -> str:
    """A description of the step: its place, how it ended, and what the file does not contain."""
    clock, error = kept["clock"], kept["error"]
    message = error["message"].partition("\n")[0]
    place = f"batch {clock['batch_idx']} of epoch {clock['epoch']}, global step {clock['global_step']}"
    lines = [
        f"{place}, which ended in",
        f"{error['type']}: {message}",
    ]
    if kept["is_updated"]:
        lines.append(
            "The error was raised in the update or after it: the weights are not those of the step's start."
        )
    lines += [f"not saved: {each}" for each in kept["left_out"]]
    return "\n".join([*lines, ""])
