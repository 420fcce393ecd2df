"""Place the model and each batch on the device."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.modules import declared, modules_beside
from callbacks.core.warning import warn
from callbacks.optim.optimizers import members_of
from callbacks.optim.shares import parameters_of
from callbacks.place.prefetch import Prefetch, lane_to


class DevicePlacement(Callback):
    """Do the operation `place`: move the model to a device once, and each batch as it comes.

    Batches may be tensors in tuples, lists, mappings, named tuples, dataclasses, objects with a
    `.to(device)`, and nests of these; what is no tensor stays as it is. Copies from pinned memory do not
    block. A loss that is a module, and the modules that callbacks declare in `state`, are moved with the
    model, and the optimizers' state follows. All of them stay on the device after the fit.

    With `prefetch`, a batch is copied to pinned memory and from there to a CUDA device on a stream of its
    own, while the device computes the batch before; at most three batches are on the device. Nothing is
    fetched earlier than without, so every way of ending an epoch is the same, and so are the numbers. It
    gains nothing where each step waits for the device: a plug-in that reads a number in each batch,
    `MixedPrecision("fp16")`.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, a `torch.device`, or `"auto"`, which takes an
            accelerator where there is one.
        prefetch: send batches on a stream of their own; on a CPU it changes nothing.

    Raises:
        ValueError: there is no such device on this machine; in a fit with `prefetch`, a `DataLoader` of
            `pin_memory=True` fills the memory of one batch with another.
    """

    order = Order.PREPARE

    def __init__(
        self, device: str | torch.device = "auto", *, prefetch: bool = False, name: str | None = None
    ):
        super().__init__(name=name)
        if not isinstance(prefetch, bool):
            raise TypeError(f"DevicePlacement(prefetch={prefetch!r}): write True or False.")
        self.device, self.prefetch = find_device(device), prefetch
        self._placed: nn.Module | None = None
        self._owned: Owned | None = None  # what was placed for this fit
        self._lane: Prefetch | None = None
        self._is_fitting = False
        self._is_quick = False  # is there nothing to do for plain tensors on the CPU?

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._is_fitting = True
        self._open_lane()
        self._place_model(learn)
        if self.prefetch and self._lane is None and self.device.type not in ("cpu", "meta"):
            warn(
                f"DevicePlacement(prefetch=True): on {self.device.type} batches are placed as without it; it "
                "is for CUDA."
            )

    def before_train(self, learn: LearnerProtocol) -> None:
        # a loss, or what a callback declares, may have been replaced; what is new is on the CPU
        if self._owned is None or (self.device.type != "cpu" and not self._owned.are_of(learn)):
            self._place_model(learn)

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._open_lane()
        self._place_model(learn)

    def after_validate(self, learn: LearnerProtocol) -> None:
        if not self._is_fitting:
            self._lane = None

    def place(self, learn: LearnerProtocol) -> None:
        # without a fit, once for each call: the model may have been moved since the one before
        if learn.model is not self._placed and (self._is_fitting or learn.batch_idx == 0):
            self._place_model(learn)
        batch = learn.batch
        if self._is_quick and type(batch) is tuple:
            for item in batch:
                if type(item) is not Tensor or not item.is_cpu:
                    break
            else:
                return
        if self._lane is None:
            learn.batch = to_device(batch, self.device)
            return
        rest = partial(move_leaf, device=self.device)
        learn.batch = self._lane.place(batch, gives_fresh(learn), map_tensors, rest)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._placed, self._lane, self._is_fitting = None, None, False
        self._owned = None

    def _open_lane(self) -> None:
        if self.prefetch and self._lane is None:
            lane = lane_to(self.device)
            self._lane = None if lane is None else Prefetch(lane)

    def _place_model(self, learn: LearnerProtocol) -> None:
        for module in (learn.model, *modules_beside(learn).values()):
            if any(tensor.device != self.device for tensor in tensors_of(module)):
                module.to(self.device)
        there = Owned(learn)
        for each in there.things:
            if each is learn.optimizer or isinstance(each, torch.optim.Optimizer):
                place_optimizer(each)
        self._placed, self._owned = (learn.model, there) if self._is_fitting else (None, None)
        self._is_quick = self._lane is None and self.device.type == "cpu"


class Owned:
    """What is placed in a fit: model, loss, optimizer, and what is declared beside them."""

    def __init__(self, learn: LearnerProtocol):
        self.things: list[Any] = [learn.model, learn.loss_func, learn.optimizer]
        self.things += [each for _, each in declared(learn)]

    def are_of(self, learn: LearnerProtocol) -> bool:
        """Has the learner the same things still?"""
        now = Owned(learn).things
        return len(now) == len(self.things) and all(map(is_, now, self.things))


def find_device(device: str | torch.device) -> torch.device:
    """The device that was meant, checked to be there; with its index, as tensors tell theirs.

    Raises:
        ValueError: not a device's name, or no such device on this machine.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        device = there or "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"DevicePlacement({device!r}): no such device. Write 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'."
        ) from error
    if found.type in ("cpu", "meta"):
        return torch.device(found.type)
    if there is None or found.type != there.type:
        raise ValueError(
            f"DevicePlacement({device!r}): this machine has {there.type if there else 'only a cpu'}. "
            "Write 'auto' to take what is there."
        )
    index = torch.accelerator.current_device_index() if found.index is None else found.index
    if index >= torch.accelerator.device_count():
        raise ValueError(
            f"DevicePlacement({device!r}): this machine has {torch.accelerator.device_count()} {found.type} "
            f"devices, counted from 0. Write {found.type!r} for the current one."
        )
    return torch.device(found.type, index)


