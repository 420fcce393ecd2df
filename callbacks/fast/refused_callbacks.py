"""Refuses callbacks that cannot be combined with `WholeStep`, by name and with the fix."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.registry import describe
from callbacks.fast.fallback_reasons import Unfit
from callbacks.place.layout import Compile
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.mixing import CutMix, LabelMix, MixUp
from callbacks.step.modes import MCDropout
from callbacks.step.precision import MixedPrecision
from callbacks.step.recurrent import RNNRegularizer

#: Classes that would have no effect, each with what it does and what to do instead.
REFUSED: dict[type[Callback], str] = {
    **dict.fromkeys((MixUp, CutMix, LabelMix), "changes the loss function from batch to batch:"),
    RNNRegularizer: "adds to the loss after it is computed: add it in loss_func, or",
    Compile: "compiles the forward pass, which is compiled with the rest already:",
}
#: Classes whose work between forward pass and gradients is allowed for, so that nothing is copied for them.
FOLLOWED = (MixedPrecision, GradientAccumulation, MCDropout)
AFTER_PRED = ("after_pred",)
BEFORE_GRADIENTS = ("after_pred", "after_loss", "before_backward")
INNER = ("forward", "compute_loss", "backward")


def check_together(owner: Callback, learn: LearnerProtocol) -> None:
    """Refuse callbacks that would have no effect with a program; the error names all of them."""
    found = [problem for one in learn.callbacks for problem in problems(one)]
    if found:
        raise ValueError(" ".join(f"{describe(owner)}: {each} leave one of them out." for each in found))


def problems(callback: Callback) -> Iterator[str]:
    """Why one callback would have no effect."""
    for kind, why in REFUSED.items():
        if isinstance(callback, kind):
            yield f"{describe(callback)} {why}"
            return
    if callback.scales_gradients:
        yield (  # the program computes gradients of the unscaled loss, which loses small ones
            f"{describe(callback)} scales the loss before gradients are computed: "
            "use MixedPrecision('bf16'), or"
        )
    around = [each for each in INNER if each in callback.surrounds]
    if around and not callback.only_observes and not isinstance(callback, MixedPrecision):
        yield f"{describe(callback)} surrounds {around[0]!r}, which is part of the program:"


def changed(learn: LearnerProtocol, what: str, events: tuple[str, ...]) -> Exception:
    """The error for a callback that has changed what the program has already used."""
    suspects = " or ".join(map(describe, callbacks_that_change(learn, events))) or "other code"
    return ValueError(
        f"WholeStep: {suspects} has changed {what} in batch {learn.batch_idx} of epoch "
        f"{learn.epoch}, but forward, loss and gradients are one program, which has already run: leave out "
        "that callback, or WholeStep. Gradients may be changed, and the loss may be scaled."
    )


def callbacks_that_change(learn: LearnerProtocol, events: tuple[str, ...]) -> list[Callback]:
    """The callbacks that listen to one of these events and may change there what a step depends on."""
    return [
        each
        for each in learn.callbacks
        if not each.only_observes and type(each) not in FOLLOWED
        and any(each.listens_to(event) for event in events)
    ]  # fmt: skip


def check_overridden(owner: Callback, learn: LearnerProtocol) -> None:
    """Refuse a step if another callback, or a subclass of the learner, overrides a part of it."""
    if any(each.distributed for each in learn.callbacks):
        raise Unfit(
            "several processes train together, and a program does not wait for the gradients of the others"
        )
    for name in INNER:
        other = learn.callbacks.overrides.get(name)
        if other is not owner and other is not None:
            raise Unfit(f"{describe(other)} overrides {name}")
        owners = [each for each in type(learn).__mro__ if name in vars(each)]
        if len(owners) > 1:
            raise Unfit(f"{owners[0].__name__} overrides {name}")


def writes_uncounted(function: Any, depth: int = 3) -> bool:
    """Does a function, or one that it names, use `data` or `numpy`? Torch counts no writes through these."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType) or str(function.__module__).startswith("torch"):
        return False
    codes = [function.__code__]
    for code in codes:  # the functions within follow
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
    names = {name for code in codes for name in code.co_names}
    if not names.isdisjoint(("data", "numpy")):
        return True
    held = [each.cell_contents for each in function.__closure__ or ()]
    return depth > 0 and any(
        writes_uncounted(each, depth - 1) for each in (*map(function.__globals__.get, names), *held)
    )


def check_owned(learn: LearnerProtocol, tensors: list[Tensor]) -> None:
    """Refuse a loss that reads a module of a callback, which may train it between forward pass and loss."""
    known = set(map(id, tensors)) - set(map(id, learn.model.parameters()))
    for each in callbacks_that_change(learn, AFTER_PRED):
        for name, module in vars(each).items():
            if isinstance(module, nn.Module) and any(id(part) in known for part in module.parameters()):
                raise Unfit(
                    f"the loss reads {describe(each)}.{name}, which {describe(each)} may change in "
                    "after_pred, after the program has run"
                )
