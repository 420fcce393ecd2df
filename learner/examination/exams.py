"""The single checks of `learn.check()`; each adds its results to the report.

They run in the sandbox of `examination.py`, where they may train and wait for the device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from callbacks.core.modules import loss_parameters, modules_beside
from callbacks.history.history import show
from callbacks.model.finite import is_finite
from callbacks.model.shards import whole
from callbacks.optim.optimizers import title_of as optimizer_title
from callbacks.place.device import map_tensors
from learner.checks.data_checks import item_problems
from learner.checks.loss_checks import CLASSES, loss_problems, pred_problems, title_of, torch_loss
from learner.checks.optimizer_checks import trained_by
from learner.checks.unsaved_counters import unsaved_counters
from learner.data.loaders import describe_loader
from learner.data.tensors import counted
from learner.engine import errors
from learner.examination.report import Report
from learner.messages.layers import short
from learner.messages.problems import LearnerWarning, listed
from learner.state.protocol import FullLearner

MAX_SHAPES = 6  # that are listed one by one

# Without a batch


def describe_learner(learn: FullLearner, report: Report) -> None:
    """Report the model, the data and the optimizer."""
    parameters = [parameter for parameter in learn.model.parameters() if not is_lazy(parameter)]
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    n_all, n_trained = (sum(each.numel() for each in some) for some in (parameters, trainable))
    kinds = sorted({f"{short(each.dtype)} on {each.device}" for each in parameters})
    report.facts["model"] = (
        f"{type(learn.model).__name__}: {counted(n_all, 'parameter', 'parameters')} in "
        f"{counted(len(parameters), 'tensor', 'tensors')}, "
        f"{'all' if n_all == n_trained else f'{n_trained:,}'} "
        f"trainable{''.join(f', {kind}' for kind in kinds)}"
    )
    valid = "none" if learn.data.valid is None else describe_loader(learn.data.valid)
    report.facts["data"] = f"training: {describe_loader(learn.data.train)}; validation: {valid}"
    counters = unsaved_counters(learn.callbacks, in_pass=True)
    if counters and any(each.saves_checkpoints for each in learn.callbacks):
        report.facts["state"] = f"no `state` lists {listed(counters)}: a resumed run starts to count again"
    report.add(mode_problems(learn))
    if learn.optimizer is not None:
        rates = ", ".join(dict.fromkeys(f"{group.get('lr')}" for group in learn.optimizer.param_groups))
        report.facts["optimizer"] = f"{optimizer_title(learn.optimizer)}, lr {rates}"


def count_trained(learn: FullLearner, report: Report) -> None:
    """Report how many tensors of model and loss the optimizers train, those of callbacks included."""
    held = set(map(id, trained_by(learn)))
    tensors = [*learn.model.parameters(), *loss_parameters(learn).values()]
    trainable = [each for each in tensors if not is_lazy(each) and each.requires_grad]
    n_held = sum(id(each) in held for each in trainable)
    report.facts["optimizer"] += f", holds {n_held} of {len(trainable)} trainable tensors"


def mode_problems(learn: FullLearner) -> Iterator[Exception]:
    """Layers in evaluation mode whose parameters are trained, for example of a pretrained part."""
    resting = [
        name
        for name, module in learn.model.named_modules()
        if not module.training and any(each.requires_grad for each in module.parameters(recurse=False))
    ]
    if learn.model.training and resting:
        yield LearnerWarning(
            f"{listed(resting)} are trained in evaluation mode: their dropout is off, and their batch "
            "norm does not update its statistics. If this is not intended, call learn.model.train() "
            "before the fit."
        )


# On the batch


def loss_of(learn: FullLearner, report: Report, batch: Any) -> bool:
    """Compute the loss of the batch, with all checks of the first batch of a fit; False if it has no loss."""
    learn.batch = batch
    learn.loop.run_model(learn)
    parts = [("inputs", learn.inputs), ("targets", learn.targets), ("preds", learn.preds)]
    report.facts["batch"] = "; ".join(f"{name} {shapes(part)}" for name, part in parts)
    if learn.loop.runs_default("compute_loss") and not report.add(pred_problems(learn)):
        return False
    add_problems(report, item_problems, learn)
    learn.loop.compute_loss(learn)
    if not report.add(loss_problems(learn)):
        return False
    value = float(learn.loss)
    report.facts["loss"] = f"{title_of(learn.loss_func)} is {show(value)}"
    add_problems(report, class_loss_problems, learn, value)
    if not math.isfinite(value):
        report.add([ValueError(f"the loss of the first batch is {value}.")])
    return math.isfinite(value)


def add_problems(report: Report, find: Callable[..., Iterator[Exception]], *args: Any) -> None:
    """Add the problems that a check finds; if it fails itself, report only that it did not run."""
    try:
        report.add(find(*args))
    except Exception as error:  # noqa: BLE001 - batches may be of any kind, and a fit works without this
        report.facts[find.__name__.replace("_", " ")] = f"not checked: {type(error).__name__}"


def class_loss_problems(learn: FullLearner, value: float) -> Iterator[Exception]:
    """A first loss far above ln(classes), the loss of guessing."""
    if torch_loss(learn.loss_func) not in CLASSES or learn.preds.ndim < 2 or learn.global_step:
        return
    n_classes = learn.preds.shape[1]
    guess = math.log(n_classes)
    if value > 2 * guess:
        yield LearnerWarning(
            f"the first loss is {show(value)}, but guessing among {n_classes} classes gives ln({n_classes}) "
            f"= {show(guess)}: the model is confident and wrong. Scale the inputs, or the initial weights of "
            "the last layer."
        )


def number_problems(learn: FullLearner) -> Iterator[Exception]:
    """NaN or infinite numbers in the weights and in the batch."""
    parts = [("batch", learn.batch), ("inputs", learn.inputs), ("targets", learn.targets)]
    weights = [("weight", dict(learn.model.named_parameters()))]
    for name, part in weights + (parts[1:] if learn.inputs is not None else parts[:1]):
        found: list[tuple[int, int]] = []
        map_tensors(part, lambda item, found=found: found.append(bad_numbers(item)))
        bad, total = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0)
        if bad:
            hint = "clean or replace them first" if name != "weight" else "make the model again"
            yield ValueError(
                f"{bad} of {total} numbers in the {name.rstrip('s')}s are NaN or infinite: {hint}."
            )


def bad_numbers(item: Any) -> tuple[int, int]:
    """The number of values of a tensor that are not finite, and of all."""
    if not isinstance(item, Tensor) or item.is_meta:
        return 0, 0
    return int((~torch.isfinite(numbers_of(item))).sum()), item.numel()


def numbers_of(tensor: Tensor) -> Tensor:
    """The values of a tensor; of a sparse tensor the stored ones."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor if tensor.layout in (torch.strided, torch.jagged) else tensor.values()


