"""Nests of tensors of every kind."""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping

import torch
from torch import nn

META = torch.device("meta")
CPU = torch.device("cpu")
Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Sample:
    x: torch.Tensor
    note: str = "kept"
    doubled: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self):
        self.doubled = self.x * 2


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slotted:
    x: torch.Tensor


class HuggingFaceLike(UserDict):
    """A batch that moves itself in place, as `BatchEncoding` of transformers does."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self.encodings = encodings

    def to(self, device):
        self.data = {key: item.to(device) for key, item in self.data.items()}
        return self


class ReadOnly(Mapping):
    def __init__(self, data):
        self._data = dict(data)

    def __getitem__(self, key):
        return self._data[key]

    def __iter__(self):
        return iter(self._data)

    def __len__(self):
        return len(self._data)


class MyList(list):
    pass


def x() -> torch.Tensor:
    return torch.ones(2, 3)


NESTS = {
    "tensor": x,
    "parameter": lambda: nn.Parameter(x()),
    "tuple": lambda: (x(), x()),
    "list": lambda: [x(), x()],
    "list class": lambda: MyList([x()]),
    "named tuple": lambda: Point(x(), {"y": x()}),
    "dict": lambda: {"a": x(), "b": [x()]},
    "ordered dict": lambda: OrderedDict(a=x()),
    "user dict": lambda: UserDict(a=x()),
    "default dict": lambda: defaultdict(list, a=x()),
    "read-only mapping": lambda: ReadOnly({"a": x()}),
    "mapping proxy": lambda: types.MappingProxyType({"a": x()}),
    "hugging face": lambda: HuggingFaceLike({"input_ids": x()}, encodings="kept"),
    "data class": lambda: Sample(x()),
    "frozen data class": lambda: Frozen(x()),
    "slotted data class": lambda: Slotted(x()),
    "deep": lambda: ({"a": [Point(x(), (x(), Sample(x())))]}, [x(), None, "text", 3]),
}
