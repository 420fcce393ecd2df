"""Data: what gives batches for training and validation, and how a batch is split into inputs and targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from learner.data.at_once import at_once
from learner.data.batching import Order, TensorLoader
from learner.data.holdout import hold_out
from learner.data.loaders import Batches, check_batches, check_dataset, describe_loader, is_function
from learner.data.seeded import Seeded
from learner.data.tensors import (
    as_columns,
    as_tensors,
    check_batch_size,
    check_seed,
    counted,
    describe,
    is_array,
    is_whole,
)
from learner.messages.keywords import suggest_keywords, suggest_keywords_beside

LOADER_OPTIONS = tuple(name for name in inspect.signature(DataLoader.__init__).parameters if name != "self")


class Data:
    """Training and validation batches.

    Args:
        train: an iterable of batches that can be gone through again each epoch (a `DataLoader`, a list,
            ...), or a function that gives such, as a generator function.
        valid: the same for validation, or None for training without.
        n_inputs: of a tuple or list, so many first items are the model's arguments; the rest are targets.
        targets: of a mapping, the keys of the targets; they are taken out of what the model gets. Without,
            the model gets the whole mapping, and `labels`, where there are such, are what metrics compare
            with.
        split: for other batches, a function that gives `(inputs, targets)` of one: inputs as a tuple of the
            model's arguments, a mapping of its keywords, or its one argument.
        n_items: a function that returns the number of items in a batch, a whole number, as
            `lambda batch: batch.num_graphs`. It sets `learn.n_items`, which means over items
            count by, as do `n_samples` and intervals of samples. By default it is the length of the targets,
            or of the inputs where there are no targets: a tensor's first dimension (the second where only
            that one agrees with the others), the length of a list, the sequences of a `PackedSequence`.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message says what to pass.
    """

    count_items: Callable[[Any], int] | None = None

    def __init__(
        self,
        train: Batches,
        valid: Batches | None = None,
        n_inputs: int = 1,
        *,
        targets: str | Sequence[str] | None = None,
        split: Callable[[Any], tuple[Any, Any]] | None = None,
        n_items: Callable[[Any], int] | None = None,
    ):
        check_batches("Data(train=...)", train)
        if valid is not None:
            check_batches("Data(valid=...)", valid)
        if not is_whole(n_inputs) or n_inputs < 1:
            raise ValueError(
                f"Data(n_inputs={n_inputs!r}): write how many items of a batch the model takes, 1 or more."
            )
        if split is not None and (not callable(split) or isinstance(split, type)):
            raise TypeError(
                f"Data(split={split!r}): pass a function that gives (inputs, targets) of a batch."
            )
        if n_items is not None and not callable(n_items):
            raise TypeError(
                f"Data(n_items={n_items!r}): pass a function that returns the number of items in a batch, as "
                "lambda batch: len(batch[0])."
            )
        self.train, self.valid, self.n_inputs = train, valid, n_inputs
        self.count_items = n_items
        self.target_keys = check_keys(targets)
        self.custom_split = split
        self._usual_length = -1 if split or self.target_keys else n_inputs + 1  # -1: never usual

    def batches(self, loader: Batches) -> Iterable[Any]:
        """What to iterate over: the loader, or what it gives when it is a function.

        A `DataLoader` over a `TensorDataset` gives the same batches in a quicker way.
        """
        if not is_function(loader):
            return at_once(loader)
        found = loader()  # type: ignore[operator]
        if not hasattr(found, "__iter__"):
            name = getattr(loader, "__name__", loader)
            raise TypeError(
                f"the function {name} was given as data, but gave {describe(found)}: let it yield batches, "
                "or return a list or loader of them."
            )
        return found

    def split(self, batch: Any) -> tuple[Any, Any]:
        """A batch as what the model gets and what it is compared with.

        Returns:
            Inputs, a tuple or a mapping, and targets: one as it is, several as a tuple, or None.

        Raises:
            TypeError, ValueError: a batch of another kind; the message says how to split it.
        """
        if type(batch) is tuple and len(batch) == self._usual_length:
            return batch[:-1], batch[-1]
        if isinstance(batch, InputsOnly):
            return batch.inputs, None
        if self.custom_split is not None:
            return self._split_by_function(batch)
        if isinstance(batch, (tuple, list)):
            return self._split_row(batch)
        if isinstance(batch, Mapping):
            return self._split_mapping(batch)
        if isinstance(batch, Tensor):
            return self._split_row((batch,))
        raise TypeError(
            f"a batch is {describe(batch)}, but should be a tuple (inputs..., targets), a mapping that the "
            "model takes by keyword, or a tensor. For other batches write a function that gives (inputs, "
            "targets) of one, and pass it as Data(..., split=function)."
        )

    def _split_row(self, batch: Sequence[Any]) -> tuple[Any, Any]:
        n_inputs = self.n_inputs
        if n_inputs > len(batch) or self.target_keys:
            self._refuse_row(batch)
        targets = tuple(batch[n_inputs:])
        return tuple(batch[:n_inputs]), targets[0] if len(targets) == 1 else targets or None

    def _refuse_row(self, batch: Sequence[Any]) -> None:
        if self.target_keys:
            raise TypeError(
                f"Data(targets={self.target_keys}) names keys of mappings, but a batch is {describe(batch)}: "
                "leave targets= out, and let the last items of a batch be the targets."
            )
        raise ValueError(
            f"Data(n_inputs={self.n_inputs}), but a batch has only {counted(len(batch), 'item', 'items')}: "
            f"{describe(batch)}."
        )

    def _split_mapping(self, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        if not self.target_keys:
            return batch, batch.get("labels")
        for key in self.target_keys:
            if key not in batch:
                close = get_close_matches(str(key), map(str, batch), n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"Data(targets={self.target_keys}): a batch has no {key!r}.{hint} "
                    f"It is {describe(batch)}."
                )
        found = tuple([batch[key] for key in self.target_keys])
        inputs = {key: item for key, item in batch.items() if key not in self.target_keys}
        return inputs, found[0] if len(found) == 1 else found

    def _split_by_function(self, batch: Any) -> tuple[Any, Any]:
        found = self.custom_split(batch)  # type: ignore[misc]
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            name = getattr(self.custom_split, "__name__", self.custom_split)
            raise TypeError(
                f"Data(split={name}) gave {describe(found)} for {describe(batch)}: return a pair, "
                "(inputs, targets)."
            )
        inputs, targets = found
        return inputs if isinstance(inputs, (tuple, Mapping)) else (inputs,), targets

    @classmethod
    @suggest_keywords
    def from_tensors(
        cls,
        inputs: Any,
        targets: Any = None,
        batch_size: int = 64,
        *,
        valid: float | tuple[Any, Any] | Mapping[str, Any] | None = 0.2,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
        order: Order = "items",
    ) -> Data:
        """Batches of tensors or arrays, taken by index a batch at a time: far quicker than item by item.

        Arrays that NumPy has mapped from a file (`np.load(path, mmap_mode="r")`, `np.memmap`) may be larger
        than memory: a batch is read at a time, and the file's length is checked before each. Of read-only
        arrays, too, batches are copied and not the whole. Tensors on an accelerator are batched there: no
        batch is copied from the host.

        Args:
            inputs: a tensor or NumPy array of shape (items, ...), a tuple of such for a model of several
                inputs, or a mapping of such, which the model takes by keyword. float64 arrays become torch's
                default dtype, uint16 and uint32 the next wider type with a sign; byte order does not matter.
            targets: a tensor or array of shape (items, ...), a tuple of such, or None. With a mapping of
                inputs also a mapping, or the keys of those that are targets.
            batch_size: items a batch; validation takes twice as many.
            valid: share of the items to hold out (drawn by `seed`), their number, a pair `(inputs, targets)`
                to validate on (a mapping, where keys are the targets), or None for no validation.
            shuffle: new order each epoch, the same for the same seed.
            drop_last: leave out a last batch that is smaller.
            seed: of order and split; by default drawn from torch's random state.
            order: what is shuffled: `"items"`, or for data on a disk `"blocks"` of neighbours, which are read
                in one piece and shuffled among those of 64 blocks; `learner.Blocks` tells how random that is.

        Raises:
            TypeError, ValueError: tensors of different lengths, an impossible split or batch size.
            OSError: in training, a mapped file has become shorter than its map.
        """
        found = as_columns(inputs, targets)
        seed_was_given = seed is not None
        seed, batch_size = check_seed(seed), check_batch_size(batch_size)
        train, held_out = hold_out(found, targets, valid, seed)
        options = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed, "order": order}
        loader = TensorLoader(train.tensors, batch_size, rows=train.rows, **options)
        loader.seed_was_given = shuffle and seed_was_given
        rest = held_out and TensorLoader(held_out.tensors, 2 * batch_size, rows=held_out.rows)
        return cls(loader, rest, 1 if found.keys else found.n_inputs, targets=found.target_keys or None)

    @classmethod
    @suggest_keywords_beside(*LOADER_OPTIONS)
    def from_datasets(
        cls,
        train: Any,
        valid: Any = None,
        batch_size: int = 64,
        *,
        n_inputs: int = 1,
        targets: str | Sequence[str] | None = None,
        split: Callable[[Any], tuple[Any, Any]] | None = None,
        n_items: Callable[[Any], int] | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        **loader_options: Any,
    ) -> Data:
        """A shuffled `DataLoader` over one data set and a plain one over another.

        With `num_workers`, a map-style data set is wrapped in `Seeded`, so a resumed run does not need to
        fetch earlier batches again; not with `persistent_workers=True`, which would draw the same in each
        epoch.

        Args:
            train: data set, map-style or iterable; an iterable one is never shuffled here.
            valid: another, or None for training without validation.
            batch_size: items a batch; validation takes twice as many.
            n_inputs: as for `Data`.
            targets: as for `Data`.
            split: as for `Data`.
            n_items: as for `Data`.
            shuffle: new order each epoch, drawn from torch's random state.
            drop_last: leave out a last training batch that is smaller.
            loader_options: further arguments of `DataLoader` for both, as `num_workers` or `collate_fn`.

        Raises:
            TypeError, ValueError: something is no data set, or an option would not fit both.
        """
        check_dataset("train", train)
        if valid is not None:
            check_dataset("valid", valid)
        check_batch_size(batch_size)
        for option in ("sampler", "batch_sampler"):
            if option in loader_options:
                raise ValueError(
                    f"from_datasets({option}=...) would be of both data sets: make the two loaders yourself "
                    "and pass Data(DataLoader(...), DataLoader(...))."
                )
        shuffle = shuffle and not isinstance(train, IterableDataset)
        train, valid = (seeded(dataset, loader_options) for dataset in (train, valid))
        first = DataLoader(train, batch_size, shuffle=shuffle, drop_last=drop_last, **loader_options)
        second = None if valid is None else DataLoader(valid, 2 * batch_size, **loader_options)
        return cls(first, second, n_inputs, targets=targets, split=split, n_items=n_items)

    def __repr__(self) -> str:
        return f"Data({describe_loader(self.train)}, valid={describe_loader(self.valid)})"


@dataclass
class InputsOnly:
    """A batch to predict: what the model gets as it is, a tuple or a mapping, past any split."""

    inputs: Any


def as_data(data: Any) -> Data:
    """The data that was meant: a `Data`, a pair of loaders, or a pair of tensors, which is one batch of all.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, (DataLoader, TensorLoader)):
        return Data(data)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        first, second = data
        if is_array(first) and is_array(second):
            tensors, n_inputs = as_tensors(first, second)
            return Data([tensors], None, n_inputs)
        return Data(first, second)
    if is_array(data) or isinstance(data, Dataset):
        check_batches("data", data)
    raise TypeError(
        f"data is {describe(data)}: pass Data(train, valid), as in Data([batch, batch]) or Data(function), a "
        "pair of loaders (train, valid), or a pair of tensors (inputs, targets)."
    )


def seeded(dataset: Any, options: Mapping[str, Any]) -> Any:
    """The data set, for workers that begin anew each epoch so that their draws can be had again."""
    if not options.get("num_workers") or options.get("persistent_workers"):
        return dataset
    return dataset if dataset is None or isinstance(dataset, (IterableDataset, Seeded)) else Seeded(dataset)


def check_keys(targets: Any) -> tuple[Any, ...]:
    """The keys of the targets as a tuple."""
    keys = (targets,) if isinstance(targets, str) else () if targets is None else targets
    if not isinstance(keys, (tuple, list)) or not all(isinstance(key, str) and key for key in keys):
        raise TypeError(f"Data(targets={targets!r}): write the keys of the targets, as 'y' or ('y', 'z').")
    return tuple(keys)
