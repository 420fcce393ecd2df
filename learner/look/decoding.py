"""What a model predicts, decoded from its outputs: classes, 0 or 1 for each label, or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from callbacks.core.modules import plain_name
from learner.data.tensors import describe

Kind = Literal["classes", "labels", "numbers"]


@dataclass(frozen=True)
class Decoded:
    """Predicted values and targets of the same shape."""

    #: `"classes"`: class indices of shape (items, ...). `"labels"`: 0 and 1 of shape (items, labels).
    #: `"numbers"`: of shape (items, outputs)
    kind: Kind
    predicted: Tensor
    targets: Tensor
    n_classes: int  #: number of classes, labels or outputs
    is_counted: Tensor | None = None  #: which targets are counted, of the same shape; None for all
    outside: Tensor | None = None  #: targets that are neither classes nor ignored; None if there are none

    @property
    def counted(self) -> tuple[Tensor, Tensor]:
        """The targets and predicted values that are counted, shape (count,)."""
        if self.is_counted is None:
            return self.targets.flatten(), self.predicted.flatten()
        return self.targets[self.is_counted], self.predicted[self.is_counted]


def decode(
    preds: Any,
    targets: Any,
    loss_func: Any,
    kind: Kind | None = None,
    threshold: float | None = None,
    ignore_index: int | None = None,
) -> Decoded:
    """Turn a model's outputs into predicted values, by their shapes and types, and by the loss.

    Args:
        preds: scores of shape (items, classes, ...), or logits, probabilities or numbers of the targets'
            shape.
        targets: class indices of shape (items, ...), 0 and 1, probabilities of classes, or numbers.
        loss_func: the loss, which shows whether scores are probabilities.
        kind: what the targets are, if shapes and types do not show it.
        threshold: the score above which the prediction is 1; by default 0 for logits, 0.5 for probabilities.
        ignore_index: targets with this number do not count; by default that of the loss.

    Raises:
        TypeError, ValueError: preds and targets cannot be compared.
    """
    preds, targets = as_scores(preds), as_tensor(targets)
    if preds.ndim == targets.ndim + 1 and preds.shape[1] == 1:
        preds = preds.squeeze(1)  # one logit per item
    if targets.ndim == preds.ndim + 1 and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    if preds.ndim > 1 and preds.shape[1] == 1 and preds.shape == targets.shape and kind != "numbers":
        preds, targets = preds.squeeze(1), targets.squeeze(1)
    if preds.shape != targets.shape:
        return classes_of(preds, targets, loss_func, kind, ignore_index)
    if kind is None:
        kind = kind_of(preds, targets, loss_func)
    if kind == "numbers":
        columns = (each.reshape(len(each), -1).double() for each in (preds, targets))
        predicted, targets = columns
        return Decoded("numbers", predicted, targets, predicted.shape[1])
    if preds.is_floating_point() and targets.is_floating_point() and kind == "classes" and is_soft(targets):
        return Decoded("classes", preds.argmax(1), targets.argmax(1), preds.shape[1])
    if preds.is_floating_point():
        preds = preds > (default_threshold(preds, loss_func) if threshold is None else threshold)
    return binary(preds.long(), targets, kind, ignore_index)


def classes_of(
    preds: Tensor, targets: Tensor, loss_func: Any, kind: Kind | None, ignore_index: int | None
) -> Decoded:
    """The class with the highest score, where the classes are dimension 1, or the last one."""
    shape = targets.shape
    if preds.ndim == targets.ndim + 1 and preds.shape[:-1] == targets.shape and not fits(preds, targets):
        preds = preds.movedim(-1, 1)
    elif preds.ndim == 2 and targets.ndim > 1 and len(preds) == targets.numel():
        targets = targets.flatten()
    if not fits(preds, targets) or targets.is_floating_point() or kind in ("labels", "numbers"):
        raise ValueError(
            f"Interpretation: preds of shape {tuple(preds.shape)}, {preds.dtype}, and targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype}, cannot be compared. Scores need the shape (items, "
            "classes, ...) for class indices of shape (items, ...); numbers need the targets' shape. Pass "
            "keep= to choose a part of the output or to reshape it."
        )
    ignored = ignored_by(loss_func) if ignore_index is None else ignore_index
    targets, n_classes = targets.long(), preds.shape[1]
    is_inside = (targets >= 0) & (targets < n_classes)
    outside = targets[(targets != ignored) & ~is_inside]
    is_counted = (is_inside & (targets != ignored)).reshape(shape)
    predicted = preds.argmax(1).reshape(shape)
    return Decoded("classes", predicted, targets.reshape(shape), n_classes, is_counted, outside)


def binary(predicted: Tensor, targets: Tensor, kind: Kind, ignore_index: int | None) -> Decoded:
    """Predictions of 0 and 1, for one class or for several labels."""
    is_counted = None if ignore_index is None else targets != ignore_index
    n_labels = predicted.shape[1] if kind == "labels" and predicted.ndim > 1 else 2
    if kind == "classes":
        n_labels = max(2, int(max(predicted.max(), targets.max())) + 1)
    return Decoded(kind, predicted, targets.long(), n_labels, is_counted)


def kind_of(preds: Tensor, targets: Tensor, loss_func: Any) -> Kind:
    """The kind of targets that have the shape of the preds."""
    name = name_of(loss_func)
    if is_soft(targets) and "cross" in name and "binary" not in name:
        return "classes"
    if any(word in name for word in ("mse", "l1", "mae", "huber", "poisson")):
        return "numbers"
    if not preds.is_floating_point() and not targets.is_floating_point():
        return "classes"
    if not ((targets == 0) | (targets == 1)).all():
        return "numbers"
    return "labels" if targets.ndim == 2 else "classes"


def is_soft(targets: Tensor) -> bool:
    """Are they probabilities of classes, shape (items, classes), that add up to 1?"""
    if not targets.is_floating_point() or targets.ndim < 2 or targets.shape[1] < 2:
        return False
    return bool(((targets.sum(1) - 1).abs() < 1e-3).all() and (targets >= 0).all())


def fits(preds: Tensor, targets: Tensor) -> bool:
    """Are they scores of shape (items, classes, ...) for class indices of shape (items, ...)?"""
    return preds.ndim > 1 and preds.shape[1] > 1 and preds.shape[:1] + preds.shape[2:] == targets.shape


def default_threshold(preds: Tensor, loss_func: Any) -> float:
    """0 for logits, 0.5 for probabilities: scores from 0 to 1 whose loss does not take logits."""
    are_probabilities = bool(((preds >= 0) & (preds <= 1)).all())
    return 0.5 if are_probabilities and "logit" not in name_of(loss_func) else 0.0


def ignored_by(loss_func: Any) -> int:
    """The number that the loss ignores as a target; torch's default is -100."""
    settings = getattr(loss_func, "keywords", {})
    return settings.get("ignore_index", getattr(loss_func, "ignore_index", -100))


def name_of(loss_func: Any) -> str:
    """The name of a loss function or class, in lower case."""
    return plain_name(loss_func).lower()


def as_scores(preds: Any) -> Tensor:
    """The scores among a model's outputs: a tensor, or the part that is called `logits`."""
    logits = preds.get("logits") if isinstance(preds, Mapping) else getattr(preds, "logits", preds)
    if isinstance(logits, Tensor):
        return logits.detach()
    raise TypeError(
        f"Interpretation: the predictions are {describe(preds)}. Pass keep= to choose the part with the "
        "scores, as in keep='logits' or keep=0."
    )


def as_tensor(targets: Any) -> Tensor:
    """The targets as a tensor, whose bool is 0 and 1."""
    if isinstance(targets, Mapping) and isinstance(targets.get("labels"), Tensor):
        targets = targets["labels"]
    if targets is None:
        raise ValueError(
            "the batches have no targets to compare the predictions with: pass a loader whose batches are "
            "(inputs, targets)."
        )
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"Interpretation: the targets are {describe(targets)}, but one tensor is needed. Pass target= to "
            "choose it, as in target=lambda targets: targets[0]."
        )
    return targets.long() if not targets.is_floating_point() else targets
