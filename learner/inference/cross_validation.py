"""Cross-validation: train a new learner on each split of the data, and collect the results."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import Subset

from callbacks.core import draws
from callbacks.core.output import print_line
from callbacks.history.history import History, show, text_blocks
from callbacks.history.tables import html_table
from callbacks.record.unsaved_weights import not_meant_to_last
from learner.data.batching import TensorLoader
from learner.data.data import Data
from learner.data.loaders import check_dataset
from learner.data.seeds import checked_seed, seed_everything
from learner.data.tensors import Columns, as_columns, describe, is_array
from learner.inference.folds import Folds, as_folds, make_folds
from learner.inference.predictions import validate
from learner.messages.arguments import check_n_epochs
from learner.messages.keywords import suggest_keywords_beside
from learner.state.protocol import FullLearner

WIDTH = 80  # columns of the table


@suggest_keywords_beside("drop_last", "order", "num_workers", "collate_fn", "n_inputs", "targets", "split")
def cross_validate(
    make_learner: Callable[..., Any],
    data: Any,
    k: int = 5,
    *,
    n_epochs: int | None = None,
    fit: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    stratify: Any = None,
    groups: Any = None,
    folds: Any = None,
    seed: int = 0,
    **options: Any,
) -> CrossValidation:
    """Train a new learner on each of `k` splits of the data, and measure it on the items left out.

    Before each fold the random generators are seeded with `seed`, so that all folds start from the same
    weights and differ only in their data. The generators are restored at the end.

    Args:
        make_learner: a function that returns a new `Learner` with a new model for the `Data` of a fold. If it
            takes a second argument, this is the index of the fold, from 0, such as for the folder of a
            `Checkpoint`.
        data: a pair (inputs, targets), as for `Data.from_tensors`, or a map-style data set.
        k: the number of folds.
        n_epochs: epochs of each fit.
        fit: in place of `n_epochs`, a function of the learner that trains it, such as
            `lambda learn: learn.fit_one_cycle(5, lr_max=0.1)`.
        batch_size: items per batch; validation uses twice as many.
        stratify: a class for each item, such as the targets: each fold has about the same share of each.
        groups: a group for each item, such as a patient: items of a group are never in both parts.
        folds: in place of `k`, pairs (train, valid) of item indices, or a splitter of scikit-learn,
            which gets the targets if they are one class or number for each item.
        seed: of the folds, the weights and the order of the items.
        options: further arguments of `TensorLoader` or `Data.from_datasets`.

    Returns:
        The results of each fold, with mean and spread. They are measured after the fit, that is, with the
        weights that `EarlyStopping` restores.

    Raises:
        TypeError, ValueError: an argument cannot be used, or `make_learner` returns the same model again.
    """
    check_training(n_epochs, fit)
    seed, source = checked_seed(f"cross_validate(seed={seed!r})", seed), as_source(data)
    check_options(source, options)
    if folds is None:
        parts = make_folds(len(source), k, stratify, groups, seed)
    else:
        parts = as_folds(folds, len(source), source.classes if stratify is None else stratify, groups)
    found = CrossValidation(seed)
    with draws.undrawn(), not_meant_to_last():
        models: list[Any] = []
        for number, (train, valid) in enumerate(parts):
            seed_everything(seed)
            data_of_fold = source.data(train, valid, batch_size, seed, options)
            learn = call(make_learner, data_of_fold, number)
            check_learner(learn, data_of_fold, models)
            train_fold(learn, fit or (lambda learn: learn.fit(n_epochs)), parts, found)
    return found


@dataclass(repr=False)
class CrossValidation:
    """The results of `cross_validate`, printed as a table.

    Attributes:
        seed: the seed of all folds.
        rows: for each fold its number, `n_train`, `n_valid`, `n_epochs`, and the results by name.
        histories: the history of each fold.
    """

    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)

    def add(self, learn: FullLearner, n_train: int, n_valid: int) -> None:
        """Measure a trained learner and add its results."""
        counts = {"n_train": n_train, "n_valid": n_valid, "n_epochs": len(learn.history)}
        self.rows.append({"fold": len(self.rows), **counts, **validate(learn)})
        self.histories.append(learn.history)

    @property
    def names(self) -> list[str]:
        """The names of the results that are numbers."""
        names = dict.fromkeys(name for row in self.rows for name in list(row)[4:])
        return [name for name in names if all(isinstance(each, (int, float)) for each in self._column(name))]

    def _column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows if name in row]

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each result over the folds."""
        return {name: statistics.fmean(self._column(name)) for name in self.names}

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation of each result over the folds, with n - 1; NaN for one fold."""
        columns = {name: self._column(name) for name in self.names}
        return {name: spread_of(column) for name, column in columns.items()}

    def _columns(self) -> list[list[str]]:
        """The table by columns, each with its title first."""
        found = [["fold", *(str(row["fold"]) for row in self.rows), "mean", "std"]]
        found += [["n_valid", *(str(row["n_valid"]) for row in self.rows), "", ""]]
        mean, std = self.mean, self.std
        for name in self.names:
            cells = [show(row.get(name)) for row in self.rows]
            found.append([name, *cells, show(mean[name]), show(std[name])])
        return found

    def __repr__(self) -> str:
        return "\n\n".join(map("\n".join, text_blocks(self._columns(), WIDTH)))

    def _repr_html_(self) -> str:
        head, *rows = zip(*self._columns(), strict=True)
        return html_table(rows, head, n_text=1)


def train_fold(learn: FullLearner, fit: Callable[[Any], Any], parts: Folds, found: CrossValidation) -> None:
    """Train the learner of the next fold, and add its results."""
    number = len(found.rows)
    n_train, n_valid = map(len, parts[number])
    title = f"fold {number} of {len(parts)}"
    if any(each.shows_progress for each in learn.callbacks):
        print_line(f"{title}: {n_train} items to train, {n_valid} to validate")
    try:
        fit(learn)
        found.add(learn, n_train, n_valid)
    except BaseException as error:
        error.add_note(f"in {title} (from 0)")
        raise


def spread_of(numbers: list[float]) -> float:
    """The standard deviation with n - 1; NaN if there are not two numbers, or one of them is not finite."""
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
        return math.nan
    return statistics.stdev(numbers)


class Tensors:
    """Items in tensors or arrays, which the folds share."""

    title, takes = "tensors", ("drop_last", "order")

    def __init__(self, columns: Columns):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns.tensors[0])

    @property
    def classes(self) -> Any:
        """The targets for a splitter, if they are one number for each item."""
        targets = self.columns.tensors[self.columns.n_inputs :]
        return targets[0] if len(targets) == 1 and targets[0].ndim == 1 else None

    def data(self, train: Tensor, valid: Tensor, batch_size: int, seed: int, options: Any) -> Data:
        """The data of a fold."""
        held = self.columns.original
        first = TensorLoader(held, batch_size, shuffle=True, seed=seed, rows=train, **options)
        second = TensorLoader(held, 2 * batch_size, rows=valid)
        n_inputs = 1 if self.columns.keys else self.columns.n_inputs
        return Data(first, second, n_inputs, targets=self.columns.target_keys or None)


class Items:
    """A map-style data set."""

    title, classes = "a data set", None
    takes = ("drop_last", "num_workers", "collate_fn", "n_inputs", "targets", "split")

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def data(self, train: Tensor, valid: Tensor, batch_size: int, seed: int, options: Any) -> Data:
        """The data of a fold."""
        first, second = (Subset(self.dataset, each.tolist()) for each in (train, valid))
        return Data.from_datasets(first, second, batch_size, **options)


def as_source(data: Any) -> Tensors | Items:
    """The items to split."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return Tensors(as_columns(*data))
    has_items = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if isinstance(data, Data) or is_array(data) or not has_items:
        raise TypeError(
            f"cross_validate(data=...) is {describe(data)}: pass a pair (inputs, targets) of tensors, or a "
            "data set with __len__ and __getitem__. It is split here, so it must not be in batches yet."
        )
    check_dataset("data", data)
    return Items(data)


