"""What can be passed as batches, and its description."""

from __future__ import annotations

import inspect
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from callbacks.core.output import with_article
from callbacks.schedule.budgets import n_batches_of
from learner.data.batching import TensorLoader
from learner.data.generators import kind_of, walk
from learner.data.tensors import counted, describe, is_array

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
WHOLE = (list, tuple, range, deque)  # types whose iterators draw no random numbers
ITERATED: tuple[Any, ...] = tuple(kind.__iter__ for kind in WHOLE)
PASS_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_batches(title: str, batches: Any) -> None:
    """Raise an error for something that does not return batches.

    Args:
        title: its name in the message, such as "Data(train=...)".
        batches: what was passed.

    Raises:
        TypeError: it is not `Batches`; the message says how to create them.
    """
    if type(batches) in (DataLoader, TensorLoader, list):  # most are; what follows takes some microseconds
        return
    problem = f"{title} is {describe(batches)}"
    check_batched(batches, problem, is_data=title.lower().startswith("data"))
    if isinstance(batches, (str, bytes, Mapping)) or not (hasattr(batches, "__iter__") or callable(batches)):
        raise TypeError(
            f"{problem}: pass an iterable of batches, such as a DataLoader or a list, or a function that "
            "returns one."
        )
    if is_function(batches):
        try:
            inspect.signature(batches).bind()  # type: ignore[arg-type]
        except TypeError as error:
            raise TypeError(
                f"{problem} that needs arguments ({error}): pass one without, like lambda: make_batches(...)."
            ) from None
        except ValueError:  # a builtin without a signature
            pass


def check_batched(given: Any, problem: str, *, is_data: bool) -> None:
    """Refuse a class, arrays, a pair of loaders, or a data set, in place of batches."""
    if isinstance(given, type):
        raise TypeError(f"{problem}: pass an instance of it.")
    if is_array(given) or (isinstance(given, tuple) and given and all(map(is_array, given))):
        making, one = ("TensorLoader((inputs, targets), 64)", "[(inputs, targets)]")
        if is_data:
            making, one = ("Data.from_tensors(inputs, targets, valid=...)", f"Data({one})")
        raise TypeError(
            f"{problem}, which is not in batches yet: batch it with {making}; as a single batch it is {one}."
        )
    if not is_data and hasattr(given, "train") and hasattr(given, "valid"):
        raise TypeError(
            f"{problem}: pass one of its two loaders, such as learn.data.train or learn.data.valid."
        )
    if isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        raise TypeError(f"{problem}, a data set: batch it with Data.from_datasets(dataset, ...).")


def as_validations(valid: Any) -> dict[str, Any]:
    """The validation data by name; empty without validation.

    Raises:
        TypeError, ValueError: something is not batches, or a name cannot be used.
    """
    if valid is None:
        return {}
    if not isinstance(valid, Mapping) or not valid:
        check_batches("Data(valid=...)", valid)
        return {"valid": valid}
    for name, loader in valid.items():
        check_pass_name("Data(valid={...})", name)
        check_batches(f"Data(valid={{{name!r}: ...}})", loader)
    if "valid" not in valid:
        raise ValueError(
            f"Data(valid={{...}}) has {', '.join(map(repr, valid))}: name one of them 'valid'. Its results "
            "are valid_loss and so on, which callbacks monitor by default."
        )
    return dict(valid)


def check_pass_name(owner: str, name: Any) -> None:
    """Check the name of a validation pass.

    Raises:
        ValueError: it is not a word in snake case, or the name of the training pass.
    """
    if not isinstance(name, str) or not PASS_NAME.fullmatch(name) or name == "train":
        raise ValueError(
            f"{owner}: the name {name!r} cannot be used. Pass a word in lower case, such as 'test'; results "
            "are then called test_loss, test_accuracy. 'train' is the name of the training pass."
        )


def check_dataset(name: str, dataset: Any) -> None:
    """Raise an error for what `DataLoader` cannot draw items from."""
    if isinstance(dataset, (DataLoader, TensorLoader)):
        raise TypeError(
            f"from_datasets({name}=...) is {describe(dataset)}, which returns batches already: pass "
            f"Data({name}=...) with it."
        )
    drawable = hasattr(dataset, "__getitem__") or isinstance(dataset, IterableDataset)
    if name == "valid" and isinstance(dataset, float):
        raise TypeError(
            f"from_datasets(valid={dataset}): split the data set first, as in `train, valid = "
            f"torch.utils.data.random_split(dataset, [{1 - dataset:g}, {dataset:g}])`."
        )
    if isinstance(dataset, (type, str, Mapping)) or not drawable:
        raise TypeError(
            f"from_datasets({name}=...) is {describe(dataset)}: pass a data set, with __getitem__ and "
            "__len__, or an IterableDataset."
        )


def is_function(loader: Any) -> bool:
    """Is it a function that returns batches, not batches?"""
    return callable(loader) and not hasattr(loader, "__iter__")


def is_sequence(loader: Any) -> bool:
    """Is this a list, tuple, range or deque, or a subclass with the same iteration?"""
    return isinstance(loader, WHOLE) and type(loader).__iter__ in ITERATED


def is_one_shot(loader: Any) -> bool:
    """Can it be iterated only once?

    This is true for an iterator that only returns itself in `__iter__`. It is false if `__iter__` starts
    again, as in loaders of other libraries.
    """
    if isinstance(loader, type) or not hasattr(loader, "__next__") or not hasattr(loader, "__iter__"):
        return False
    code = getattr(type(loader).__iter__, "__code__", None)
    return code is None or code.co_code == Iterator.__iter__.__code__.co_code


def holds_iterators(dataset: Any) -> bool:
    """Does a data set return the next item, whatever the index?"""
    return any(is_open(part) for _, part in walk(dataset))


def is_open(part: Any) -> bool:
    """Is this an iterator that continues at its position, and not visibly at its end?"""
    if isinstance(part, io.IOBase) or kind_of(part) is not None or not is_one_shot(part):
        return False
    return not (inspect.isgenerator(part) and part.gi_frame is None)


def describe_loader(loader: Any) -> str:
    """A short description of a loader."""
    n_batches = n_batches_of(loader)
    if loader is None or n_batches is None:
        return describe(loader)
    return f"{counted(n_batches, 'batch', 'batches')} of {with_article(loader)}"
