"""The loss of an estimator: it fits the shapes of predictions and targets, and weights items."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.modules import plain_name
from callbacks.results.reductions import name_of, unwrapped
from learner.checks.loss_checks import comparison_problems
from learner.checks.output_checks import last_operation, output_problems
from learner.data.tensors import describe
from learner.learner import Learner
from learner.messages.problems import report_problems
from learner.state.protocol import full


class EstimatorLoss(nn.Module):
    """A loss whose predictions and targets have the shapes that scikit-learn uses.

    Without a `loss_func` it is the usual one: for `n_classes` classes, or for regression if that is None.
    """

    last: str | None = None  # the last operation of the module, as torch's graph names it

    def __init__(self, loss_func: Callable[..., Any] | None, n_classes: int | None, make_module: Any):
        super().__init__()
        self.loss_func, self.n_classes = loss_func, n_classes
        self.title = getattr(make_module, "__name__", "the module")

    def forward(self, preds: Any, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mean over the items, each multiplied with its weight."""
        loss_func, preds, targets = self.compared(preds, targets)
        if weight is None:
            return loss_func(preds, targets)
        losses = per_item(loss_func, preds, targets)
        return (losses.reshape(len(weight), -1).mean(1) * weight).mean()

    def compared(self, preds: Any, targets: Tensor) -> tuple[Callable[..., Any], Tensor, Tensor]:
        """The loss function, and what it compares."""
        preds = first_output(preds)
        if not isinstance(preds, Tensor):
            raise TypeError(
                f"{self.title} returned {describe(preds)}: return a tensor, or a tuple whose first entry is "
                "the predictions."
            )
        loss_func = self.loss_func or usual_loss(preds, self.n_classes)
        fit_shapes = self.as_regression if self.n_classes is None else self.as_classes
        return loss_func, *fit_shapes(preds, targets)

    def as_regression(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions in the shape of the targets."""
        if preds.numel() != targets.numel() or len(preds) != len(targets):
            raise ValueError(
                f"{self.title} returned the shape {tuple(preds.shape)} for targets of the shape "
                f"{tuple(targets.shape)}: return one number per item and target. A make_module with an "
                "argument n_outputs receives their number."
            )
        return preds.reshape(targets.shape), targets

    def as_classes(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One score per class and item; for two classes, one number per item is enough."""
        if self.n_classes == 2 and preds.shape in ((len(targets),), (len(targets), 1)):
            return preds.flatten(), targets.to(preds.dtype)
        if preds.ndim != 2 or preds.shape[1] != self.n_classes:
            raise ValueError(
                f"{self.title} returned the shape {tuple(preds.shape)} for {self.n_classes} classes: return "
                f"{self.n_classes} scores per item. A make_module with an argument n_outputs receives the "
                "number of classes. If this part of the data lacks a class, pass classes=[...]."
            )
        return preds, targets


def first_output(output: Any) -> Tensor:
    """The predictions: a tensor, or the first of several outputs."""
    return output[0] if isinstance(output, (tuple, list)) else output


def usual_loss(preds: Tensor, n_classes: int | None) -> Callable[..., Tensor]:
    """Mean squared error, or cross-entropy of raw scores."""
    if n_classes is None:
        return F.mse_loss
    return F.cross_entropy if preds.ndim > 1 and preds.shape[1] > 1 else F.binary_cross_entropy_with_logits


def per_item(loss_func: Callable[..., Any], preds: Tensor, targets: Tensor) -> Tensor:
    """The losses of the items."""
    if hasattr(loss_func, "reduction"):
        loss_func = copy.copy(loss_func)
        loss_func.reduction = "none"  # type: ignore[reportFunctionMemberAccess]
        return loss_func(preds, targets)
    try:
        return loss_func(preds, targets, reduction="none")
    except TypeError as error:
        raise TypeError(
            f"sample_weight needs the loss of each item, and {loss_func!r} has no reduction='none', "
            "unlike the losses of torch: add this argument, or omit sample_weight."
        ) from error


class EstimatorLearner(Learner):
    """A learner whose batches may have the weights of the items as a third entry."""

    def compute_loss(self) -> None:
        loss_func: Any = self.loss_func
        self.loss_grad = loss_func(self.preds, self.targets, *self.batch[2:])


class OutputCheck(Callback):
    """Check at the first training batch that the loss expects what the module returns; then remove itself."""

    only_observes = True
    order = Order.SAVE
    reads_gradients = False

    def after_pred(self, learn: LearnerProtocol) -> None:
        loss = learn.loss_func
        assert isinstance(loss, EstimatorLoss)
        loss_func, preds, targets = loss.compared(learn.preds, learn.targets)
        loss.last = last_operation(first_output(learn.preds))
        report_problems(
            [
                *comparison_problems(preds, targets, loss_func, learn.n_items),
                *output_problems(full(learn), first_output(learn.preds), loss_func),
            ]
        )

    def after_batch(self, learn: LearnerProtocol) -> None:
        learn.remove_callbacks(self)


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """A batch without the weights; a batch to predict has no targets either."""
    return (batch[0],), batch[1] if len(batch) > 1 else None


#: Losses that compare one number per item with 0 and 1, so that the number is a probability.
OF_PROBABILITIES = ("binary_cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def probabilities(scores: Tensor, loss: EstimatorLoss) -> Tensor:
    """The probabilities of the classes, from what the module returns under this loss."""
    scores = scores.double()
    name = name_of(unwrapped(loss.loss_func)[0])
    is_single = scores.ndim == 1 or scores.shape[1] == 1
    # a loss that is not torch's may take probabilities or scores; the module shows which
    is_own = name is None and loss.loss_func is not None
    if name == "nll_loss":
        found = scores.exp()
        check_logarithms(found, plain_name(loss.loss_func))
    elif name in OF_PROBABILITIES or (is_own and loss.last == ("Sigmoid" if is_single else "Softmax")):
        found = scores.clamp(0, 1)
    else:
        found = scores.sigmoid() if is_single else scores.softmax(1)
    return torch.stack([1 - found.flatten(), found.flatten()], 1) if is_single else found


def check_logarithms(found: Tensor, name: str) -> None:
    """Refuse scores that are not logarithms of probabilities."""
    highest = found.sum(1).max().item() if found.numel() and found.ndim > 1 else 1.0
    if highest > 1.01:
        raise ValueError(
            f"{name} takes log-probabilities, but the probabilities of an item add up to {highest:.4g}: end "
            "the module with nn.LogSoftmax(1), or leave loss_func out for cross-entropy."
        )


def predicted(output: Tensor, loss_func: Any) -> Tensor:
    """The predicted targets from the module's output: targets, log-rates or scores, depending on the loss."""
    base, get = unwrapped(loss_func)
    name = name_of(base)
    if name == "poisson_nll_loss" and get("log_input", True):
        return output.exp()
    return output.sigmoid() if name == "binary_cross_entropy_with_logits" else output
