"""Layers whose mode differs from the model's: frozen batch norm in training, dropout in prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.output import with_article
from callbacks.core.registry import run_forward
from callbacks.core.settings import check_count


class BatchNormFreeze(Callback):
    """Keep batch norm layers in evaluation mode during training, so that their statistics do not change.

    If only the last layers of a pretrained model are trained, the statistics of its other layers would still
    change, because they are not parameters and ignore `requires_grad`. The layers are looked up at each
    training pass, so a layer that is unfrozen between epochs trains from then on. The modes are restored
    after the fit.

    Args:
        layers: `"frozen"`: layers whose weight and bias do not require a gradient; `"all"`: every layer.

    Raises:
        ValueError: `layers` is neither.
    """

    order = Order.PREPARE

    def __init__(self, layers: Literal["frozen", "all"] = "frozen", *, name: str | None = None):
        super().__init__(name=name)
        self.layers = layers
        self._held: list[nn.Module] = []
        self._has_looked = False  # still False if this was added in the middle of a pass

    def before_train(self, learn: LearnerProtocol) -> None:
        self._look(learn)

    def _look(self, learn: LearnerProtocol) -> None:
        self._let_go(learn)
        self._has_looked = True
        self._held = [layer for layer in self._found(learn.model) if layer.training]
        self._hold()

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            if not self._has_looked:
                self._look(learn)
            self._hold()  # the loop or a callback may have put the whole model into training mode

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._let_go(learn)
        self._has_looked = False

    def _found(self, model: nn.Module) -> list[nn.Module]:
        norms: list[nn.Module] = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        return norms if self.layers == "all" else [layer for layer in norms if is_frozen(layer)]

    def _hold(self) -> None:
        for layer in self._held:
            layer.training = False

    def _let_go(self, learn: LearnerProtocol) -> None:
        for layer in self._held:
            layer.training = learn.model.training
        self._held = []


def is_frozen(layer: nn.Module) -> bool:
    """Does it have parameters, and does none of them require a gradient?"""
    parameters = list(layer.parameters(recurse=False))
    return bool(parameters) and not any(each.requires_grad for each in parameters)


class MCDropout(Callback):
    """Predict several times with dropout on, and return the mean of the predictions and their spread.

        mean, spread = MCDropout(50).predict(learn, inputs)

    As a callback of the learner it makes `learn.predict` and `learn.get_preds` return the mean, and keeps the
    standard deviation in `spread`. It does not change fits and `learn.validate`. Only dropout layers are in
    training mode; dropout inside other layers, such as `nn.LSTM(dropout=)`, stays off. Like every prediction,
    it restores the random state: the same inputs give the same numbers.

    Args:
        n: passes for each batch, at least 2.
        activation: a function of the model's output that returns the tensor to average, as
            `partial(torch.softmax, dim=1)` for class probabilities.

    Attributes:
        spread: the standard deviation over the passes (with n - 1), on the CPU, in the shape of the last
            predictions; None before.

    Raises:
        ValueError: a setting is invalid; or, in a prediction, the model has no dropout layer.
        TypeError: the output to average is not a tensor of floats.

    Source: Gal and Ghahramani 2016, arXiv:1506.02142, section 4: the mean is their equation 6.
    """

    order = Order.PREPARE

    def __init__(
        self, n: int = 20, *, activation: Callable[[Any], Tensor] | None = None, name: str | None = None
    ):
        super().__init__(name=name)
        check_count("MCDropout", "n", n, 2)
        if activation is not None and not callable(activation):
            raise TypeError(f"MCDropout(activation={activation!r}): pass a function of the model's output.")
        self.n, self.activation = n, activation
        self._spreads: list[Tensor] = []
        self._validated: dict[str, Any] | None = None  # results of the validation; a prediction has its own

    @property
    def spread(self) -> Tensor | None:
        """The standard deviation of the last predictions."""
        return torch.cat(self._spreads) if self._spreads else None

    def predict(self, learn: LearnerProtocol, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the predictions for a batch of inputs.

        Args:
            learn: a learner; this need not be one of its callbacks.
            inputs: as for `learn.predict`.
        """
        is_there = self in learn.callbacks
        if not is_there:
            learn.add_callbacks(self)
        try:
            mean = learn.predict(inputs)
        finally:
            if not is_there:
                learn.remove_callbacks(self)
        return mean, self._spreads[0]

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._validated = learn.results

    def after_pred(self, learn: LearnerProtocol) -> None:
        if learn.training or learn.results is self._validated:
            return
        if learn.batch_idx == 0:
            self._spreads = []
        found = torch.stack(self._passes(learn))
        learn.preds = found.mean(0)
        self._spreads.append(found.std(0).cpu())

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._validated = None

    def _passes(self, learn: LearnerProtocol) -> list[Tensor]:
        """The tensors to average, one per pass."""
        layers = [layer for layer in learn.model.modules() if isinstance(layer, _DropoutNd)]
        if not layers:
            raise ValueError(
                "MCDropout: the model has no dropout layer, so all passes would be equal: add nn.Dropout to "
                "the model, and train with it."
            )
        modes, found = [layer.training for layer in layers], []
        try:
            for layer in layers:
                layer.training = True
            for _ in range(self.n):
                run_forward(learn)
                found.append(self._output(learn.preds))
        finally:
            for layer, mode in zip(layers, modes, strict=True):
                layer.training = mode
        return found

    def _output(self, preds: Any) -> Tensor:
        """The tensor to average."""
        output = preds if self.activation is None else self.activation(preds)
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise TypeError(
                f"MCDropout: the output is {with_article(output)}, but only a tensor of floats can be "
                "averaged: pass activation=, a function that returns one, such as lambda output: "
                "output.logits.softmax(1)."
            )
        return output
