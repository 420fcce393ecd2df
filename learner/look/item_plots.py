"""Plots of items: images, sequences, rows of a table, text, or drawn by the user's own function."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from callbacks.history.drawing import INK, line_style, new_axes, new_panels
from learner.data.tensors import describe
from learner.look.decoding import Decoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: `show(ax, inputs, target, pred)` draws one item; `pred` is None where there is no prediction.
Show = Callable[["Axes", Any, Any, Any], Any]

N_COLUMNS = 3
SMALLEST_IMAGE = 6  # pixels of a side; a smaller matrix is a sequence of vectors
MAX_FEATURES = 10  # of a row that is shown as a table
MAX_NUMBERS = 3  # of a target in a title
MAX_WORDS = 200  # characters of a text
TEXT_WIDTH = 90  # characters of a line, if all items are texts
MIN_PADDING = 3  # equal numbers at the end of an item


def draw_items(
    inputs: Any, titles: Sequence[str], show: Show | None, targets: Any = None, preds: Any = None
) -> Figure:
    """Draw a panel per item, or one table if the items are rows of a table.

    `inputs` are joined: a tensor, list, or a tuple or mapping of them. `show` draws one item with its target
    and prediction; by default by its type. The first line of a title is the prediction or the target.
    """
    n_items = len(titles)
    if show is not None and not callable(show):
        raise TypeError(
            f"show={show!r}: pass a function that draws an item, def show(ax, inputs, target, pred)."
        )
    table = as_table(inputs) if show is None else None
    if table is not None:
        return draw_table(table, titles)
    texts = [text_of(item_at(inputs, n)) for n in range(n_items)] if show is None else [None]
    if None not in texts:
        return draw_texts(list(map(str, texts)), titles)
    n_columns = min(n_items, N_COLUMNS)
    n_rows = math.ceil(n_items / n_columns)
    axes = new_panels(n_items, 3.0 * n_columns, 2.9 * n_rows, n_columns)
    for n, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        ax.set_title(title, fontsize="small")
        ax.grid(visible=False)
        if show is None:
            draw_item(ax, item_at(inputs, n))
        else:
            drawn_by(show, ax, item_at(inputs, n), item_at(targets, n), item_at(preds, n))
    figure: Any = axes[0].figure
    return figure


def drawn_by(show: Show, *arguments: Any) -> None:
    """Draw an item with the user's function."""
    try:
        show(*arguments)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # not raised within it
            error.add_note("show is called as show(ax, inputs, target, pred)")
        raise


def draw_item(ax: Axes, item: Any) -> None:
    """Draw one item by its type: an image, a sequence, or text."""
    text = text_of(item)
    if text is not None:
        return draw_text(ax, text, 30)
    item = first_part(item).detach().cpu()
    image = as_image(item)
    if image is not None:
        ax.imshow(image.numpy(), cmap="gray", interpolation="nearest")
        ax.set_axis_off()
    else:
        rows = item.reshape(len(item), -1).float()
        if item.ndim == 2 and rows.shape[0] < rows.shape[1]:
            rows = rows.T  # (channels, length), as a Conv1d takes it
        for n in range(min(rows.shape[1], 6)):
            ax.plot(rows[:, n].numpy(), **line_style(n))
    return None


def first_part(item: Any) -> Any:
    """The first tensor of an item with several parts, or the item."""
    if isinstance(item, Mapping):
        item = next((each for each in item.values() if isinstance(each, Tensor)), item)
    if isinstance(item, (tuple, list)) and item and isinstance(item[0], (Tensor, np.ndarray)):
        item = item[0]
    return torch.as_tensor(item) if isinstance(item, np.ndarray) else item


def text_of(item: Any) -> str | None:
    """An item as text: words, whole numbers, or what it is; None for an image or a sequence of numbers."""
    item = first_part(item)
    if not isinstance(item, Tensor) or item.is_nested or item.is_complex():
        return item if isinstance(item, str) else describe(item)
    if as_image(item) is not None or (item.ndim in (1, 2) and item.is_floating_point() and item.numel() > 1):
        return None
    if item.ndim == 1 and item.numel():
        return without_padding(item.tolist())
    return str(item.item()) if item.numel() == 1 else describe(item)