def check_options(source: Tensors | Items, options: Any) -> None:
    """Refuse options of data of the other kind."""
    for name in options:
        if name not in source.takes:
            hint = " Several inputs are a tuple: ((first, second), targets)." if name == "n_inputs" else ""
            raise TypeError(
                f"cross_validate({name}=...) has no effect on {source.title}, which "
                f"{'take' if source.title == 'tensors' else 'takes'} {', '.join(source.takes)}.{hint}"
            )


def check_training(n_epochs: Any, fit: Any) -> None:
    """Check that there is one way to train."""
    if (n_epochs is None) == (fit is None):
        raise ValueError("cross_validate: pass either n_epochs=, or fit= with a function of the learner.")
    if fit is not None and not callable(fit):
        raise TypeError(f"cross_validate(fit={fit!r}): pass a function of the learner.")
    if n_epochs is not None:
        check_n_epochs(n_epochs)


def call(make_learner: Any, data: Data, number: int) -> Any:
    """A new learner for a fold."""
    if not callable(make_learner):
        raise TypeError(
            f"cross_validate(make_learner={make_learner!r}): pass a function that returns a new Learner."
        )
    try:
        signature = inspect.signature(make_learner)
    except (TypeError, ValueError):  # of a function in C
        return make_learner(data)
    if binds(signature, data, number):
        return make_learner(data, number)
    if binds(signature, data):
        return make_learner(data)
    raise TypeError(
        f"cross_validate: make_learner takes {signature}, but is called with the Data of a fold. Let it take "
        "the data and pass them on, as in lambda data: Learner(Net(), data, loss_func, optimizer)."
    )


def binds(signature: inspect.Signature, *arguments: Any) -> bool:
    """Does a function take these arguments?"""
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def check_learner(made: Any, data: Data, models: list[Any]) -> None:
    """Check what `make_learner` returned."""
    if not hasattr(made, "fit") or not hasattr(made, "loop"):
        raise TypeError(f"cross_validate: make_learner returned {describe(made)}: return a Learner.")
    if made.data is not data:
        raise ValueError("cross_validate: make_learner must pass the data that it gets to the Learner.")
    if any(made.model is model for model in models):
        raise ValueError(
            "cross_validate: make_learner returned the model of the previous fold, which has seen the "
            "items of this fold: create a new model in it."
        )
    models[:] = [made.model]
