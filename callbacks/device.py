"""Place the model and each batch on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.contract import Callback, LearnerProtocol, Order


class DevicePlacement(Callback):
    """Do the operation `place`: move the model to a device once, and each batch as it comes.

    Batches may be tensors in tuples, lists, mappings, named tuples, dataclasses, objects with a
    `.to(device)`, and nests of these; what is no tensor stays as it is. Copies from pinned memory do not
    block. The optimizer's state follows the model. The model stays on the device after the fit.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, a `torch.device`, or `"auto"`, which takes an
            accelerator where there is one.

    Raises:
        ValueError: there is no such device on this machine.
    """

    order = Order.PREPARE

    def __init__(self, device: str | torch.device = "auto"):
        self.device = find_device(device)
        self._placed: nn.Module | None = None

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._place_model(learn)

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._place_model(learn)

    def place(self, learn: LearnerProtocol) -> None:
        if learn.model is not self._placed:
            self._place_model(learn)
        learn.batch = to_device(learn.batch, self.device)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._placed = None

    def _place_model(self, learn: LearnerProtocol) -> None:
        """Move the model, then the optimizer's state: `load_state_dict` puts each state where its "
        "parameter is."""
        if any(not is_on(tensor, self.device) for tensor in tensors_of(learn.model)):
            learn.model.to(self.device)
            if learn.optimizer is not None and learn.optimizer.state:
                learn.optimizer.load_state_dict(learn.optimizer.state_dict())
        self._placed = learn.model


def find_device(device: str | torch.device) -> torch.device:
    """The device that was meant, checked to be there.

    Raises:
        ValueError: not a device's name, or no such device on this machine.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return (
            torch.device("cpu")
            if there is None
            else torch.device(there.type, torch.accelerator.current_device_index())
        )
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"DevicePlacement({device!r}): no such device. Write 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'."
        ) from error
    if found.type not in ("cpu", "meta", *([there.type] if there else [])):
        raise ValueError(
            f"DevicePlacement({device!r}): this machine has {there.type if there else 'only a cpu'}. Write "
            f"'auto' to take what is there."
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"DevicePlacement({device!r}): this machine has {torch.cuda.device_count()} CUDA devices, "
            f"counted from 0."
        )
    return found


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of a nested batch on the device, without blocking; the nest keeps its types."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def map_tensors(batch: Any, function: Callable[[Tensor], Any]) -> Any:
    """Call `function` on every tensor of a nested batch; the nest keeps its types, what is no tensor stays "
    "as it is."""
    if isinstance(batch, Tensor):
        return function(batch)
    if type(batch) in (tuple, list):
        return type(batch)([map_tensors(item, function) for item in batch])
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple, or torch's PackedSequence
        return type(batch)(*(map_tensors(item, function) for item in batch))
    if isinstance(batch, Mapping):
        return type(batch)({key: map_tensors(item, function) for key, item in batch.items()})  # type: ignore[call-arg]
    if is_dataclass(batch) and not isinstance(batch, type):
        return type(batch)(
            **{field.name: map_tensors(getattr(batch, field.name), function) for field in fields(batch)}
        )
    if hasattr(batch, "to") and callable(batch.to):
        return function(batch)
    return batch


def tensors_of(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]


def is_on(tensor: Tensor, device: torch.device) -> bool:
    """Is it there? A device without an index is met by any of its kind."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
