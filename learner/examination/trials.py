"""Checks of `learn.check()` that run the model on one batch: items that mix, the stable step, some steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from callbacks.core import draws
from callbacks.history.history import show
from callbacks.place.device import map_tensors
from learner.checks.data_checks import n_left_over
from learner.checks.hints import ONE_VALUE, drop_last_hint, why_one_is_left
from learner.checks.loss_checks import tensors_in
from learner.checks.optimizer_checks import closure_problems
from learner.data.tensors import counted
from learner.examination.curvature import largest_curvature, largest_stable_rate, twice_differentiable
from learner.examination.exams import backward, copied, drop_gradients, gradient
from learner.examination.report import Report
from learner.messages.arguments import rate_problems
from learner.messages.problems import LearnerWarning, listed
from learner.state.pass_modes import modes_of, set_modes
from learner.state.protocol import FullLearner

N_STEPS, FEWEST_STEPS = 20, 4  # one step of Adam may raise the loss, although several steps lower it
SECONDS = 2.0  # time limit of more steps than the fewest
SECONDS_OF_CURVATURE = 4.0


def stable_step(learn: FullLearner, report: Report, batch: Any) -> None:
    """Report the largest learning rate that is stable for gradient descent on this batch."""
    if (
        list(rate_problems(learn.optimizer))
        or largest_stable_rate(learn.optimizer, 1.0) is None
        or not learn.loop.runs_default("step")
    ):
        return
    learn.batch = batch
    with twice_differentiable():
        learn.loop.run_model(learn)
        learn.loop.do["compute_loss"](learn)  # without terms that callbacks add
    trainable = [each for each in learn.model.parameters() if each.requires_grad]
    try:
        curvature = largest_curvature(learn.loss_grad, trainable, seconds=SECONDS_OF_CURVATURE)
    except RuntimeError as error:
        report.facts["stable step"] = f"unknown: {str(error).splitlines()[0]}"
        return
    describe_stable_step(learn, report, curvature)


def describe_stable_step(learn: FullLearner, report: Report, curvature: float) -> None:
    """Report the largest stable learning rate at a curvature, and warn if that of the learner is larger."""
    bound = largest_stable_rate(learn.optimizer, curvature)
    if bound is None:
        report.facts["stable step"] = "not bounded: the loss does not curve up at these weights"
        return
    own = set(map(id, learn.model.parameters()))  # the curvature is of these alone
    groups = [group for group in learn.optimizer.param_groups if own & set(map(id, group["params"]))]
    rate = max(float(group["lr"]) for group in groups or learn.optimizer.param_groups)
    report.facts["stable step"] = (
        f"lr up to {bound:.3g}; lr is {rate / bound:.2g} times that (largest curvature {curvature:.4g}, on "
        "this batch at these weights; the same everywhere if the loss is quadratic in them)"
    )
    if rate > bound:
        report.warn(
            f"lr {rate:.3g} is above the largest stable step of this batch, {bound:.3g}: steps in the "
            "steepest direction diverge. Lower lr, scale the inputs, or use a warm-up."
        )


def items(learn: FullLearner, report: Report, batch: Any) -> None:
    """Check whether a change of one item changes the outputs of others, in evaluation mode."""
    learn.batch = batch
    learn.loop.run_model(learn)
    n_items, inputs = learn.n_items, learn.inputs
    other = map_tensors(inputs, lambda item: with_first_changed(item, n_items))
    outputs = outputs_of(learn, (inputs, other, inputs))  # the last shows a state that the model keeps
    if n_items < 2 or not outputs[0]:
        why = "the batch has one item" if n_items < 2 else "the outputs do not have one row per item"
        report.facts["items"] = f"not checked: {why}"
        return
    n_changed = max(n_rows_apart(before[1:], after[1:]) for before, after in zip(*outputs[:2], strict=True))
    if n_changed and max(n_rows_apart(*each) for each in zip(outputs[0], outputs[2], strict=True)):
        report.facts["items"] = "not checked: the outputs of a batch change if it is passed again"
    elif not n_changed:
        report.facts["items"] = "do not mix: changing one leaves the outputs of the others unchanged"
    else:
        report.facts["items"] = (
            f"mix: changing one changes the outputs of {n_changed} of {n_items - 1} others"
        )
        report.add([mixed(learn.model, n_changed)])


def outputs_of(learn: FullLearner, inputs: Sequence[Any]) -> list[list[Tensor]]:
    """Outputs with one row per item, for some inputs, in evaluation mode with equal random numbers."""
    modes, states, outputs = modes_of(learn), draws.take(), []
    learn.model.eval()
    try:
        for each in inputs:
            draws.put(states)
            learn.inputs = each
            learn.loop.do["forward"](learn)  # with gradients, as forward may compute some
            found = [item.detach() for item in tensors_in(learn.preds)]
            outputs.append([item for item in found if item.ndim and len(item) == learn.n_items])
    finally:
        set_modes(modes)
    return outputs


def mixed(model: nn.Module, n_changed: int) -> Exception:
    """A warning: the items of a batch depend on one another."""
    norms = [(name, each) for name, each in model.named_modules() if isinstance(each, _NormBase)]
    names = [name for name, each in norms if not each.track_running_stats]
    cause = (
        "look for an operation over dimension 0 (softmax, mean, reshape, flatten), or an RNN or attention "
        "without batch_first=True"
    )
    if names:
        cause = f"{listed(names)} takes its statistics from the batch (track_running_stats=False)"
    return LearnerWarning(
        f"changing one item of a batch changes the outputs of {n_changed} others: {cause}. "
        "If dimension 0 is time or the nodes of a graph, or items are compared with each other (contrastive "
        "learning), this is correct."
    )


def with_first_changed(item: Any, n_items: int) -> Any:
    """A batch whose first item is replaced by another one."""
    if not isinstance(item, Tensor) or not item.ndim or len(item) != n_items or n_items < 2:
        return item
    changed = item.clone()
    same = torch.equal(item[0], item[1])
    changed[0] = item[0] + 1 if same and item.is_floating_point() else item[1]
    return changed


def n_rows_apart(first: Tensor, second: Tensor) -> int:
    """The number of items that differ by more than rounding."""
    if first.dtype is torch.bool:
        first, second = first.int(), second.int()
    size = float(first.abs().nan_to_num().max()) if first.numel() else 0.0
    apart = ~torch.isclose(first, second, rtol=1e-3, atol=1e-5 * size, equal_nan=True)
    return int(apart.reshape(len(apart), -1).any(1).sum())


def steps(learn: FullLearner, report: Report, batch: Any) -> None:
    """Check that some steps on the batch lower its loss, and change trainable tensors only."""
    if list(rate_problems(learn.optimizer)) or list(closure_problems(learn, learn.loop.runs_default("step"))):
        return  # it is reported already
    frozen = [
        (name, each, each.clone()) for name, each in learn.model.named_parameters() if not each.requires_grad
    ]
    buffers, n_before = buffers_of_frozen(learn.model), learn.global_step
    losses = losses_of_steps(learn, batch)
    n_steps, n_updates = len(losses) - 1, learn.global_step - n_before
    if n_steps and not n_updates:
        report.facts["one batch"] = f"not checked: {n_steps} steps did not update the weights"
        return
    updates = f", {counted(n_updates, 'update', 'updates')} in all," if n_updates < n_steps else ""
    report.facts["one batch"] = (
        f"{n_steps} steps on it{updates} change its loss from {show(losses[0])} to {show(losses[-1])}"
    )
    report.add(step_problems(losses))
    if altered := changed(frozen):
        report.warn(
            f"{listed(altered)} are frozen (requires_grad=False), but a step changes them. If forward or a "
            "callback writes to them on purpose, as in a moving average, this is correct."
        )
    if stale := changed(buffers):
        report.warn(
            f"the frozen layers' {listed(stale)} are still updated from the data: to keep them, use the "
            "callback BatchNormFreeze, or put the layers into evaluation mode before the fit. For a copy of "
            "the model that follows it on purpose, this is correct."
        )


def losses_of_steps(learn: FullLearner, batch: Any) -> list[float]:
    """Train on the batch, within the time limit; return the loss before each step, and after the last."""
    end, losses, states = time.monotonic() + SECONDS, [], draws.take()
    while len(losses) <= N_STEPS and (time.monotonic() < end or len(losses) <= FEWEST_STEPS):
        draws.put(states)  # the same dropout at every step, so that the loss falls without noise
        # a copy, as it may be changed in place; the index counts the batches of gradient accumulation
        learn.batch, learn.batch_idx = copied(batch), len(losses)
        learn.loop.run_model(learn)
        learn.loop.compute_loss(learn)
        losses.append(float(learn.loss))
        if not math.isfinite(losses[-1]):
            break
        learn.loop.run_backward(learn)
        if not learn.callbacks.overrides.get("zero_grad"):
            drop_gradients(learn)
    return losses


def changed(kept: Sequence[tuple[str, Tensor, Tensor]]) -> list[str]:
    """The names of tensors that differ from their copies."""
    return [name for name, tensor, old in kept if not torch.equal(tensor, old)]


def buffers_of_frozen(model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """The floating-point buffers of frozen norm layers, each with a copy."""
    return [
        (f"{name}.{key}" if name else key, buffer, buffer.clone())
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and list(module.parameters())
        if not any(each.requires_grad for each in module.parameters())
        for key, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]


def step_problems(losses: list[float]) -> Iterator[Exception]:
    """A loss that does not fall when trained on one batch."""
    n_steps = len(losses) - 1
    if not math.isfinite(losses[-1]):
        yield LearnerWarning(f"after {n_steps} steps on one batch its loss is {losses[-1]}: lower lr.")
    elif losses[-1] > losses[0]:
        yield LearnerWarning(
            f"{n_steps} steps on one batch raise its loss, from {show(losses[0])} to {show(losses[-1])}: "
            "lower lr."
        )
    elif losses[-1] == losses[0]:
        yield LearnerWarning(
            f"{n_steps} steps on one batch leave its loss at {show(losses[0])}: raise lr, or find out "
            "why the weights do not change."
        )


def batch_of_one(learn: FullLearner, report: Report, batch: Any) -> None:
    """Check that batch norm works on a last batch of one item, if there is one."""
    if n_left_over(learn.data.train) != 1 or not any(isinstance(m, _NormBase) for m in learn.model.modules()):
        return
    learn.batch = batch
    learn.loop.run_model(learn)
    n_items = learn.n_items

    def first(item: Any) -> Any:
        return item[:1] if isinstance(item, Tensor) and item.ndim and len(item) == n_items else item

    learn.inputs = map_tensors(learn.inputs, first)
    try:
        learn.loop.do["forward"](learn)
    except ValueError as error:
        if ONE_VALUE not in str(error):
            raise
        loader = learn.data.train
        report.warn(f"{why_one_is_left(loader)}, on which batch norm will fail: {drop_last_hint(loader)}")


#: The checks that do only what a fit does, so their errors are errors of the learner.
ORDINARY = ("backward", "one batch")
#: The checks after the loss, in their order; those after "one batch" see weights that it has changed.
AFTER_LOSS: dict[str, Callable[[Any, Any, Any], None]] = {
    "backward": backward,
    "gradient": gradient,
    "items": items,
    "stable step": stable_step,
    "one batch": steps,
    "batch of one": batch_of_one,
}
