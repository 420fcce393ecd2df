"""What cannot be together with `WholeStep`, by name and with the cure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from callbacks.accumulation import GradientAccumulation
from callbacks.contract import Callback
from callbacks.gradient import GradientClip
from callbacks.layout import Compile
from callbacks.lean.proof import Unfit
from callbacks.mixing import CutMix, LabelMix, MixUp
from callbacks.noise import WeightNoise
from callbacks.precision import MixedPrecision
from callbacks.profile import Profile
from callbacks.recurrent import RNNRegularizer
from callbacks.registry import describe, listens
from callbacks.when import When, unwrapped
from callbacks.whole.updates import RULES

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
    """Refuse a loss that reads a module of a callback which may train it between forward pass and loss.

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
