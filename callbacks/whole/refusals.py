"""What cannot be together with `WholeStep`, by name and with the cure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback
from callbacks.core.registry import describe, listens
from callbacks.core.when import When, unwrapped
from callbacks.fast.lean_proof import Unfit, check_group, check_own_methods, find_hooks
from callbacks.place.layout import Compile
from callbacks.record.profile import Profile
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.gradient import GradientClip
from callbacks.step.mixing import CutMix, LabelMix, MixUp
from callbacks.step.noise import WeightNoise
from callbacks.step.precision import MixedPrecision
from callbacks.step.recurrent import RNNRegularizer
from callbacks.whole.executed import OWN, Executed, reads_data
from callbacks.whole.program import Sources
from callbacks.whole.updates import RULES, Run

#: Classes whose work would be silenced, each with what it does and what to do instead.
REFUSED: dict[type[Callback], str] = {
    MixUp: "changes the loss function from batch to batch",
    CutMix: "changes the loss function from batch to batch",
    LabelMix: "changes the loss function from batch to batch",
    RNNRegularizer: "adds to the loss after it is computed: add it in loss_func",
    Compile: "compiles the forward pass, which is compiled with the rest already",
}
#: With these the update is left to the optimizer: gradients of several batches add up, or are computed at
#: other weights than those that change.
OWN_UPDATE = (GradientAccumulation, WeightNoise)
#: Who hears of its gradient: None, or a dict that stays, empty, where a hook was removed.
HEARD_BY = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
INNER = ("forward", "compute_loss", "backward")
SURROUNDERS = (MixedPrecision, Profile)


def check_together(plugin: Callback, learn: Any) -> None:
    """Refuse what a program cannot do.

    Raises:
        ValueError: all of it, each with its cure.
    """
    found = [each for one in learn.callbacks for each in faults(one)]
    if found:
        raise ValueError(" ".join(f"{describe(plugin)}: {each}" for each in found))


def leaves_update(learn: Any) -> bool:
    """Is the update to be no part of the program, but the optimizer's?"""
    return type(learn.optimizer) not in RULES or any(
        isinstance(unwrapped(each), OWN_UPDATE)
        or (isinstance(each, When) and isinstance(unwrapped(each), GradientClip))
        for each in learn.callbacks
    )


def faults(plugin: Callback) -> Iterator[str]:
    """What is silenced of one plug-in."""
    own, cure = unwrapped(plugin), "leave one of them out."
    for kind, why in REFUSED.items():
        if isinstance(own, kind):
            yield f"{describe(own)} {why}{', or' if ':' in why else ':'} {cure}"
            return
    if isinstance(own, MixedPrecision) and own.scales_gradients:
        yield (  # the program has the gradients of the loss that is not scaled, where small ones are lost
            f"{describe(own)} scales the loss before gradients are computed: use MixedPrecision('bf16'), or "
            f"{cure}"
        )
    around = [each for each in INNER if each in own.surrounds and not isinstance(own, SURROUNDERS)]
    if around:
        yield f"{describe(own)} surrounds {around[0]!r}, which is a part of the program now: {cure}"


def check_read_in_time(learn: Any, constants: list[Tensor]) -> None:
    """Refuse a loss that reads a callback's module that may be trained between forward pass and loss.

    Args:
        learn: the learner.
        constants: the tensors that the program reads beside the learner's model.

    Raises:
        Unfit: names the callback and its module.
    """
    read = {each.data_ptr() for each in constants if each.numel() and not each.is_meta}
    for each in learn.callbacks:
        own = unwrapped(each)
        for name, module in vars(own).items() if read and listens(own, "after_pred") else ():
            if isinstance(module, nn.Module) and any(part.data_ptr() in read for part in module.parameters()):
                raise Unfit(
                    f"the loss reads {describe(own)}.{name}, which {describe(own)} may change in after_pred, "
                    "after the program has run"
                )


