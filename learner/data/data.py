"""Training and validation batches, and how a batch is split into inputs and targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from callbacks.core.foreign_names import DATA_WORDS
from callbacks.history.tables import html_table
from learner.data import items
from learner.data.at_once import at_once
from learner.data.batching import Order, TensorLoader
from learner.data.holdout import hold_out
from learner.data.items import InputsOnly
from learner.data.loaders import (
    Batches,
    as_validations,
    check_batches,
    check_dataset,
    describe_loader,
    is_function,
)
from learner.data.seeded import seeded
from learner.data.tensors import (
    as_columns,
    as_tensors,
    check_batch_size,
    check_seed,
    describe,
    is_array,
    is_whole,
)
from learner.messages.keywords import suggest_keywords, suggest_keywords_beside
from learner.messages.missing_attributes import hints

LOADER_OPTIONS = tuple(name for name in inspect.signature(DataLoader.__init__).parameters if name != "self")


@hints(DATA_WORDS)
class Data:
    """Training and validation batches.

    Args:
        train: an iterable of batches that can be iterated again each epoch (a `DataLoader`, a list, ...), or
            a function that returns one, such as a generator function.
        valid: the same for validation, or None for training without validation. A mapping such as
            `{"valid": loader, "night": other}` validates on several data in turn. The results have the names
            as a prefix, such as `night_loss`; callbacks monitor those of "valid" by default.
        test: the same for `learn.test()`; fits do not use it.
        n_inputs: how many of the first items of a tuple or list are the model's arguments; the others are
            targets.
        targets: the keys of the targets in a mapping; the model receives the other keys. By default the model
            receives the whole mapping, and metrics compare with `labels` if it has them.
        split: for other batches, a function that returns `(inputs, targets)` of a batch. Inputs are a tuple
            of the model's arguments, a mapping of its keywords, or a single argument.
        n_items: a function that returns the number of items in a batch, a whole number, such as `lambda
            batch: batch.num_graphs`. It sets `learn.n_items`, which is used by means over items, `n_samples`
            and intervals of samples. The default is the length of the targets, or of the inputs if there are
            no targets: the first dimension of a tensor (or the second if only that agrees with the others),
            the length of a list, the sequences of a `PackedSequence`.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message says what to pass.
    """

    train: Batches
    valid: Any
    n_inputs: int
    target_keys: tuple[Any, ...]

    count_items: Callable[[Any], int] | None = None
    more_valid: Mapping[str, Batches] = {}
    test: Batches | None = None

    @suggest_keywords
    def __init__(
        self,
        train: Batches,
        valid: Batches | Mapping[str, Batches] | None = None,
        n_inputs: int = 1,
        *,
        test: Batches | None = None,
        targets: str | Sequence[str] | None = None,
        split: Callable[[Any], tuple[Any, Any]] | None = None,
        n_items: Callable[[Any], int] | None = None,
    ):
        check_batches("Data(train=...)", train)
        validations = as_validations(valid)
        check_batches("Data(test=...)", [] if test is None else test)
        if not is_whole(n_inputs) or n_inputs < 1:
            raise ValueError(f"Data(n_inputs={n_inputs!r}): pass how many items the model takes, 1 or more.")
        if split is not None and (not callable(split) or isinstance(split, type)):
            raise TypeError(
                f"Data(split={split!r}): pass a function that returns (inputs, targets) of a batch."
            )
        if n_items is not None and not callable(n_items):
            raise TypeError(f"Data(n_items={n_items!r}): pass a function, as lambda batch: len(batch[0]).")
        self.train, self.valid, self.n_inputs = train, validations.pop("valid", None), n_inputs
        self.more_valid, self.test, self.count_items = validations, test, n_items
        self.target_keys = items.check_keys(targets)
        self.custom_split = split
        self._usual_length = -1 if split or self.target_keys else n_inputs + 1  # -1: no usual length

    @property
    def validations(self) -> dict[str, Any]:
        """The validation data by name, `"valid"` first; empty without validation."""
        return {} if self.valid is None else {"valid": self.valid, **self.more_valid}

    @property
    def loaders(self) -> dict[str, Any]:
        """All data by name: `"train"`, `"valid"` (which may be None), and the further validation data."""
        return {"train": self.train, "valid": self.valid, **self.more_valid}

    def batches(self, loader: Batches) -> Iterable[Any]:
        """What to iterate over: the loader, or what it returns if it is a function.

        A `DataLoader` over a `TensorDataset` is read in a faster way, with the same batches.
        """
        if not is_function(loader):
            return at_once(loader)
        found = loader()  # type: ignore[operator]
        if not hasattr(found, "__iter__"):
            name = getattr(loader, "__name__", loader)
            raise TypeError(
                f"the function {name} was passed as data, but returned {describe(found)}: let it yield "
                "batches, or return a list or loader of them."
            )
        return found

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Split a batch into the model's inputs and the targets.

        Returns:
            Inputs, a tuple or a mapping, and targets: a single target, a tuple of several, or None.

        Raises:
            TypeError, ValueError: the batch is of another kind; the message says how to split it.
        """
        if type(batch) is tuple and len(batch) == self._usual_length:
            return batch[:-1], batch[-1]
        if isinstance(batch, InputsOnly):
            return batch.inputs, batch.targets
        if self.custom_split is not None:
            return items.split_by_function(batch, self.custom_split)
        if isinstance(batch, (tuple, list)):
            return items.split_row(batch, self.n_inputs, self.target_keys)
        if isinstance(batch, Mapping):
            return items.split_mapping(batch, self.target_keys)
        if isinstance(batch, Tensor):
            return items.split_row((batch,), self.n_inputs, self.target_keys)
        raise TypeError(
            f"a batch is {describe(batch)}, but should be a tuple (inputs..., targets), a mapping that the "
            "model takes by keyword, or a tensor. For other batches write a function that returns (inputs, "
            "targets) of a batch, and pass it as Data(..., split=function)."
        )

    @classmethod
    @suggest_keywords
    def from_tensors(
        cls,
        inputs: Any,
        targets: Any = None,
        batch_size: int = 64,
        *,
        valid: float | tuple[Any, Any] | Mapping[str, Any] | None = 0.2,
        test: float | tuple[Any, Any] | Mapping[str, Any] | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
        order: Order = "items",
    ) -> Data:
        """Batches of tensors or arrays, indexed a batch at a time, which is much faster than item by item.

        Arrays that NumPy has mapped from a file (`np.load(path, mmap_mode="r")`) may be larger than memory: a
        batch at a time is read, after the length of the file is checked. Read-only arrays are copied batch by
        batch, too. Tensors on an accelerator are batched there.

        Args:
            inputs: a tensor or NumPy array of shape (items, ...); a tuple of them for a model with several
                inputs; or a mapping of them, which the model takes by keyword. float64 arrays get torch's
                default dtype, uint16 and uint32 the next wider signed type; byte order does not matter.
            targets: a tensor or array of shape (items, ...), a tuple of them, or None. With a mapping of
                inputs also a mapping, or the keys of the inputs that are targets.
            batch_size: items per batch; validation uses twice as many.
            valid: the share of the items to hold out (drawn with `seed`), their number, a pair
                `(inputs, targets)` (a mapping if targets are keys), or None. Nothing is copied.
            test: the same for `learn.test()`.
            shuffle: use a new order each epoch, the same for the same seed.
            drop_last: leave out a smaller last batch.
            seed: for order and split; by default drawn from torch's random state.
            order: what is shuffled: `"items"`, or for data on a disk `"blocks"` of neighbours, which are read
                in one piece and shuffled among those of 64 blocks; see `learner.Blocks`.

        Raises:
            TypeError, ValueError: tensors have different lengths, or the split or batch size is impossible.
            OSError: in training, a mapped file has become shorter than its map.
        """
        found = as_columns(inputs, targets)
        seed_was_given = seed is not None
        seed, batch_size = check_seed(seed), check_batch_size(batch_size)
        train, rest = hold_out(found, targets, {"valid": valid, "test": test}, seed)
        options = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed, "order": order}
        loader = TensorLoader(train.tensors, batch_size, rows=train.rows, **options)
        loader.seed_was_given = shuffle and seed_was_given
        first, last = (each and TensorLoader(each.tensors, 2 * batch_size, rows=each.rows) for each in rest)
        n_inputs = 1 if found.keys else found.n_inputs
        return cls(loader, first, n_inputs, test=last, targets=found.target_keys or None)

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
        """A shuffled `DataLoader` over one data set, and one in order over another.

        With `num_workers`, a map-style data set is wrapped in `Seeded`, so a resumed run does not need to
        fetch earlier batches again. It is not wrapped with `persistent_workers=True`, because it would draw
        the same numbers in each epoch.

        Args:
            train: a map-style or iterable data set; an iterable one is never shuffled here.
            valid: another data set, a mapping of several as for `Data`, or None for no validation.
            batch_size: items per batch; validation uses twice as many.
            n_inputs: as for `Data`.
            targets: as for `Data`.
            split: as for `Data`.
            n_items: as for `Data`.
            shuffle: use a new order each epoch, drawn from torch's random state.
            drop_last: leave out a smaller last training batch.
            loader_options: other arguments of `DataLoader` for both, such as `num_workers` or `collate_fn`.

        Raises:
            TypeError, ValueError: something is not a data set, or an option would not fit both.
        """
        check_dataset("train", train)
        sets = dict(valid) if type(valid) is dict else {} if valid is None else {"valid": valid}
        for each in sets.values():
            check_dataset("valid", each)
        check_batch_size(batch_size)
        for option in ("sampler", "batch_sampler"):
            if option in loader_options:
                raise ValueError(
                    f"from_datasets({option}=...) would apply to both data sets: create the two loaders "
                    "yourself and pass Data(DataLoader(...), DataLoader(...))."
                )
        shuffle = shuffle and not isinstance(train, IterableDataset)
        train = seeded(train, loader_options)
        first = DataLoader(train, batch_size, shuffle=shuffle, drop_last=drop_last, **loader_options)
        rest = {
            name: DataLoader(seeded(each, loader_options), 2 * batch_size, **loader_options)
            for name, each in sets.items()
        }
        return cls(first, rest or None, n_inputs, targets=targets, split=split, n_items=n_items)

    def __repr__(self) -> str:
        more = "".join(f", {name}={describe_loader(each)}" for name, each in self.more_valid.items())
        more += "" if self.test is None else f", test={describe_loader(self.test)}"
        return f"Data({describe_loader(self.train)}, valid={describe_loader(self.valid)}{more})"

    def _repr_html_(self) -> str:
        found = self.loaders if self.test is None else {**self.loaders, "test": self.test}
        return html_table([(name, describe_loader(each)) for name, each in found.items()])


def as_data(data: Any) -> Data:
    """A `Data` from a `Data`, a pair of loaders, or a pair of tensors, which is a single batch.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, (DataLoader, TensorLoader)):
        return Data(data)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        if all(map(is_array, data)):
            tensors, n_inputs = as_tensors(*data)
            return Data([tensors], None, n_inputs)
        return Data(*data)
    if is_array(data) or isinstance(data, Dataset):
        check_batches("data", data)
    raise TypeError(
        f"data is {describe(data)}: pass Data(train, valid), as in Data([batch, batch]) or Data(function), a "
        "pair of loaders (train, valid), or a pair of tensors (inputs, targets)."
    )
