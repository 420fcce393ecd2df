"""The predictions of a trained model, correct and wrong ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from callbacks.core.foreign_names import INTERPRETATION_WORDS
from callbacks.core.settings import check_count, is_number
from callbacks.core.warning import Renamed
from learner.inference.get_preds import get_preds
from learner.inference.item_losses import with_items
from learner.inference.kept_part import Keep
from learner.look import item_plots, result_plots
from learner.look.class_report import ClassReport, class_report, number_report
from learner.look.decoding import Decoded, Kind, decode
from learner.look.masks import draw_masks, wrong_pixels
from learner.messages.keywords import suggest_keywords
from learner.messages.missing_attributes import hints
from learner.state.protocol import FullLearner

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


METHODS: dict[str, str] = {
    "classes": "confusion_matrix() and most_confused()",
    "labels": "confusion_matrix() and report()",
    "numbers": "report(), plot_residuals() and plot_predictions()",
}


class TopLosses(NamedTuple):
    """The items with the largest losses, the largest first.

    Attributes:
        losses: shape (k,).
        indices: their places in the loader's order, from 0.
        inputs: what the model took; None with `inputs=False`.
        targets: what the model should have predicted.
        preds: the model's outputs.
    """

    losses: Tensor
    indices: Tensor
    inputs: Any
    targets: Any
    preds: Any


@hints(INTERPRETATION_WORDS)
class Interpretation:
    """Look at the results of a model, item by item: predictions, losses, confusion, residuals.

    The model runs once over the loader, in evaluation mode, and the learner stays as it is. Whether the
    targets are classes, labels (several per item) or numbers follows from the shapes and types of predictions
    and targets, and from the loss; segmentation and sequences count each pixel or token.

    Args:
        learn: a learner, trained or not.
        loader: batches; by default the validation data.
        classes: the names of the classes, labels or outputs, in order; by default those of the data set
            (`dataset.classes`), otherwise numbers.
        keep: the part of the model's output to look at, as for `get_preds`; by default `logits` if the output
            has them.
        target: a function that chooses or changes the targets, if they are not one tensor.
        kind: `"classes"`, `"labels"` or `"numbers"`, if shapes and types do not show it.
        threshold: the score above which the prediction is 1; by default 0 for logits, 0.5 for probabilities.
        ignore_index: targets with this number do not count; by default that of the loss.
        inputs: keep the inputs in memory, for `top_losses` and `plot_top_losses`.
        losses: compute the loss of each item; pass False if single items have no loss.

    Attributes:
        losses: the loss of each item, shape (items,), float32; None with `losses=False`.
        preds, targets, inputs: of all items, on the CPU.
        kind: what the targets are.
        predicted: the predicted class indices, 0 and 1, or numbers, in the targets' shape.
        classes: the names.

    Raises:
        TypeError, ValueError: there is no batch, or predictions and targets cannot be compared; the message
            says which argument chooses a part.
    """

    @suggest_keywords
    def __init__(
        self,
        learn: FullLearner,
        loader: Any = None,
        *,
        classes: Sequence[str] | None = None,
        keep: Keep = None,
        target: Callable[[Any], Any] | None = None,
        kind: Kind | None = None,
        threshold: float | None = None,
        ignore_index: int | None = None,
        inputs: bool = True,
        losses: bool = True,
    ):
        if kind not in (None, *METHODS):
            raise ValueError(f"Interpretation(kind={kind!r}): choose {' or '.join(map(repr, METHODS))}.")
        check_arguments(learn, target, threshold, ignore_index)
        classes = None if classes is None else item_plots.as_names("Interpretation", classes)
        wanted = {"keep": keep, "with_inputs": inputs, "with_loss": losses}
        try:
            found = list(get_preds(learn, loader, **wanted))
        except (ValueError, RuntimeError) as error:
            if losses and "no batches" not in str(error):
                error.add_note("If single items have no loss, pass Interpretation(..., losses=False).")
            raise
        self.losses = found.pop().float() if losses else None
        self.inputs = item_plots.single(found.pop()) if inputs else None
        self.preds, self.targets = found[0], found[1] if target is None else target(found[1])
        self._decoded = decode(self.preds, self.targets, learn.loss_func, kind, threshold, ignore_index)
        self.kind, self.predicted = self._decoded.kind, self._decoded.predicted
        self.preds = with_items(self.preds, self.targets)
        check_inside(self._decoded)
        self.classes = names_of(classes, learn.data.valid if loader is None else loader, self._decoded)

    answers = Renamed("predicted")

    def confusion_matrix(self) -> Tensor:
        """How often each class was predicted for the items of each class.

        Returns:
            Counts, shape (classes, classes), int64: rows are targets, columns predictions. For labels shape
            (labels, 2, 2), one such table for each.

        Raises:
            ValueError: the targets are numbers.
        """
        self._check("confusion_matrix", "classes", "labels")
        n_classes = self._decoded.n_classes
        if self.kind == "classes":
            return counts_of(*self._decoded.counted, n_classes)
        columns = self.predicted.reshape(-1, n_classes), self._decoded.targets.reshape(-1, n_classes)
        counted = self._decoded.is_counted
        tables = []
        for n in range(n_classes):
            kept = slice(None) if counted is None else counted.reshape(-1, n_classes)[:, n]
            tables.append(counts_of(columns[1][kept, n], columns[0][kept, n], 2))
        return torch.stack(tables)

    def report(self) -> ClassReport:
        """Precision, recall, F1 and support of each class or label; for numbers, their errors and R2.

        The precision of a class that was never predicted is 0, and a line below the table explains this.
        """
        if self.kind == "numbers":
            return number_report(self.predicted, self._decoded.targets, self.classes)
        return class_report(self.confusion_matrix(), self.classes, is_multilabel=self.kind == "labels")

    @suggest_keywords
    def most_confused(self, min_count: int = 1) -> list[tuple[Any, Any, int]]:
        """The pairs of classes that are confused most often, such as `(target, predicted, count)`.

        Args:
            min_count: leave out rarer pairs.

        Raises:
            ValueError: the targets are not classes.
        """
        self._check("most_confused", "classes")
        check_count("most_confused", "min_count", min_count, 1)
        counts = self.confusion_matrix().fill_diagonal_(0)
        pairs = [(int(counts[row, column]), row, column) for row, column in counts.nonzero().tolist()]
        pairs.sort(key=lambda each: (-each[0], each[1:]))
        return [(self.classes[row], self.classes[k], n) for n, row, k in pairs if n >= min_count]

    @suggest_keywords
    def top_losses(self, k: int = 9) -> TopLosses:
        """The `k` items with the largest losses, or all if there are fewer; a loss of NaN comes first.

        Raises:
            ValueError: `k` is below 1.
        """
        check_count("top_losses", "k", k, 1)
        if self.losses is None:
            raise ValueError("top_losses: the losses were not computed. Leave out losses=False.")
        losses, indices = self.losses.topk(min(k, len(self.losses)))
        chosen = indices.tolist()
        columns = (self.inputs, self.targets, self.preds)
        return TopLosses(losses, indices, *(item_plots.first_items(each, chosen) for each in columns))

    # Plots

    @suggest_keywords
    def plot_confusion_matrix(self, *, ax: Axes | None = None) -> Axes:
        """Draw the confusion matrix: correct predictions in blue, errors in red, as shares of the target.

        If there are several labels per item, each row is a label, with its numbers of true and false
        positives and negatives.
        """
        counts = self.confusion_matrix()
        if self.kind == "labels":
            return result_plots.plot_labels(counts, self.classes, ax)
        return result_plots.plot_classes(counts, self.classes, ax)

    @suggest_keywords
    def plot_top_losses(self, k: int = 9, *, show: item_plots.Show | None = None) -> Figure:
        """Draw the inputs of the items with the largest losses, with prediction, target and loss.

        Classes of pixels are drawn over their image, and those that are wrong in red.

        Args:
            k: how many.
            show: `show(ax, inputs, target, pred)` draws one item; by default by the type of the inputs.

        Raises:
            ValueError: the inputs were not kept.
        """
        if self.inputs is None:
            raise ValueError("plot_top_losses: the inputs were not kept. Leave out inputs=False.")
        top = self.top_losses(k)
        words = item_plots.result_titles(self._decoded, self.classes, top.indices.tolist())
        numbers = zip(words, top.losses.tolist(), top.indices.tolist(), strict=True)
        titles = [f"{title}\nloss {loss:.3g}, item {n}" for title, loss, n in numbers]
        figure = item_plots.draw_items(top.inputs, titles, show, top.targets, top.preds)
        if show is None:
            wrong = wrong_pixels(self._decoded, top.indices)
            draw_masks(figure, self.predicted[top.indices], self.classes, wrong)
        return figure

    def plot_residuals(self, *, ax: Axes | None = None) -> Axes:
        """Draw the residuals, prediction minus target, over the predictions; ideally they show no pattern."""
        self._check("plot_residuals", "numbers")
        return result_plots.plot_residuals(self.predicted, self._decoded.targets, self.classes, ax)

    def plot_predictions(self, *, ax: Axes | None = None) -> Axes:
        """Draw the predictions over the targets; correct ones are on the diagonal."""
        self._check("plot_predictions", "numbers")
        return result_plots.plot_predictions(self.predicted, self._decoded.targets, self.classes, ax)

    def _check(self, method: str, *kinds: Kind) -> None:
        """Raise an error if a method has no meaning for these targets."""
        if self.kind not in kinds:
            raise ValueError(
                f"{method}() is for {' or '.join(kinds)}, but the targets are {self.kind}: use "
                f"{METHODS[self.kind]}. If they are something else, pass Interpretation(learn, "
                f"kind={kinds[0]!r})."
            )

    def __repr__(self) -> str:
        loss = "" if self.losses is None else f", mean loss {self.losses.mean():.4g}"
        return f"Interpretation({len(self.predicted)} items, {self.kind}{loss}; see report(), top_losses())"


def counts_of(targets: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """The confusion matrix of some class indices."""
    pairs = targets * n_classes + predicted
    return torch.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def check_inside(decoded: Decoded) -> None:
    """Raise an error for targets that are not classes."""
    outside = decoded.outside
    if outside is not None and len(outside):
        raise ValueError(
            f"Interpretation: {len(outside)} targets are outside the classes 0 to {decoded.n_classes - 1}, "
            f"such as {int(outside[0])}. Pass ignore_index= if they should not count, or give the model more "
            "outputs."
        )


def names_of(classes: list[Any] | None, loader: Any, decoded: Decoded) -> list[Any]:
    """A name for each class: those that were passed, those of the data set (as torchvision's), or numbers.

    Names that are there twice, as in ImageNet, get their numbers.
    """
    if classes is None:
        classes = item_plots.known_names(loader, decoded.n_classes) or list(range(decoded.n_classes))
    if len(classes) != decoded.n_classes:
        raise ValueError(
            f"Interpretation(classes={classes!r}): {len(classes)} names for {decoded.n_classes} "
            f"{decoded.kind}. Pass a list with a name for each, in the order of their numbers."
        )
    counts = Counter(map(str, classes))
    return [name if counts[str(name)] == 1 else f"{name} ({n})" for n, name in enumerate(classes)]


def check_arguments(given: object, target: Any, threshold: Any, ignore_index: Any) -> None:
    """Check the arguments of `Interpretation` before the pass.

    Raises:
        TypeError: one of them is of another type than described.
    """
    if not hasattr(given, "get_preds"):
        hint = "a run's folder is opened with learner.open_run(folder)"
        raise TypeError(f"Interpretation({type(given).__name__}): pass a learner; {hint}.")
    if target is not None and not callable(target):
        raise TypeError(f"Interpretation(target={target!r}): pass a function of the targets.")
    if threshold is not None and not is_number(threshold):
        raise TypeError(f"Interpretation(threshold={threshold!r}): pass a number.")
    if ignore_index is not None and type(ignore_index) is not int:
        raise TypeError(f"Interpretation(ignore_index={ignore_index!r}): pass a whole number.")
