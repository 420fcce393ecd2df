"""Numbers of a replayed step: those of the batch, of each layer, and of the gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.model.finite import is_finite
from callbacks.place.device import tensors_in


class Notes(Callback):
    """Records numbers of the batch, of each layer's output, of the loss, and of the gradients."""

    only_observes = True
    order = Order.PREPARE  # before callbacks that end the step

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, ...]] = []
        self.first_bad: int | None = None
        self.gradients = ""
        self.is_forward_done = False

    def before_batch(self, learn: LearnerProtocol) -> None:
        self.take("inputs", learn.inputs)
        self.take("targets", learn.targets)

    def after_loss(self, learn: LearnerProtocol) -> None:
        self.take("loss", learn.loss)
        self.is_forward_done = True

    def take_layer(self, name: str, module: Any, output: Any) -> None:
        if not self.is_forward_done:  # StopOnNaN runs the model again
            self.take(f"{name or 'model'} ({type(module).__name__})", output)

    def take(self, name: str, value: Any) -> None:
        for tensor in tensors_in(value):
            if self.first_bad is None and not is_finite(tensor):
                self.first_bad = len(self.rows)
            self.rows.append((name, *numbers_of(tensor.detach())))

    def after_backward(self, learn: LearnerProtocol) -> None:
        gradients = [(name, each.grad) for name, each in learn.model.named_parameters()]
        bad = [name for name, grad in gradients if grad is not None and not is_finite(grad)]
        shown = ", ".join(map(repr, bad[::-1][:3]))  # in the backward pass the last layer's are first
        self.gradients = (
            f"gradients not finite, the first ones in {shown}" if bad else "all gradients are finite"
        )

    def __str__(self) -> str:
        head = ("what", "shape", "min", "max", "not finite")
        rows = [head, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        if self.first_bad is not None:
            lines[self.first_bad + 1] += "  <- the first"
        return "\n".join([*(line.rstrip() for line in lines), *([self.gradients] * bool(self.gradients))])


def numbers_of(tensor: Tensor) -> tuple[str, str, str, str]:
    """Shape, smallest and largest finite number, and the share of numbers that are not finite."""
    flat = tensor._values() if tensor.is_sparse else tensor
    good = flat[flat.isfinite()]
    n_bad = flat.numel() - good.numel()
    share = f"{n_bad / flat.numel():.1%}" if n_bad else "0"
    if not good.numel() or good.is_complex():
        return str(tuple(tensor.shape)), "-", "-", share
    least, greatest = (f"{each.item():.4g}" for each in good.aminmax())
    return str(tuple(tensor.shape)), least, greatest, share