def place_optimizer(optimizer: Any) -> None:
    """Move the state of an optimizer, or of each of several, to where its parameters are, where it is not."""
    for member in members_of(optimizer):
        if is_elsewhere(member):  # numbers such as `step` may stay on the CPU: load_state_dict knows which
            member.load_state_dict(member.state_dict())


def is_elsewhere(optimizer: Any) -> bool:
    """Is a tensor of an optimizer's state on a different device from its parameter?"""
    state = getattr(optimizer, "state", None)
    if isinstance(state, Mapping) and all(isinstance(each, Tensor) for each in state):
        return any(
            isinstance(value, Tensor) and value.ndim and value.device != parameter.device
            for parameter, values in state.items()
            if isinstance(values, dict)
            for value in values.values()
        )
    places = {each.device for each in parameters_of(optimizer)}
    return any(each.ndim and each.device not in places for each in tensors_in(optimizer.state_dict()))


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of a nested batch on the device; the nest keeps its types, what is there is not copied.

    Copies to an accelerator do not block; copies to the CPU do, or they would be read before they are whole.
    """
    if type(batch) is tuple:
        for item in batch:
            if type(item) is not Tensor or item.device != device:
                break
        else:
            return batch
    return map_tensors(batch, lambda leaf: move_leaf(leaf, device))


def move_leaf(leaf: Any, device: torch.device) -> Any:
    """A leaf of a nested batch on the device; what is there is not copied."""
    if isinstance(leaf, Tensor):
        return leaf if leaf.device == device else leaf.to(device, non_blocking=device.type != "cpu")
    return leaf.to(device)


def gives_fresh(learn: LearnerProtocol) -> bool:
    """Does the data under way give pinned tensors of a `DataLoader`, whose thread makes them anew?"""
    loader = learn.data.train if learn.training else learn.data.valid
    return isinstance(loader, DataLoader) and loader.pin_memory


def map_tensors(
    batch: Any, function: Callable[[Any], Any], leaves: Callable[[Any], bool] | None = None
) -> Any:
    """Call `function` on every leaf of a nested batch; the nest keeps its types and is copied, not changed.

    A leaf is a tensor, or an object that has a `.to` of its own, as torch's `PackedSequence`. What is neither
    leaf nor nest stays as it is.

    Args:
        batch: a nest, or a leaf.
        function: what to do with each leaf.
        leaves: which objects other than tensors are leaves; `is_leaf` by default.
    """
    leaves = leaves or is_leaf
    if isinstance(batch, Tensor):
        return function(batch)
    if type(batch) in (tuple, list):
        return type(batch)([map_tensors(item, function, leaves) for item in batch])
    if type(batch) is dict:
        return {key: map_tensors(item, function, leaves) for key, item in batch.items()}
    if leaves(batch):
        return function(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*(map_tensors(item, function, leaves) for item in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)([map_tensors(item, function, leaves) for item in batch])
    if isinstance(batch, Mapping):
        return map_mapping(batch, function, leaves)
    if is_dataclass(batch) and not isinstance(batch, type):
        new = copy.copy(batch)  # not made anew: fields may be missing in its constructor
        for field in fields(batch):  # past the `__setattr__` of a frozen one
            object.__setattr__(new, field.name, map_tensors(getattr(batch, field.name), function, leaves))
        return new
    return batch


def map_mapping(
    batch: Mapping[Any, Any], function: Callable[[Any], Any], leaves: Callable[[Any], bool]
) -> Mapping[Any, Any]:
    """`map_tensors` for a mapping other than a dict; what else it has, as a default factory, is kept."""
    if not isinstance(batch, MutableMapping):
        return type(batch)({key: map_tensors(item, function, leaves) for key, item in batch.items()})  # type: ignore[call-arg]
    new = copy.copy(batch)
    for key, item in batch.items():
        new[key] = map_tensors(item, function, leaves)
    return new


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """The tensors of a nested batch, one after the other; objects other than nests are not looked into."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from tensors_in(item)
    elif isinstance(batch, (tuple, list)):
        for item in batch:
            yield from tensors_in(item)
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from tensors_in(getattr(batch, field.name))


def is_leaf(item: Any) -> bool:
    """A tensor, or an object that moves itself.

    Hugging Face's batches do too, but in place, which would leave every batch of a list on the device: they
    are `UserDict`s and are treated as mappings.
    """
    return callable(getattr(item, "to", None)) and not isinstance(item, (UserDict, type))


def tensors_of(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]
