"""Where a script gets its batches from: our data sets written out, or what the user's function returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from callbacks.schedule.budgets import n_batches_of
from learner.data import datasets
from learner.data.batching import TensorLoader
from learner.data.data import Data, as_data
from learner.data.loaders import is_function
from learner.data.tensors import as_tensors, draw_rows, is_array
from learner.scripts import loader_texts as texts
from learner.scripts.expressions import Expressions, Part, literal


@dataclass
class Loaders:
    """The loaders of a script."""

    setup: list[str]  #: the lines that make them
    data: Data  #: what splits a batch, and the loaders, for a sample batch
    #: functions and classes that these lines use, by name
    helpers: dict[str, str] = field(default_factory=dict)
    has_data: bool = False  #: has the script the variable `data`?
    is_ours: bool = False  #: are the batches rows of tensors, so that no code of the user runs between them?

    @property
    def train(self) -> str:
        return "train_loader()" if is_function(self.data.train) else "train_loader"

    @property
    def valid(self) -> str:
        if self.data.valid is None:
            return ""
        return "valid_loader()" if is_function(self.data.valid) else "valid_loader"

    @property
    def n_batches(self) -> int | None:
        return n_batches_of(self.data.train)

    def epoch_start(self) -> list[str]:
        """The lines that give the number of the epoch to samplers and data sets that ask for it."""
        loader = self.data.train
        paths = ("", "sampler", "batch_sampler", "dataset")
        places = {path: getattr(loader, path, None) if path else loader for path in paths}
        names = [
            f"train_loader.{path}".rstrip(".") for path, each in places.items() if hasattr(each, "set_epoch")
        ]
        return [f"{name}.set_epoch(epoch)" for name in names]

    def sample(self) -> Any:
        """The first batch."""
        return next(iter(self.data.batches(self.data.train)))


def loader_form(part: Part, built: Any, used: Data, expressions: Expressions) -> Loaders:
    """The loaders: `built` is what the call of `part` returned, `used` the data of the learner."""
    ours: Callable[..., Loaders] | None = OURS.get(part.target)
    if ours is not None:
        return ours(built, **part.arguments)
    call = expressions.part(part, "data")
    if isinstance(built, Data):
        names = "train_loader, valid_loader = data.train, data.valid"
        only = "train_loader = data.train"
        setup = [f"data = {call}", only if built.valid is None else names]
        return Loaders(setup, built, has_data=True)
    is_pair = isinstance(built, (tuple, list)) and len(built) == 2
    if is_pair and all(map(is_array, built)):  # inputs and targets, not loaders
        return of_tensors(call, built, used, expressions)
    data = as_data(built)
    if isinstance(built, (tuple, list)):
        names = "train_loader, _" if data.valid is None else "train_loader, valid_loader"
        return Loaders([f"{names} = {call}"], data)
    return Loaders([f"train_loader = {call}"], data)


def of_tensors(call: str, built: Any, used: Data, expressions: Expressions) -> Loaders:
    """Tensors: one batch, or batches as `Data.from_tensors` makes them."""
    loader = used.train
    if not isinstance(loader, TensorLoader):
        return Loaders([f"train_loader = [{call}]"], as_data(built), is_ours=True)
    tensors, _ = as_tensors(*built)
    if loader.shuffle and not loader.seed_was_given:
        expressions.problems.append(
            "data: Data.from_tensors has drawn its seed, which a script cannot repeat; pass seed= to it"
        )
    split = split_of(tensors, used)
    if split is None or loader.keys is not None:
        expressions.problems.append(
            f"data: {call} returns other tensors than those of learn.data, or they are split in another way; "
            "pass a function that returns the loaders, as in data='data.py:loaders'"
        )
        return Loaders([], used)
    is_plain = all(torch.is_tensor(each) for each in built)
    lines = [f"inputs, targets = {call}" if is_plain else f"inputs, targets = map(torch.as_tensor, {call})"]
    for name, given, found in zip(("inputs", "targets"), built, tensors, strict=True):
        if not torch.is_tensor(given) and torch.as_tensor(given).dtype != found.dtype:
            lines.append(f"{name} = {name}.to({found.dtype})")
    return tensor_loaders(lines, ("inputs", "targets"), used, split)


def split_of(tensors: tuple[Any, ...], used: Data) -> str | None:
    """The seed of the split as text; empty without validation; None if the tensors are not those."""
    loader: Any = used.train
    valid: Any = used.valid
    if valid is None:
        return "" if all(map(torch.equal, loader.tensors, tensors)) else None
    kept, held_out = draw_rows(len(tensors[0]), {"valid": valid.n_items}, loader.seed)
    same = [
        torch.equal(one[rows], other)
        for each, rows in ((loader, kept), (valid, held_out))
        for one, other in zip(tensors, each.tensors, strict=True)
    ]
    return str(loader.seed) if all(same) else None


def tensor_loaders(
    lines: list[str], names: tuple[str, ...], data: Data, seed: str, *, is_split: bool = False
) -> Loaders:
    """Loaders of tensors in memory, with the `lines` that assign the tensors to variables.

    The seed, as text, is that of the split and the order. If `is_split`, the lines make `train` and `valid`,
    two tuples of tensors.
    """
    train: Any = data.train
    valid: Any = data.valid
    lines = list(lines)
    if valid is not None and not is_split:
        generator = f"torch.Generator().manual_seed({seed})"
        lines.append(f"order = torch.randperm(len({names[0]}), generator={generator})")
        lines.append(f"held_out, kept = order[:{valid.n_items}], order[{valid.n_items}:]")
        for name, rows in (("train", "kept"), ("valid", "held_out")):
            lines.append(f"{name} = {', '.join(f'{each}[{rows}]' for each in names)}")
    elif not is_split:
        lines.append(f"train = {', '.join(names)}")
    helpers = {}
    if train.shuffle:
        name, text = texts.shuffled(train)
        helpers[name] = text
        lines.append(f"train_loader = {name}(train, {train.batch_size}, seed={seed or train.seed})")
    else:
        helpers["in_order"] = texts.IN_ORDER
        lines.append(f"train_loader = in_order(train, {train.batch_size})")
    if train.drop_last and not train.shuffle:
        lines.append(f"train_loader = train_loader[:{len(train)}]  # without a smaller last batch")
    if valid is not None:
        helpers["in_order"] = texts.IN_ORDER
        lines.append(f"valid_loader = in_order(valid, {valid.batch_size})")
    return Loaders(lines, data, helpers, is_ours=True)


# Our data sets


def article(built: Any) -> Loaders:
    """The article's points."""
    return Loaders(["train_loader = [article()]"], as_data(built), {"article": texts.ARTICLE}, is_ours=True)