def check_writers(learn: Any, events: Iterable[str]) -> None:
    """Refuse callbacks that reach for `.data` of tensors: torch does not count what is written there.

    Args:
        learn: the learner.
        events: between the program and the update.

    Raises:
        Unfit: names the callback and the event.
    """
    for each in learn.callbacks:
        own = unwrapped(each)
        for event in events:
            if not listens(each, event):
                continue
            for function in Executed.reached([getattr(own, event)], [type(own)]).functions:
                if function.__module__.partition(".")[0] not in OWN and reads_data(function.__code__):
                    raise Unfit(
                        f"{describe(own)} uses `.data` of tensors in {event}, after the program has run, and "
                        "writes there are not seen: use `with torch.no_grad():` and the tensor itself"
                    )


def check_autocast(sources: Sources) -> None:
    """Refuse an autocast around the fit, which a program would not have.

    Raises:
        Unfit: says what to do instead.
    """
    kind = sources.device.type
    if sources.precision is None and kind != "meta" and torch.is_autocast_enabled(kind):
        raise Unfit("the fit runs within torch.autocast: use MixedPrecision('bf16') instead")


def listeners(learn: Any, *events: str) -> str:
    """Who hears of these events, for a message about one of them that did too much."""
    found = [describe(each) for each in learn.callbacks if any(listens(each, event) for event in events)]
    return " or ".join(found) or "somebody"


def changed(learn: Any, what: str, events: tuple[str, ...]) -> Exception:
    """A plug-in has changed what the program has used already."""
    return ValueError(
        f"WholeStep: {listeners(learn, *events)} has changed {what} in batch {learn.batch_idx} of epoch "
        f"{learn.epoch}, but forward, loss, gradients and update are one program, which was run already: "
        "leave that plug-in out, or WholeStep, or write WholeStep(update='ordinary'), with which gradients "
        "may be changed and the loss may be scaled."
    )


def check_optimizer(optimizer: Any) -> None:
    """Refuse an optimizer whose step is more than its update.

    Raises:
        Unfit: says what.
    """
    check_own_methods(optimizer)
    if any(find_hooks(optimizer)):
        raise Unfit(f"hooks are registered on the step of {type(optimizer).__name__}")
    for group in optimizer.param_groups:
        check_group(group)


def check_parameters(params: list[Any], names: dict[Any, str]) -> None:
    """Refuse parameters that are no plain ones of the model.

    Raises:
        Unfit: says which.
    """
    if not params:
        raise Unfit("the optimizer holds no parameter that is trained")
    if any(each not in names for each in params):
        raise Unfit("the optimizer holds parameters that are not the model's")
    for each in params:
        if not each.is_floating_point():
            raise Unfit(f"the parameter {names[each]!r} is no tensor of floats")
        if any(HEARD_BY(each)):
            raise Unfit(f"a hook is registered on the parameter {names[each]!r}")


def check_modules(modules: Iterable[Any]) -> None:
    """Refuse TorchScript modules, which are already compiled.

    Raises:
        Unfit: says which.
    """
    for each in modules:
        if isinstance(each, torch.jit.ScriptModule):
            name = getattr(each, "original_name", type(each).__name__)
            raise Unfit(f"the {name} of the model or loss is made by torch.jit, whose code cannot be traced")


def check_kept(runs: Iterable[Run], state: Any) -> None:
    """Refuse state of another type than the weights, in which torch would round at other places.

    Raises:
        Unfit: tells both.
    """
    for run in runs:
        for param in run.params:
            for name in run.names:
                kept = state.get(param, {}).get(name)
                if kept is not None and kept.dtype is not param.dtype:
                    raise Unfit(
                        f"the optimizer keeps {name!r} as {kept.dtype}, and weights are {param.dtype}"
                    )


def check_clipped(sources: Sources) -> None:
    """Refuse a clip by a norm that counts parameters which the optimizer does not hold.

    Raises:
        Unfit: names one.
    """
    other = [name for name, each in sources.frozen.items() if each.requires_grad and each.grad is not None]
    if sources.clip is not None and other:
        raise Unfit(f"the norm of GradientClip counts {other[0]!r}, which the optimizer does not hold")
