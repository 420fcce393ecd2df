"""Plots of a batch, without and with the model's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from callbacks.core.settings import check_count
from learner.data.items import in_batch
from learner.data.loaders import check_batches, is_one_shot
from learner.examination.examination import first_batch
from learner.inference.gathering import copied
from learner.inference.kept_part import Keep, part_of
from learner.inference.one_item import unchanged
from learner.inference.predictions import loader_or_valid, predicting
from learner.look.decoding import decode, ignored_by
from learner.look.item_plots import (
    MAX_NUMBERS,
    Show,
    as_names,
    draw_items,
    first_items,
    in_words,
    known_names,
    name_of,
    result_titles,
    single,
)
from learner.look.masks import draw_masks, wrong_pixels
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner
from learner.state.snapshots import keep_random_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@suggest_keywords
def show_batch(
    learn: FullLearner,
    n: int = 9,
    *,
    loader: Any = None,
    classes: Sequence[str] | None = None,
    show: Show | None = None,
) -> Figure:
    """Draw the first items of the first training batch with their targets.

    Images are drawn as images, sequences of numbers as lines, short rows of numbers as a table, text and
    whole numbers as words. Nothing is trained, and the next pass has the same order as without this call.

    Args:
        learn: the learner.
        n: how many items.
        loader: batches; by default the training data.
        classes: the names of the classes, in the order of their numbers; by default those in `classes` of the
            data set.
        show: `show(ax, inputs, target, pred)` draws one item on matplotlib axes; `pred` is None here.

    Raises:
        TypeError, ValueError: an argument cannot be used, there is no batch, or the data can be read only
            once.
    """
    check_count("show_batch", "n", n, 1)
    loader = learn.data.train if loader is None else loader
    batch = a_batch(learn, loader, "show_batch")
    with keep_random_states():  # a function of yours that splits the batch may draw
        inputs, targets = learn.data.split(batch)
        chosen = range(min(n, in_batch(learn.data, batch)))
    names = known_names(loader) if classes is None else as_names("show_batch", classes)
    words = [target_in_words(targets, k, names) for k in chosen]
    shown = first_items(targets, chosen)
    figure = draw_items(first_items(single(inputs), chosen), words, show, shown)
    if show is None:
        draw_masks(figure, without_ignored(copied(shown), learn.loss_func), names)
    return figure


@suggest_keywords
def show_results(
    learn: FullLearner,
    n: int = 9,
    *,
    loader: Any = None,
    classes: Sequence[str] | None = None,
    show: Show | None = None,
    keep: Keep = None,
) -> Figure:
    """Draw the first items of the first validation batch with the model's predictions.

    If a prediction differs from the target, the title shows both. Predicted classes of pixels are drawn over
    their image, and wrong ones in red.

    Args:
        learn: the learner, which stays as it is.
        n: how many items.
        loader: batches; by default the validation data, or the training data if there is none.
        classes: the names of the classes, as of `show_batch`.
        show: `show(ax, inputs, target, pred)` draws one item on matplotlib axes.
        keep: the part of the model's output to look at, as for `get_preds`.

    Raises:
        TypeError, ValueError: there is no batch; or no `show` was passed, and predictions and targets cannot
            be compared.
    """
    check_count("show_results", "n", n, 1)
    loader = learn.data.train if loader is None and learn.data.valid is None else loader
    loader = loader_or_valid(learn.data, loader)
    batch = a_batch(learn, loader, "show_results")
    with predicting(learn):
        learn.batch = batch
        learn.loop.run_model(learn)
        inputs, targets = copied(single(learn.inputs)), copied(learn.targets)
        preds = copied(part_of(learn.preds, keep))
        chosen = range(min(n, learn.n_items))
    parts = [first_items(each, chosen) for each in (inputs, targets, preds)]
    if show is not None:
        return draw_items(parts[0], [""] * len(chosen), show, *parts[1:])
    try:
        decoded = decode(preds, targets, learn.loss_func)
    except (TypeError, ValueError) as error:
        error.add_note("To draw them yourself: show_results(show=f), with def f(ax, inputs, target, pred).")
        raise
    names = known_names(loader, decoded.n_classes) if classes is None else as_names("show_results", classes)
    words = result_titles(decoded, names or range(decoded.n_classes), chosen)
    figure = draw_items(parts[0], words, None)
    draw_masks(figure, decoded.predicted[: len(chosen)], names, wrong_pixels(decoded, slice(len(chosen))))
    return figure


def a_batch(learn: FullLearner, loader: Any, owner: str) -> Any:
    """The first batch of a loader, whose next pass stays the same."""
    check_batches("the loader", loader)
    if is_one_shot(loader):
        other = "inputs, as summary(inputs)" if owner == "summary" else "other batches, as loader=[batch]"
        raise ValueError(
            f"{owner}: the data can be read only once, so no batch was taken from it. Pass {other}."
        )
    with unchanged(loader):
        batch = first_batch(learn.data, loader)
    if batch is None:
        raise ValueError(f"{owner}: the loader has no batch.")
    return batch


def without_ignored(targets: Any, loss_func: Any) -> Any:
    """Targets with 0 in place of the number that the loss ignores."""
    ignored = ignored_by(loss_func)
    return targets.masked_fill(targets == ignored, 0) if isinstance(targets, Tensor) else targets


def target_in_words(targets: Any, k: int, names: Sequence[Any] | None) -> str:
    """The target of one item; nothing for one with many numbers, such as a mask."""
    if isinstance(targets, Mapping):
        targets = targets.get("labels")
    if not isinstance(targets, Tensor) or targets.ndim > 2 or k >= len(targets):
        return str(targets[k]) if isinstance(targets, list) and isinstance(targets[k], (str, int)) else ""
    target = targets[k].detach().cpu()
    if target.numel() == 1 and not target.is_floating_point():
        number = int(target)
        return str(number) if names is None else name_of(number, names)
    if target.numel() > 1 and ((target == 0) | (target == 1)).all():
        return in_words(target, "labels", names or range(target.numel()))
    return in_words(target, "numbers", ()) if target.numel() <= MAX_NUMBERS else ""
