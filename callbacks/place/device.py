"""Place the model and each batch on the device."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.modules import declared, modules_beside
from callbacks.model.declared import is_trained
from callbacks.optim.optimizers import members_of
from callbacks.optim.parameter_rules import parameters_of
from callbacks.optim.saved_state import put_optimizer, wrapped_in, wrapped_states
from callbacks.place.prefetch import Prefetch, lane_to


class DevicePlacement(Callback):
    """Implement the operation `place`: move the model to a device once, and each batch when it is fetched.

    Batches can be tensors in tuples, lists, mappings, named tuples, dataclasses, objects with a
    `.to(device)`, and nested combinations of these; other objects stay the same. Copies from pinned memory do
    not block. A loss that is a module, and the modules that callbacks declare in `state`, are moved with the
    model, and the state of the optimizers follows. All of them stay on the device after the fit.

    For a CUDA device, a batch is copied to pinned memory, and from there to the device on a separate stream
    while the device computes the previous batch; at most three batches are on the device. Nothing is fetched
    earlier than with `prefetch=False`, so every way of ending an epoch is the same, and so are the numbers.
    It does not help if each step waits for the device, as with a callback that reads a number in each batch
    or with `MixedPrecision("fp16")`.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, a `torch.device`, or `"auto"`, which uses an
            accelerator if there is one.
        prefetch: copy batches to a CUDA device on a separate stream. If False, a copy waits for the
            computations before it, and so does the host, unless the batch is in pinned memory. Other
            devices have no such stream.

    Raises:
        TypeError: `prefetch` is not True or False.
        ValueError: this machine does not have the device; with `prefetch`, a `DataLoader` with
            `pin_memory=True` overwrites the memory of one batch with another.
    """

    order = Order.PREPARE

    def __init__(
        self, device: str | torch.device = "auto", *, prefetch: bool = True, name: str | None = None
    ):
        super().__init__(name=name)
        self.device, self.prefetch = find_device(device), prefetch
        self._placed: nn.Module | None = None
        self._owned: list[Any] | None = None  # what was placed for this fit
        self._lane: Prefetch | None = None
        self._is_fitting = False
        self._is_quick = False  # is there nothing to do for tensors on the CPU?
        # on a machine without an accelerator, a prediction need not look where the parameters are
        self._is_alone = self.device.type == "cpu" and not torch.accelerator.is_available()

    def __getstate__(self) -> dict[str, Any]:
        """The attributes without the stream, which cannot be copied."""
        return {**vars(self), "_lane": None}

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._is_fitting = True
        self._open_lane()
        self._place_model(learn)

    def before_train(self, learn: LearnerProtocol) -> None:
        # the loss, or what a callback declares, may have been replaced by something on the CPU
        if self._owned is None or (self.device.type != "cpu" and not are_same(self._owned, owned(learn))):
            self._place_model(learn)

    before_validate = before_train  # outside a fit, it places the model each time

    def place(self, learn: LearnerProtocol) -> None:
        if self._is_fitting:
            if learn.model is not self._placed:
                self._place_model(learn)
        elif learn.batch_idx == 0:  # the model may have been moved since the last call
            self._lane = None
            self._place_model(learn)
        elif learn.batch_idx == 1:  # more than one batch
            self._open_lane()
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
        learn.batch = self._lane.place(batch, pins_new_tensors(learn), map_tensors, rest)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._placed, self._lane, self._is_fitting = None, None, False
        self._owned = None

    def _open_lane(self) -> None:
        lane = lane_to(self.device) if self.prefetch else None
        self._lane = None if lane is None else Prefetch(lane)
        self._is_quick = self._is_quick and lane is None

    def _place_model(self, learn: LearnerProtocol) -> None:
        self._is_quick = self._lane is None and self.device.type == "cpu"
        if self._is_alone and not self._is_fitting:
            return
        for module in (learn.model, *modules_beside(learn).values()):
            if any(tensor.device != self.device for tensor in tensors_of(module)):
                module.to(self.device)
        there = owned(learn)
        for each in there:
            if is_trained(each) and each.device != self.device:
                each.data = each.data.to(self.device)
        for each in there:
            if each is learn.optimizer or isinstance(each, torch.optim.Optimizer):
                place_optimizer(each)
        self._placed, self._owned = (learn.model, there) if self._is_fitting else (None, None)


def owned(learn: LearnerProtocol) -> list[Any]:
    """What is placed in a fit: model, loss, optimizer, and what callbacks and the learner declare."""
    return [learn.model, learn.loss_func, learn.optimizer, *(each for _, each in declared(learn))]


def are_same(some: Collection[Any], others: Collection[Any]) -> bool:
    """Do two collections hold the very same objects?"""
    return len(some) == len(others) and all(map(is_, some, others))


def find_device(device: str | torch.device) -> torch.device:
    """The named device, with its index, as in `tensor.device`."""
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        device = there or "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"DevicePlacement({device!r}): no such device. Use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'."
        ) from error
    if found.type in ("cpu", "meta"):
        return torch.device(found.type)
    if there is None or found.type != there.type:
        raise ValueError(
            f"DevicePlacement({device!r}): this machine has {there.type if there else 'only a CPU'}. "
            "Use 'auto' to choose a device that it has."
        )
    index = torch.accelerator.current_device_index() if found.index is None else found.index
    if index >= torch.accelerator.device_count():
        raise ValueError(
            f"DevicePlacement({device!r}): this machine has {torch.accelerator.device_count()} "
            f"{found.type} devices, counted from 0. Use {found.type!r} for the current one."
        )
    if found.type == "cuda":  # now, so that its random state is known to all that restore it
        torch.cuda.init()
    return torch.device(found.type, index)


def place_optimizer(optimizer: Any) -> None:
    """Move the state of an optimizer, or of each of several, to the device of its parameters."""
    for member in members_of(optimizer):
        each_of = (member, *(inner for *_, inner in wrapped_in(member)))
        if any(map(is_elsewhere, each_of)):  # numbers such as `step` may stay on the CPU: torch knows which
            put_optimizer(member, member.state_dict(), wrapped_states(member))


def is_elsewhere(optimizer: Any) -> bool:
    """Is a tensor of an optimizer's state on a different device from its parameter?"""
    state = getattr(optimizer, "state", None)
    if isinstance(state, Mapping) and all(isinstance(each, Tensor) for each in state):
        return any(
            isinstance(value, Tensor) and (value.ndim or name != "step") and value.device != parameter.device
            for parameter, values in state.items()
            if isinstance(values, dict)
            for name, value in values.items()
        )
    places = {each.device for each in parameters_of(optimizer)}
    return any(each.ndim and each.device not in places for each in tensors_in(optimizer.state_dict()))


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of a nested batch on the device; containers keep their types, and nothing is copied twice.

    Copies to an accelerator do not block. Copies to the CPU do, so that nobody reads them before they are
    complete.
    """
    if type(batch) is tuple:
        for item in batch:
            if type(item) is not Tensor or item.device != device:
                break
        else:
            return batch
    return map_tensors(batch, lambda leaf: move_leaf(leaf, device))


def move_leaf(leaf: Any, device: torch.device) -> Any:
    """A leaf of a nested batch on the device; it is not copied if it is there already."""
    if isinstance(leaf, Tensor):
        return leaf if leaf.device == device else leaf.to(device, non_blocking=device.type != "cpu")
    return leaf.to(device)


def pins_new_tensors(learn: LearnerProtocol) -> bool:
    """Do the batches come from a `DataLoader` whose thread pins new tensors each time?"""
    loader = None if learn.is_aside else learn.data.loaders.get(learn.pass_name)
    return isinstance(loader, DataLoader) and loader.pin_memory


def map_tensors(
    batch: Any, function: Callable[[Any], Any], leaves: Callable[[Any], bool] | None = None
) -> Any:
    """Call `function` on every leaf of a nested batch; containers are copied and keep their types.

    A leaf is a tensor, or an object with its own `.to`, such as torch's `PackedSequence`, or whatever
    `leaves` is true for. Other objects stay the same.
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
        new = copy.copy(batch)  # a copy, because its constructor may lack fields
        for field in fields(batch):  # a frozen dataclass refuses `setattr`
            object.__setattr__(new, field.name, map_tensors(getattr(batch, field.name), function, leaves))
        return new
    return batch


def map_mapping(
    batch: Mapping[Any, Any], function: Callable[[Any], Any], leaves: Callable[[Any], bool]
) -> Mapping[Any, Any]:
    """`map_tensors` for a mapping other than a dict; its attributes, such as a default factory, are kept."""
    if not isinstance(batch, MutableMapping):
        return type(batch)({key: map_tensors(item, function, leaves) for key, item in batch.items()})  # type: ignore[call-arg]
    new = copy.copy(batch)
    for key, item in batch.items():
        new[key] = map_tensors(item, function, leaves)
    return new


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """The tensors of a nested batch, one after the other; other objects are skipped."""
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
    """Is it a tensor, or an object that can move itself?

    Hugging Face's batches move in place, which would leave every batch of a list on the device. They are
    `UserDict`s and are treated as mappings.
    """
    return callable(getattr(item, "to", None)) and not isinstance(item, (UserDict, type))


def tensors_of(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]
