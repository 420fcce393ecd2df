"""How a batch is unpacked, placed, and passed to the model and the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from learner.data.data import Data
from learner.data.items import n_items_of
from learner.scripts.expressions import Expressions, literal


@dataclass
class Batch:
    """The lines about one batch."""

    variables: str = "batch"  #: what the `for` statement assigns
    lines: list[str] = field(default_factory=list)  #: what comes before the model is called
    inputs: str = "inputs"  #: the arguments of the model
    targets: str = "targets"  #: the arguments of the loss after the predictions
    n_items: str = "len(targets)"  #: an expression for the number of items
    values: dict[str, Any] = field(default_factory=dict)  #: the variables of a sample batch, by name
    unplaced: bool = False  #: whether the batch has parts that are not tensors, so that no line places them

    def placed(self) -> list[str]:
        """The lines that move the batch to the device."""
        return [
            f"{name} = {moved(name, value)}"
            for name, value in self.values.items()
            if value is not None and not self.unplaced
        ]


def batch_form(data: Data, sample: Any, expressions: Expressions, *, has_data: bool) -> Batch:
    """How batches like this one are used; a script that `has_data` can split one by its variable `data`."""
    inputs, targets = data.split(sample)
    if data.custom_split is not None:
        found = by_function(data, inputs, targets, expressions, has_data=has_data)
    elif isinstance(sample, Mapping):
        found = of_mapping(data, inputs, targets)
    elif isinstance(sample, Tensor):
        found = Batch("inputs", targets="None", values={"inputs": sample})
    else:
        found = of_row(inputs, targets)
    found.unplaced = not all(map(is_placeable, found.values.values()))
    found.n_items = number_of(found, n_items_of(inputs, targets), expressions)
    if data.count_items is not None:
        expressions.problems.append("Data(n_items=...) cannot be converted; leave it out")
    return found


def of_row(inputs: tuple[Any, ...], targets: Any) -> Batch:
    """A tuple or a list."""
    names = ["inputs"] if len(inputs) == 1 else [f"inputs_{n}" for n in range(1, len(inputs) + 1)]
    many = type(targets) is tuple
    others = [f"targets_{n}" for n in range(1, len(targets) + 1)] if many else ["targets"]
    others = [] if targets is None else others
    variables = ", ".join([*names, *others])
    values = dict(zip([*names, *others], [*inputs, *(targets if many else [targets])], strict=False))
    return Batch(
        variables if names[1:] or others else f"({variables},)",
        inputs=", ".join(names),
        targets=", ".join(others) or "None",
        values=values,
    )


def of_mapping(data: Data, inputs: Mapping[str, Any], targets: Any) -> Batch:
    """A mapping, which the model takes by keyword."""
    if not data.target_keys:
        return Batch(inputs="**batch", targets='batch.get("labels")', values={"batch": inputs})
    keys = [literal(key) for key in data.target_keys]
    compared = f"== {keys[0]}" if len(keys) == 1 else f"in ({', '.join(keys)})"
    negated = compared.replace("== ", "!= ") if len(keys) == 1 else f"not {compared}"
    lines = [f"inputs = {{key: value for key, value in batch.items() if key {negated}}}"]
    lines.append(f"targets = {', '.join(f'batch[{key}]' for key in keys)}")
    values = {"inputs": dict(inputs), "targets": targets}
    return Batch(
        lines=lines, inputs="**inputs", targets="targets" if len(keys) == 1 else "*targets", values=values
    )


def by_function(data: Data, inputs: Any, targets: Any, expressions: Expressions, *, has_data: bool) -> Batch:
    """A batch that the user's own function splits."""
    call = "data.split" if has_data else expressions.name(data.custom_split, "Data(split=...)")
    is_mapping = isinstance(inputs, Mapping)
    lines = [f"inputs, targets = {call}(batch)"]
    if not is_mapping and not has_data:
        lines.append("inputs = inputs if isinstance(inputs, tuple) else (inputs,)")
    return Batch(
        lines=lines,
        inputs="**inputs" if is_mapping else "*inputs",
        targets="*targets" if type(targets) is tuple else "targets",
        values={"inputs": inputs, "targets": targets},
    )


def is_placeable(value: Any) -> bool:
    """Is it a tensor, or a tuple, list or dict of tensors?"""
    if isinstance(value, dict):
        value = tuple(value.values())
    if type(value) in (tuple, list):
        return all(isinstance(each, Tensor) for each in value)
    return isinstance(value, Tensor) or value is None


def moved(name: str, value: Any) -> str:
    """The value on the device."""
    if isinstance(value, dict):
        return f"{{key: value.to(DEVICE) for key, value in {name}.items()}}"
    if isinstance(value, (tuple, list)):
        return f"[each.to(DEVICE) for each in {name}]"
    return f"{name}.to(DEVICE)"


def number_of(batch: Batch, n_items: int, expressions: Expressions) -> str:
    """An expression for the number of items that is right for the sample."""
    for name, value in reversed(batch.values.items()):
        for text, each in candidates(name, value):
            if isinstance(each, Tensor) and each.ndim and len(each) == n_items:
                return text
            if isinstance(each, Tensor) and each.ndim > 1 and each.shape[1] == n_items:
                return f"{text.removeprefix('len(').removesuffix(')')}.shape[1]"
    return "1" if n_items == 1 else f"{n_items}"


def candidates(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Expressions for a length, each with the tensor whose length it is."""
    if isinstance(value, Mapping):
        return [(f"len({name}[{literal(key)}])", each) for key, each in value.items()]
    if isinstance(value, (tuple, list)):
        return [(f"len({name}[{position}])", each) for position, each in enumerate(value)]
    return [(f"len({name})", value)]