def digits(built: Data, *, shape: str = "flat", seed: int | None = None, **_: Any) -> Loaders:
    """scikit-learn's digits."""
    lines = [
        "found = load_digits()",
        "images = torch.tensor(found.data, dtype=torch.float32) / 16",
        *(["images = images.reshape(-1, 1, 8, 8)"] if shape == "image" else []),
        "classes = torch.tensor(found.target)",
        *seed_lines(seed),
    ]
    return tensor_loaders(lines, ("images", "classes"), built, name_of_seed(seed))


def diabetes(built: Data, *, seed: int | None = None, **_: Any) -> Loaders:
    """scikit-learn's diabetes study."""
    assert built.valid is not None  # it always holds some people out
    lines = texts.DIABETES.splitlines()
    valid: Any = built.valid
    n_valid, name = valid.n_items, name_of_seed(seed)
    lines = [each.replace("N_VALID", str(n_valid)).replace("SPLIT_SEED", name) for each in lines]
    at = next(n for n, each in enumerate(lines) if each.startswith("order"))
    return tensor_loaders([*lines[:at], *seed_lines(seed), *lines[at:]], (), built, name, is_split=True)


def seed_lines(seed: int | None) -> list[str]:
    """The line that draws a seed, if none is given."""
    return ["split_seed = int(torch.randint(2**31, ()))"] if seed is None else []


def name_of_seed(seed: int | None) -> str:
    """The seed of split and order."""
    return "split_seed" if seed is None else literal(seed)


OURS: dict[Any, Callable[..., Loaders]] = {
    datasets.article: article,
    datasets.digits: digits,
    datasets.diabetes: diabetes,
}