def without_padding(numbers: list[Any]) -> str:
    """Whole numbers in a row; equal ones at the end, such as those of padding, are counted."""
    last = numbers[-1]
    n_last = next((n for n, each in enumerate(reversed(numbers)) if each != last), len(numbers))
    if n_last < MIN_PADDING or n_last == len(numbers):
        return " ".join(map(str, numbers))
    return f"{' '.join(map(str, numbers[:-n_last]))} ({n_last} x {last})"


def draw_texts(texts: Sequence[str], titles: Sequence[str]) -> Figure:
    """Draw texts below each other, each below its title."""
    longest = max(len(text) for text in texts) // TEXT_WIDTH
    n_lines = 2 + longest + max(title.count("\n") for title in titles)
    axes = new_panels(len(texts), 7.0, 0.22 * (n_lines + 0.5) * len(texts), 1)
    for ax, text, title in zip(axes, texts, titles, strict=True):
        ax.set_title(title, fontsize="small", fontweight="bold")
        draw_text(ax, text, TEXT_WIDTH)
    figure: Any = axes[0].figure
    return figure


def draw_text(ax: Axes, text: str, width: int) -> None:
    """Draw text with this many characters per line in place of an image."""
    lines = "\n".join(textwrap.wrap(textwrap.shorten(text, MAX_WORDS, placeholder=" ..."), width))
    ax.set_axis_off()
    ax.text(0.5, 0.5, lines, ha="center", va="center", color=INK, fontsize="small", transform=ax.transAxes)


def as_image(item: Tensor) -> Tensor | None:
    """Pixels of shape (height, width) or (height, width, 3 or 4), from 0 to 1; None for anything else."""
    if item.ndim == 3 and item.shape[0] in (1, 3, 4):
        item = item[0] if item.shape[0] == 1 else item.movedim(0, -1)
    elif item.ndim == 3 and item.shape[-1] == 1:
        item = item[..., 0]
    is_colour = item.ndim == 3 and item.shape[-1] in (3, 4)
    if not (item.ndim == 2 or is_colour) or min(item.shape[:2]) < SMALLEST_IMAGE:
        return None
    pixels = item.float().nan_to_num()
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    return pixels


def as_table(inputs: Any) -> dict[str, list[Any]] | None:
    """The columns by name, if the items are rows of a few numbers, in one input or in several."""
    is_named = isinstance(inputs, Mapping)
    parts = dict(inputs) if is_named else dict(enumerate(inputs if type(inputs) is tuple else [inputs]))
    columns: dict[str, list[Any]] = {}
    for key, part in parts.items():
        is_column = isinstance(part, Tensor) and part.ndim == 1 and len(parts) > 1 and not part.is_complex()
        is_rows = isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point()
        if not (is_column or is_rows) or part.numel() > MAX_FEATURES * len(part):
            return None
        for n, column in enumerate(part.reshape(len(part), -1).T.tolist()):
            name = f"{key} {n}" if is_rows else f"{key}"
            columns[name if is_named else f"input {len(columns)}"] = column
    has_items = len({len(column) for column in columns.values()}) == 1  # a constant input has another length
    return columns if has_items and len(columns) <= MAX_FEATURES else None