def backward(learn: FullLearner, report: Report, batch: Any) -> None:
    """Compute the gradients of the loss."""
    learn.loop.on["before_backward"](learn)
    learn.loop.do["backward"](learn)
    learn.loop.on["after_backward"](learn)


def gradient(learn: FullLearner, report: Report, batch: Any) -> None:
    """List the trainable tensors that the gradient reaches."""
    try:
        describe_gradients(learn, report)
    finally:
        drop_gradients(learn)


def describe_gradients(learn: FullLearner, report: Report) -> None:
    """Report which tensors have no gradient, and where it is 0 or not finite."""
    found = [*learn.model.named_parameters(), *loss_parameters(learn).items()]
    named = [(name, each) for name, each in found if each.requires_grad]
    missed = [name for name, each in named if each.grad is None]
    grads = {name: numbers_of(each.grad) for name, each in named if each.grad is not None}
    norms = {name: float(whole(torch.linalg.vector_norm(grad))) for name, grad in grads.items()}
    # the square of a small or a large number may be 0 or infinite, so each number is looked at there
    dead = [name for name, grad in grads.items() if not norms[name] and not grad.any()]
    spoilt = [name for name, size in norms.items() if not math.isfinite(size) and not is_finite(grads[name])]
    total = sum(size**2 for size in norms.values())
    report.facts["gradient"] = (
        f"reaches {len(named) - len(missed)} of {len(named)} trainable tensors, norm {show(math.sqrt(total))}"
        f"{f'; it is 0 in {listed(dead)}' if dead else ''}"
    )
    if spoilt and any(each.scales_gradients for each in learn.callbacks):
        # the first scales of float16 may overflow, and such updates are skipped
        report.facts["gradient"] += f"; it overflows at the first scale in {listed(spoilt)}"
    elif spoilt:
        report.add([ValueError(f"the gradient is NaN or infinite in {listed(spoilt)}.")])
    if missed:
        report.warn(
            f"no gradient reaches {listed(missed)}: the loss of the first batch does not depend on them. Use "
            "them in forward, look for a .detach(), or freeze them. If the batch decides which layers are "
            "used, as in a mixture of experts, this is correct."
        )


def drop_gradients(learn: FullLearner) -> None:
    """Drop the gradients, so that the next check starts without any."""
    for module in (learn.model, *modules_beside(learn).values()):
        module.zero_grad()


def validation(learn: FullLearner, report: Report, first_batch: Callable[[Any, Any], Any]) -> None:
    """Check a validation batch as a training batch, and measure it."""
    learn.loop.begin_pass(learn, learn.data.valid, training=False)
    batch = first_batch(learn.data, learn.data.valid)
    if batch is None:
        return
    with torch.no_grad():
        learn.loop.on["before_validate"](learn)  # resets the hidden state of recurrent models
        learn.batch = batch
        learn.loop.run_model(learn)
        problems = pred_problems(learn) if learn.loop.runs_default("compute_loss") else ()
        if report.add(type(each)(f"in validation, {each}") for each in problems):
            learn.loop.compute_loss(learn)
            learn.loop.on["after_batch"](learn)


# Helpers


def copied(batch: Any) -> Any:
    """A copy of a batch, as a loss or a model may change the batch in place."""
    return map_tensors(batch, lambda item: item.clone() if isinstance(item, Tensor) else item)


def shapes(part: Any) -> str:
    """The shapes and dtypes of nested tensors, in a few words; equal ones of a long list once."""
    found: list[str] = []
    map_tensors(part, lambda item: found.append(shape_of(item)))
    if len(found) > MAX_SHAPES:
        found = [f"{n} x {each}" if n > 1 else each for each, n in Counter(found).items()]
    return ", ".join(found) if found else "none" if part is None else type(part).__name__


def shape_of(item: Any) -> str:
    """`(64, 3) float32` of a tensor."""
    if not isinstance(item, Tensor):
        return type(item).__name__
    return f"{tuple(item.shape)} {short(item.dtype)}"


def shown_error(error: Exception, learn: FullLearner) -> str:
    """An error with its notes, except the one on the place in a fit."""
    noted = errors.with_place(error, learn)
    notes = [note for note in getattr(noted, "__notes__", []) if not note.startswith("at epoch")]
    return "; ".join([f"{type(error).__name__}: {error}".rstrip("."), *notes])
