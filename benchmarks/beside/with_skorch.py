# pyright: basic, reportMissingImports=false
"""skorch: `NeuralNet` with its timer, scores and printed table, and with `callbacks="disable"`."""

from __future__ import annotations

from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn
from works import Work

PACKAGE = "skorch"
LOSSES = {"mse_loss": nn.MSELoss, "cross_entropy": nn.CrossEntropyLoss}


class EmptyCallback(Callback):
    """Called after each batch."""

    def on_batch_end(self, net: Any, **keywords: Any) -> None:
        pass


class Net(NeuralNet):
    """Goes through the work's batches as they are."""

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        return self.batches


def net(work: Work, **options: Any) -> nn.Module:
    batches = work.data()
    net = Net(
        work.make_model(),
        LOSSES[work.loss_func.__name__],
        optimizer=torch.optim.SGD,
        lr=work.rate,
        max_epochs=work.n_epochs,
        train_split=None,
        **options,
    )
    net.batches = batches
    net.fit(torch.utils.data.TensorDataset(*work.items), y=None)
    return net.module_


def empty_callbacks(work: Work) -> list[tuple[str, Callback]]:
    return [(f"empty_{number}", EmptyCallback()) for number in range(work.n_callbacks)]


def defaults(work: Work) -> nn.Module:
    return net(work, callbacks=empty_callbacks(work))


def off(work: Work) -> nn.Module:
    """Switch all of skorch's own callbacks off; if there are others, each by its name."""
    if not work.n_callbacks:
        return net(work, callbacks="disable")
    own = ("epoch_timer", "train_loss", "valid_loss", "print_log")
    return net(work, callbacks=empty_callbacks(work), **{f"callbacks__{name}": None for name in own})


VARIANTS = {"defaults": defaults, "off": off}