def draw_table(columns: Mapping[str, Sequence[Any]], titles: Sequence[str]) -> Figure:
    """Draw columns of numbers as a table, with the titles on the left."""
    from matplotlib.transforms import Bbox

    labels = [title.replace("\n", ", ") for title in titles]
    width = sum(max(0.9, 0.1 * len(name)) for name in columns) + 0.075 * max(map(len, labels))
    ax = new_axes(max(width, 3.0), 0.3 * len(titles) + 0.6)
    ax.set_axis_off()
    cells = [[f"{column[n]:.4g}" for column in columns.values()] for n in range(len(titles))]
    table = ax.table(
        cells,
        rowLabels=labels,
        colLabels=list(columns),
        loc="center",
        edges="horizontal",
        cellLoc="right",
        bbox=Bbox.unit(),
    )
    table.auto_set_font_size(False)
    for cell in table.get_celld().values():
        cell.set(edgecolor=INK, linewidth=0.4)
        cell.set_text_props(color=INK, fontsize="small")
    figure: Any = ax.figure
    return figure


def item_at(nest: Any, n: int) -> Any:
    """Item number `n` of joined inputs, targets or predictions."""
    return over(nest, lambda each: each[n])


def first_items(nest: Any, chosen: Sequence[int]) -> Any:
    """The chosen items of joined inputs, targets or predictions."""
    return over(nest, lambda each: [each[n] for n in chosen] if type(each) is list else each[list(chosen)])


def over(nest: Any, function: Callable[[Any], Any]) -> Any:
    """Call a function for each part of nested inputs that has items."""
    if isinstance(nest, Mapping):
        return {key: over(each, function) for key, each in nest.items()}
    if type(nest) is tuple:
        return tuple(over(each, function) for each in nest)
    return function(nest) if isinstance(nest, (Tensor, np.ndarray, list)) else nest


def result_titles(decoded: Decoded, classes: Sequence[Any], chosen: Sequence[int]) -> list[str]:
    """The prediction for each chosen item, with the target if they differ."""
    predicted, targets, kind = decoded.predicted, decoded.targets, decoded.kind
    if kind == "classes" and predicted.ndim > 1:  # of pixels or tokens
        counts = torch.ones_like(predicted) if decoded.is_counted is None else decoded.is_counted
        correct = (predicted == targets) & counts.bool()
        return [f"{100 * correct[n].sum() / counts[n].sum().clamp_min(1):.0f} % correct" for n in chosen]
    titles = []
    for n in chosen:
        title, target = (in_words(each[n], kind, classes) for each in (predicted, targets))
        titles.append(title if title == target else f"{title} (target: {target})")
    return titles


def in_words(value: Tensor, kind: str, classes: Sequence[Any]) -> str:
    """One prediction or target."""
    if kind == "classes":
        return name_of(int(value), classes) if value.ndim == 0 else ""
    if kind == "labels":
        return ", ".join(name_of(n, classes) for n in value.flatten().nonzero().flatten().tolist()) or "none"
    shown = [f"{each:.4g}" for each in value.flatten()[:MAX_NUMBERS].tolist()]
    return ", ".join(shown + ["..."] * (value.numel() > MAX_NUMBERS))


def name_of(number: int, classes: Sequence[Any]) -> str:
    """The name of a class."""
    if not 0 <= number < len(classes):
        raise ValueError(f"there is a class {number}, but classes= has {len(classes)} names, from 0 on.")
    return str(classes[number])


def as_names(owner: str, classes: Any) -> list[Any]:
    """The names of classes, in the order of their numbers.

    Raises:
        TypeError: they have no order, or are not several names.
    """
    if isinstance(classes, (str, Mapping, Set)) or not isinstance(classes, Iterable):
        raise TypeError(
            f"{owner}(classes={classes!r}): pass a list with a name for each class, in the order of their "
            "numbers."
        )
    return list(classes)


def known_names(loader: Any, n_classes: int | None = None) -> list[Any] | None:
    """The names in `classes` of the data set, as in torchvision, even if it is within a subset."""
    while (loader := getattr(loader, "dataset", None)) is not None:
        known = getattr(loader, "classes", None)
        if isinstance(known, (list, tuple)) and n_classes in (None, len(known)):
            return list(known)
    return None


def single(inputs: Any) -> Any:
    """The only input, or all inputs."""
    return inputs[0] if type(inputs) is tuple and len(inputs) == 1 else inputs
