# pyright: basic, reportMissingImports=false
"""Keras on PyTorch: `fit` as it comes, and with `verbose=0` and no scaling of the loss.

The model is the work's own, in a `TorchModuleWrapper`; loss and optimizer are Keras's.
"""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras.layers import TorchModuleWrapper
from torch import nn
from works import Work

PACKAGE = "keras"


class Listener(keras.callbacks.Callback):
    """Called after each batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


class Wrapped(keras.Model):
    """The work's model as one layer."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.layer = TorchModuleWrapper(module)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)


def fit(work: Work, auto_scale_loss: bool = True, **options: Any) -> nn.Module:
    torch_model, data = work.make_model(), work.data()
    model = Wrapped(torch_model)
    of_classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(learning_rate=work.rate),
        of_classes if work.loss_func.__name__ == "cross_entropy" else "mse",
        auto_scale_loss=auto_scale_loss,
    )
    listeners = [Listener() for _ in range(work.n_listeners)]
    if work.batch_size:
        model.fit(data, epochs=work.n_epochs, callbacks=listeners, **options)
    else:  # a list is no data set to Keras, a generator is; it must not end between epochs
        endless = (batch for _ in range(work.n_epochs) for batch in data)
        n_steps = len(data)
        model.fit(endless, epochs=work.n_epochs, steps_per_epoch=n_steps, callbacks=listeners, **options)
    return torch_model


VARIANTS = {"defaults": fit, "off": lambda work: fit(work, auto_scale_loss=False, verbose=0)}
