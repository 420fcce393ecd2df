"""Callbacks for recurrent models: reset the hidden state, and penalise activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.output import with_article
from callbacks.core.settings import check_number
from callbacks.place.device import map_tensors, tensors_in
from callbacks.place.hooks import Hooks

Hidden = list[tuple[dict[str, Any], str, Any]]  # the dict that holds it, its name there, a copy


class RNNReset(Callback):
    """Call the model's `reset()` at the start of each training and validation pass.

    This is for models that keep their hidden state from batch to batch, detached from the graph. If the model
    has no such method, it is called on all submodules that have one. After a validation within an epoch the
    training pass continues with its own hidden state. Hidden state in buffers and in plain attributes is part
    of snapshots and checkpoints. `learn.predict` resets nothing.

    Raises:
        ValueError: when the fit starts, nothing has a `reset()`.
    """

    order = Order.PREPARE

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._is_training = False  # is this a training pass?
        self._hidden: Hidden = []

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._is_training, self._hidden = False, []
        if not resettable(learn.model):
            raise ValueError(
                f"RNNReset: neither {type(learn.model).__name__} nor a submodule has a reset(). Write one "
                "that clears the hidden state, or leave RNNReset out."
            )

    def before_train(self, learn: LearnerProtocol) -> None:
        self._is_training = True
        reset(learn.model)

    def after_train(self, learn: LearnerProtocol) -> None:
        self._is_training = False

    def before_validate(self, learn: LearnerProtocol) -> None:
        if self._is_training:
            self._hidden = hidden_of(resettable(learn.model))
        reset(learn.model)

    def after_validate(self, learn: LearnerProtocol) -> None:
        for holder, name, value in self._hidden:
            holder[name] = value
        self._hidden = []

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self._is_training, self._hidden = False, []

    cleanup_fit = after_epoch


def resettable(model: nn.Module) -> list[nn.Module]:
    """The model if it has a method `reset`, otherwise its submodules that have one."""
    if callable(getattr(model, "reset", None)):
        return [model]
    return [module for module in model.modules() if callable(getattr(module, "reset", None))]


def reset(model: nn.Module) -> None:
    """Clear the hidden state."""
    for module in resettable(model):
        module.reset()  # type: ignore[operator]


def hidden_of(modules: Iterable[nn.Module]) -> Hidden:
    """Copies of the tensors of modules that are not parameters: buffers and plain attributes."""
    parts = {id(part): part for module in modules for part in module.modules()}
    found: Hidden = []
    for part in parts.values():
        plain = {name for name in vars(part) if name not in ("_parameters", "_buffers", "_modules")}
        holders = [(part._buffers, set(part._buffers)), (vars(part), plain)]
        for holder, names in holders:
            for name in names:
                tensors = list(tensors_in(holder[name]))
                if tensors and not any(isinstance(each, nn.Parameter) for each in tensors):
                    found.append((holder, name, map_tensors(holder[name], lambda each: each.clone())))
    return found


class RNNRegularizer(Callback):
    """Keep the activations of a recurrent layer small and slowly changing, by adding AR and TAR to the loss.

    AR is activation regularization, TAR is temporal activation regularization. The sum is
    `alpha * mean(h_dropped ** 2) + beta * mean((h[t + 1] - h[t]) ** 2)`, where `h` is the layer's output over
    time. It is added to `learn.loss_grad` in training; the reported loss does not include it.

    Args:
        alpha: weight of the activation regularisation, at least 0.
        beta: weight of the temporal activation regularisation, at least 0.
        rnn: the layer's name, as in `model.named_modules()`; by default the last `nn.RNN`, `nn.LSTM` or
            `nn.GRU`. Its output, or the first part of it, has the shape (items, steps, ...), or (steps,
            items, ...) for a layer with `batch_first=False`.
        dropout: the name of the dropout layer after it, whose output is `h_dropped`; by default that is `h`.

    Raises:
        ValueError: a setting is invalid; when training starts, the layer does not exist; at the first batch,
            it was not called.
        TypeError: at the first batch, its output is not a tensor over time.

    Source: Merity et al. 2017, arXiv:1708.02182, section 4.6, with means in place of L2 norms as in the
        authors' code.
    """

    order = Order.GRADIENT

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 1.0,
        *,
        rnn: str | None = None,
        dropout: str | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        for argument, value in (("alpha", alpha), ("beta", beta)):
            check_number("RNNRegularizer", argument, value, lambda x: x >= 0, "a number of at least 0")
        self.alpha, self.beta, self.rnn, self.dropout = alpha, beta, rnn, dropout
        self._hooks: list[Hooks] = []
        self._raw: tuple[Tensor, int] | None = None  # the layer's output, and its time dimension
        self._dropped: Tensor | None = None

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._layers(learn.model)

    def before_train(self, learn: LearnerProtocol) -> None:
        self.cleanup_fit(learn)
        rnn, dropout = self._layers(learn.model)
        self._hooks = [Hooks(rnn, self._see)]
        if dropout is not None:
            self._hooks.append(Hooks(dropout, self._see_dropped))

    def after_loss(self, learn: LearnerProtocol) -> None:
        if not learn.training:
            return
        if self._raw is None or (self.dropout is not None and self._dropped is None):
            raise ValueError(
                "RNNRegularizer: the layer was not called in this batch: pass one that the model calls, as "
                "in rnn=..., and let the model call it as a module, layer(x)."
            )
        (raw, time), dropped = self._raw, self._dropped
        kept = raw if dropped is None else dropped
        self._raw = self._dropped = None
        if self.alpha:
            learn.loss_grad = learn.loss_grad + self.alpha * kept.float().pow(2).mean()
        if self.beta and raw.shape[time] > 1:
            learn.loss_grad = learn.loss_grad + self.beta * raw.float().diff(dim=time).pow(2).mean()

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        for hooks in self._hooks:
            hooks.remove()
        self._hooks, self._raw, self._dropped = [], None, None

    after_train = cleanup_fit

    def _layers(self, model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
        """The recurrent layer, and the dropout layer if one was named."""
        found = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        if self.rnn is None and not found:
            raise ValueError(
                "RNNRegularizer: the model has no nn.RNN, nn.LSTM or nn.GRU: choose the layer whose "
                "output to keep small, as in rnn='encoder'."
            )
        rnn = found[-1] if self.rnn is None else layer_of(model, "rnn", self.rnn)
        return rnn, None if self.dropout is None else layer_of(model, "dropout", self.dropout)

    def _see(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not module.training:
            return
        output = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(output, Tensor) or output.ndim < 3:
            raise TypeError(
                f"RNNRegularizer: the layer returned {with_article(output)}, but a tensor of shape "
                "(items, steps, ...) is needed: pad sequences instead of packing them, or choose another "
                "layer."
            )
        self._raw = output, 1 if getattr(module, "batch_first", True) else 0

    def _see_dropped(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module.training:
            self._dropped = output


def layer_of(model: nn.Module, argument: str, name: str) -> nn.Module:
    """The submodule of that name."""
    parts = dict(model.named_modules())
    if not isinstance(name, str) or name not in parts:
        names = ", ".join(each for each in parts if each)
        raise ValueError(f"RNNRegularizer({argument}={name!r}): no such layer. Available: {names}.")
    return parts[name]
