"""Data: what gives batches for training and validation, and how a batch is split into inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from callbacks.device import map_tensors

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


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
        split: for other batches, a function that gives `(inputs, targets)`.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message says what to pass.
    """

    def __init__(
        self,
        train: Batches,
        valid: Batches | None = None,
        n_inputs: int = 1,
        *,
        targets: str | Sequence[str] | None = None,
        split: Callable[[Any], tuple[Any, Any]] | None = None,
    ):
        check_batches("train", train)
        if valid is not None:
            check_batches("valid", valid)
        if type(n_inputs) is not int or n_inputs < 1:
            raise ValueError(
                f"Data(n_inputs={n_inputs!r}): write how many items of a batch the model takes, 1 or more."
            )
        self.train, self.valid, self.n_inputs = train, valid, n_inputs
        self.target_keys = (targets,) if isinstance(targets, str) else tuple(targets or ())
        self._split = split

    def batches(self, loader: Batches) -> Iterable[Any]:
        """What to iterate over: the loader, or what it gives when it is a function."""
        return loader() if callable(loader) and not hasattr(loader, "__iter__") else loader  # type: ignore[return-value]

    def split(self, batch: Any) -> tuple[Any, Any]:
        """A batch as the model's arguments (a tuple, or a mapping) and targets (one as it is, several as a tuple, or None).

        Raises:
            TypeError: a batch of another kind; the message says how to split it.
        """
        if self._split is not None:
            inputs, targets = self._split(batch)
            return inputs if isinstance(inputs, (tuple, Mapping)) else (inputs,), targets
        if type(batch) is tuple or isinstance(batch, (tuple, list)):
            inputs, targets = tuple(batch[: self.n_inputs]), tuple(batch[self.n_inputs :])
            return inputs, targets[0] if len(targets) == 1 else targets or None
        if isinstance(batch, Mapping):
            return self._split_mapping(batch)
        if isinstance(batch, Tensor):
            return (batch,), None
        raise TypeError(
            f"a batch is {describe(batch)}: it should be a tuple (inputs..., targets), a mapping that the "
            f"model takes by keyword, or "
            "a tensor. For other batches pass Data(..., split=function), which gives (inputs, targets) of a "
            "batch."
        )

    def _split_mapping(self, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        if not self.target_keys:
            return batch, batch["labels"] if "labels" in batch else None
        missing = [key for key in self.target_keys if key not in batch]
        if missing:
            raise ValueError(
                f"Data(targets={self.target_keys}): a batch has no {missing[0]!r}. It is {describe(batch)}."
            )
        found = tuple(batch[key] for key in self.target_keys)
        inputs = {key: item for key, item in batch.items() if key not in self.target_keys}
        return inputs, found[0] if len(found) == 1 else found

    @classmethod
    def from_tensors(
        cls,
        inputs: Any,
        targets: Any = None,
        batch_size: int = 64,
        *,
        valid: float | int | tuple[Any, Any] | None = 0.2,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> Data:
        """Batches of tensors in memory, taken by index a batch at a time: far quicker than item by item.

        Args:
            inputs: a tensor or NumPy array of shape (items, ...), or a tuple of such for a model of several
                inputs. float64 arrays become torch's default dtype.
            targets: a tensor or array of shape (items, ...), a tuple of such, or None.
            batch_size: items a batch; validation takes twice as many.
            valid: share of the items to hold out (drawn by `seed`), their number, a pair `(inputs, targets)`
                to validate on, or None for no validation.
            shuffle: new order each epoch, the same for the same seed.
            drop_last: leave out a last batch that is smaller.
            seed: of order and split; by default drawn from torch's random state.

        Raises:
            TypeError, ValueError: tensors of different lengths, an impossible split or batch size.
        """
        tensors, n_inputs = as_tensors(inputs, targets)
        seed = draw_seed() if seed is None else seed
        held_out: tuple[Tensor, ...] | None
        if isinstance(valid, (tuple, list)):
            held_out, _ = as_tensors(*valid)
        else:
            tensors, held_out = split_at_random(tensors, valid, seed)
        train = TensorLoader(tensors, batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
        return cls(train, None if held_out is None else TensorLoader(held_out, 2 * batch_size), n_inputs)

    @classmethod
    def from_datasets(
        cls,
        train: Dataset[Any],
        valid: Dataset[Any] | None = None,
        batch_size: int = 64,
        *,
        n_inputs: int = 1,
        drop_last: bool = False,
        **loader_options: Any,
    ) -> Data:
        """A shuffled `DataLoader` over one data set and a plain one over another.

        Args:
            train, valid: data sets, map-style or iterable.
            batch_size: items a batch; validation takes twice as many.
            n_inputs: as for `Data`.
            drop_last: leave out a last training batch that is smaller.
            loader_options: further arguments of `DataLoader` for both, as `num_workers` or `collate_fn`.
        """
        shuffle = hasattr(train, "__len__") or None
        first = DataLoader(train, batch_size, shuffle=shuffle, drop_last=drop_last, **loader_options)
        second = None if valid is None else DataLoader(valid, 2 * batch_size, **loader_options)
        return cls(first, second, n_inputs)


class TensorLoader:
    """Batches of tensors of one length, by indexing them whole.

    The order of epoch e depends on the seed and e alone. `state_dict` tells where it is, `load_state_dict`
    goes there.

    Args:
        tensors: each of shape (items, ...), on any device.
        batch_size: items a batch; the last may have fewer.
        shuffle: new order each epoch.
        drop_last: leave out a last batch that is smaller.
        seed: of the order; by default drawn from torch's random state.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ):
        if type(batch_size) is not int or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: write a whole number of items, 1 or more.")
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise ValueError(f"the tensors have {lengths} items: give each the same number, one a row.")
        self.tensors, self.n_items, self.batch_size = tuple(tensors), lengths[0], batch_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self.seed = (draw_seed() if seed is None else seed) if shuffle else 0
        self.epoch = 0

    def __len__(self) -> int:
        return self.n_items // self.batch_size if self.drop_last else -(-self.n_items // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = self.order(self.epoch)
        self.epoch += 1
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            if order is None:
                yield tuple(tensor[start : start + self.batch_size] for tensor in self.tensors)
            else:
                chosen = order[start : start + self.batch_size]
                yield tuple(tensor.index_select(0, chosen.to(tensor.device)) for tensor in self.tensors)

    def order(self, epoch: int) -> Tensor | None:
        """The items' numbers in the order of an epoch, or None where they come as they stand."""
        if not self.shuffle:
            return None
        # one generator an epoch, so that an epoch's order can be had without the ones before it
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.n_items, generator=generator)

    def state_dict(self) -> dict[str, int]:
        """Seed, and how many epochs were begun."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was."""
        self.seed, self.epoch = state["seed"], state["epoch"]


def as_data(data: Any) -> Data:
    """The data that was meant: a `Data`, a pair of loaders, or a pair of tensors, which is one batch of all.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        first, second = data
        if is_array(first) and is_array(second):
            tensors, n_inputs = as_tensors(first, second)
            return Data([tensors], None, n_inputs)
        return Data(first, second)
    if isinstance(data, (DataLoader, TensorLoader)):
        return Data(data)
    raise TypeError(
        f"data is {describe(data)}: pass Data(train, valid), a pair of loaders (train, valid), or a pair of "
        f"tensors (inputs, targets)."
    )


def check_batches(name: str, batches: Any) -> None:
    """Refuse what can give no batches."""
    if (
        batches is None
        or isinstance(batches, (str, bytes, Tensor))
        or not (hasattr(batches, "__iter__") or callable(batches))
    ):
        cure = (
            "Data.from_tensors(inputs, targets)"
            if isinstance(batches, Tensor)
            else f"Data.from_datasets({name}, ...)"
        )
        if not isinstance(batches, Dataset) or not hasattr(batches, "__getitem__"):
            extra = f" For tensors or data sets there are {cure}."
        else:
            extra = f" This is a data set: use {cure}."
        raise TypeError(
            f"Data({name}=...) is {describe(batches)}: pass an iterable of batches, as a DataLoader or a "
            f"list, or a function that gives one.{extra}"
        )
    if isinstance(batches, type):
        raise TypeError(f"Data({name}=...) is the class {batches.__name__}: pass an instance of it.")


def n_batches_of(loader: Any) -> int | None:
    """Number of batches, where the loader can tell."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # a DataLoader over an iterable data set without a length
        return None


def as_tensors(inputs: Any, targets: Any = None) -> tuple[tuple[Tensor, ...], int]:
    """Inputs and targets as tensors in a row, and how many of them are inputs."""
    first = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    second = () if targets is None else tuple(targets) if isinstance(targets, (tuple, list)) else (targets,)
    tensors = tuple(as_tensor(item) for item in (*first, *second))
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) != 1:
        raise ValueError(f"inputs and targets have {lengths} items: give each the same number, one a row.")
    if not lengths[0]:
        raise ValueError("inputs and targets have no items.")
    return tensors, len(first)


def as_tensor(item: Any) -> Tensor:
    """A tensor of it, sharing memory where it can; float64 of NumPy becomes torch's default dtype."""
    if isinstance(item, Tensor):
        tensor = item
    elif is_array(item):
        tensor = torch.as_tensor(item)
        tensor = tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
    else:
        raise TypeError(f"{describe(item)} is no tensor or array: pass torch.as_tensor(...) of it.")
    if tensor.ndim == 0:
        raise ValueError("a tensor of no dimensions has no items: give it the shape (items, ...).")
    return tensor


def is_array(item: Any) -> bool:
    """A tensor, or a NumPy array that can become one."""
    return isinstance(item, Tensor) or (
        hasattr(item, "__array__") and hasattr(item, "dtype") and hasattr(item, "shape")
    )


def split_at_random(
    tensors: tuple[Tensor, ...], valid: float | int | None, seed: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Hold out a share, or a number, of the items."""
    if valid is None:
        return tensors, None
    n_items = len(tensors[0])
    whole = isinstance(valid, int) and not isinstance(valid, bool)
    n_valid = valid if whole else round(n_items * valid)
    if isinstance(valid, bool) or not 0 < n_valid < n_items:
        raise ValueError(
            f"valid={valid!r} of {n_items} items holds out {n_valid}: write a share between 0 and 1, a "
            f"number of items, "
            "(inputs, targets), or None for no validation."
        )
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))
    kept, held_out = order[n_valid:], order[:n_valid]
    return tuple(tensor[kept.to(tensor.device)] for tensor in tensors), tuple(
        tensor[held_out.to(tensor.device)] for tensor in tensors
    )


def draw_seed() -> int:
    """A seed from torch's random state, as `DataLoader` draws its own."""
    return int(torch.randint(2**31, ()).item())


def describe(batch: Any) -> str:
    """What something is, as messages tell it: type, length, keys, shapes."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)} and {batch.dtype}"
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {', '.join(map(repr, list(batch)[:8]))}"
    if isinstance(batch, (tuple, list)):
        parts = ", ".join(describe(item) for item in batch[:4])
        return f"a {type(batch).__name__} of {len(batch)} ({parts}{', ...' if len(batch) > 4 else ''})"
    if batch is None or isinstance(batch, (str, int, float)):
        return repr(batch)
    return f"a {type(batch).__name__}"


def first_tensor(nested: Any) -> Tensor | None:
    """The first tensor of a nest that has items."""
    found: list[Tensor] = []
    map_tensors(nested, lambda item: found.append(item) if isinstance(item, Tensor) and item.ndim else None)
    return found[0] if found else None
