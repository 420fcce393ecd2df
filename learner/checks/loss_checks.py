"""Problems of predictions, targets and loss, checked before and after the loss is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.core.modules import plain_name
from callbacks.place.device import tensors_in
from callbacks.results.reductions import name_of, unwrapped
from learner.checks.probe import compares_each_with_each
from learner.data.tensors import describe
from learner.messages.layers import short
from learner.messages.problems import LearnerWarning
from learner.state.protocol import FullLearner

Shape = tuple[int, ...]

# torch's losses that compare preds with targets element by element, and those that take classes
ELEMENTWISE = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy, F.kl_div),
    *(F.binary_cross_entropy_with_logits, F.poisson_nll_loss, F.soft_margin_loss),
)
CLASSES = (F.cross_entropy, F.nll_loss)
# their targets are whole numbers (counts, signs), or torch converts those to floats; the others fail on them
TAKES_WHOLE = (F.poisson_nll_loss, F.soft_margin_loss)
PROMOTES = (F.mse_loss, F.l1_loss, F.smooth_l1_loss)

# binary losses that compute a wrong number for other targets: which are wrong, and what to write
RANGES: dict[Any, tuple[Callable[[Tensor], Any], str]] = {
    F.binary_cross_entropy_with_logits: (
        lambda targets: ((targets < 0) | (targets > 1)).any(),
        "0 and 1: write (targets + 1) / 2 for -1 and 1, or use soft_margin_loss. For targets "
        "that should not count, write a loss that leaves them out",
    ),
    F.soft_margin_loss: (
        lambda targets: (targets == 0).any() and not (targets < 0).any(),
        "-1 and 1: write targets * 2 - 1 for 0 and 1, or use binary_cross_entropy_with_logits",
    ),
}


def torch_loss(loss_func: Any) -> Callable[..., Any] | None:
    """The function of `torch.nn.functional` that a loss computes; None for any other loss."""
    function = getattr(F, name_of(unwrapped(loss_func)[0]) or "", None)
    return function if function in ELEMENTWISE + CLASSES else None


# Before the loss is computed


def pred_problems(learn: FullLearner) -> Iterator[Exception]:
    """Predictions and targets that the loss function cannot use, or would silently use in the wrong way."""
    preds, targets, loss_func = learn.preds, learn.targets, learn.loss_func
    if loss_func is None:
        if not hasattr(preds, "loss"):
            yield TypeError(
                f"loss_func is None, and the model's output ({describe(preds)}) has no .loss of its own: "
                "pass Learner(..., loss_func=torch.nn.functional.mse_loss), or the loss that fits."
            )
        return
    known = torch_loss(loss_func)
    if known is not None and not isinstance(targets, Tensor):
        yield wrong_batch(learn, known)
    yield from comparison_problems(preds, targets, loss_func, learn.n_items)


def comparison_problems(preds: Any, targets: Any, loss_func: Any, n_items: int) -> Iterator[Exception]:
    """Predictions and targets in shapes and types that the loss would compare in the wrong way."""
    if not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
        return
    if preds.is_nested or targets.is_nested:  # some have no shape
        return
    known = torch_loss(loss_func)
    if known is None:
        if is_suspicious(preds, targets) and compares_each_with_each(loss_func, preds, targets):
            yield wrong_shapes(preds, targets, title_of(loss_func))
    elif known in CLASSES:
        yield from class_problems(preds, targets, known, n_items)
    else:
        yield from element_problems(preds, targets, known)


def element_problems(preds: Tensor, targets: Tensor, known: Callable[..., Any]) -> Iterator[Exception]:
    """For a loss that compares elements: shapes that differ but broadcast, targets that are not floats."""
    title = known.__name__
    if preds.shape != targets.shape and broadcast(preds, targets) and max(preds.numel(), targets.numel()) > 1:
        yield wrong_shapes(preds, targets, title)
    if known in RANGES and targets.is_cpu:  # elsewhere the numbers would have to be waited for
        yield from range_problems(targets, known)
    if targets.is_floating_point() or targets.is_complex() or known in TAKES_WHOLE:
        return
    message = f"the targets are {short(targets.dtype)}, but {title} compares floats: write targets.float()."
    if known in PROMOTES and targets.dtype != torch.bool:
        yield LearnerWarning(message + " If they are classes, use cross_entropy as loss.")
    else:
        yield TypeError(message)


def range_problems(targets: Tensor, known: Callable[..., Any]) -> Iterator[Exception]:
    """Targets outside the range of a binary loss, which computes a number for them all the same."""
    is_wrong, takes = RANGES[known]
    if not targets.numel() or not bool(is_wrong(targets)):
        return
    lowest, highest = (float(each) for each in targets.aminmax())
    yield LearnerWarning(
        f"the targets are from {lowest:g} to {highest:g}, but {known.__name__} takes {takes}."
    )


def class_problems(
    preds: Tensor, targets: Tensor, known: Callable[..., Any], n_items: int
) -> Iterator[Exception]:
    """For a loss on classes: targets that are not classes, or preds that are not scores of classes."""
    title, shape = known.__name__, tuple(preds.shape)
    probabilities = known is F.cross_entropy and targets.is_floating_point() and targets.shape == preds.shape
    if preds.ndim > 1 and shape[1] == 1:
        yield ValueError(
            f"preds have shape {shape}, so there is one class and {title} is always 0: give the model one "
            "output per class, or use binary_cross_entropy_with_logits (two classes) or mse_loss (numbers)."
        )
    elif probabilities and preds.ndim == 1 and len(preds) == n_items > 1:
        yield ValueError(
            f"preds have shape {shape}, one number per item, which {title} interprets as the classes of a "
            "single item: give the model one output per class, or use binary_cross_entropy_with_logits "
            "or mse_loss."
        )
    elif not probabilities and targets.dtype not in (torch.int64, torch.uint8):
        yield TypeError(
            f"the targets are {short(targets.dtype)} of shape {tuple(targets.shape)}, but {title} takes the "
            "index of each item's class: write targets.long()."
        )
    elif not probabilities and has_classes_last(preds, targets):
        yield ValueError(classes_last_hint(preds, targets, title))
    elif not probabilities and preds.ndim > 1 and tuple(targets.shape) == (shape[0], 1, *shape[2:]):
        yield ValueError(
            f"the targets have shape {tuple(targets.shape)}, but {title} takes one class per item, shape "
            f"{(shape[0], *shape[2:])}: write targets.squeeze(1)."
        )


def has_classes_last(preds: Tensor, targets: Tensor) -> bool:
    """Are the classes the last dimension, as for a language model, (items, positions, classes)?"""
    shape = tuple(preds.shape)
    return preds.ndim > 2 and shape[:-1] == tuple(targets.shape) != (shape[0], *shape[2:])


def classes_last_hint(preds: Tensor, targets: Tensor, title: str) -> str:
    """How to compute a loss of scores whose last dimension is the classes."""
    return (
        f"preds have shape {tuple(preds.shape)} and targets {tuple(targets.shape)}, so the classes are the "
        f"last dimension, but {title} takes them in dimension 1. Pass a loss_func that joins items and "
        f"positions, as in `lambda preds, targets: {title}(preds.flatten(0, -2), targets.flatten())`."
    )


def wrong_batch(learn: FullLearner, known: Callable[..., Any]) -> Exception:
    """An error: a batch does not have one tensor of targets."""
    n_targets = len(learn.targets) if isinstance(learn.targets, tuple) else 0
    found = "no targets" if learn.targets is None else f"as targets {describe(learn.targets)}"
    more = f", or Data(..., n_inputs={learn.data.n_inputs + n_targets - 1}) if the model takes more of it"
    return TypeError(
        f"{known.__name__} takes preds and one tensor of targets, but a batch is {describe(learn.batch)}, "
        f"which gives {found}: make batches (inputs, targets), or pass Data(..., split=function), where the "
        f"function takes a batch and returns (inputs, targets){more if n_targets > 1 else ''}."
    )


def is_suspicious(preds: Tensor, targets: Tensor) -> bool:
    """Do two shapes differ, have equally many elements, and broadcast to more?"""
    if preds.shape == targets.shape or preds.numel() != targets.numel():
        return False
    together = broadcast(preds, targets)
    return together is not None and prod(together) > preds.numel()


def broadcast(preds: Tensor, targets: Tensor) -> Shape | None:
    """The shape of both after broadcasting, or None if they cannot be broadcast."""
    try:
        return tuple(torch.broadcast_shapes(preds.shape, targets.shape))
    except RuntimeError:
        return None


def wrong_shapes(preds: Tensor, targets: Tensor, title: str) -> Exception:
    """An error: the loss would compare predictions with targets of other items."""
    first, second = tuple(preds.shape), tuple(targets.shape)
    together = broadcast(preds, targets)
    return ValueError(
        f"preds have shape {first} and targets {second}: {title} would broadcast them to {together} and "
        "compare each prediction with the targets of other items, without an error. "
        f"{reshape_hint(first, second)}"
    )


def reshape_hint(preds: Shape, targets: Shape) -> str:
    """The code that makes two shapes equal."""
    if preds == (*targets, 1):
        return "Write `targets.unsqueeze(-1)` in the data, or `preds.squeeze(-1)` at the end of the model."
    if targets == (*preds, 1):
        return "Write `targets.squeeze(-1)` in the data, or `preds.unsqueeze(-1)` at the end of the model."
    if prod(preds) == prod(targets):
        return f"Write `targets.reshape{preds}` in the data, or `preds.reshape{targets}` in the model."
    return "Give the model as many outputs per item as there are targets per item."


# After the loss is computed


def loss_problems(learn: FullLearner) -> Iterator[Exception]:
    """A loss that cannot be differentiated: not a tensor, not one number, or without a gradient."""
    loss, title = learn.loss_grad, title_of(learn.loss_func)
    if loss is None:
        yield TypeError(f"the loss is None: {title} returns nothing. Does it end with `return`?")
    elif isinstance(loss, (int, float)) or (not isinstance(loss, Tensor) and hasattr(loss, "dtype")):
        yield TypeError(
            f"the loss is {loss!r} ({type(loss).__name__}), which has no gradient: return the tensor itself, "
            "without .item(), float() or .numpy()."
        )
    elif not isinstance(loss, Tensor):
        yield TypeError(f"the loss is {describe(loss)}: {title} must return one scalar tensor.")
    elif loss.numel() != 1:
        yield ValueError(
            f"the loss has shape {tuple(loss.shape)}, but one number is needed: reduce it, as in "
            "loss.mean(), or pass reduction='mean'."
        )
    elif loss.is_complex():
        yield TypeError(f"the loss is {short(loss.dtype)}: reduce it to a real number, as in loss.abs().")
    elif not loss.requires_grad:
        yield no_gradient(learn, title)


def no_gradient(learn: FullLearner, title: str) -> Exception:
    """An error: the loss has no gradient; names the part that detaches it."""
    parameters = list(learn.model.parameters())
    n_trainable = sum(parameter.requires_grad for parameter in parameters)
    if not n_trainable:
        cause = "all parameters are frozen: call requires_grad_(True) on the layers to train."
    elif any(item.requires_grad for item in tensors_in(learn.preds)):
        cause = (
            f"the predictions have a gradient, so {title} detaches it: look there for .detach(), .item(), "
            ".data, argmax, rounding, comparisons, NumPy, torch.tensor(...) or no_grad."
        )
    else:
        cause = (
            "the predictions have no gradient either, so the model detaches it: look in its forward for "
            ".detach(), .data, argmax, NumPy, torch.tensor(...) or no_grad."
        )
    return ValueError(
        f"the loss has no gradient ({n_trainable} of {len(parameters)} of the model's tensors require one): "
        f"{cause}"
    )


# Helpers


def title_of(loss_func: Any) -> str:
    """The name of a loss function in messages."""
    if loss_func is None:
        return "the model"
    name = plain_name(loss_func)
    return "the loss function" if name == "<lambda>" else name
