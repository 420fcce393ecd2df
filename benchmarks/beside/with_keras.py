# pyright: basic, reportMissingImports=false
"""Keras on PyTorch: `fit` with its defaults, and with `verbose=0` and without loss scaling.

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


class EmptyCallback(keras.callbacks.Callback):
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
    empty_callbacks = [EmptyCallback() for _ in range(work.n_callbacks)]
    if work.batch_size:
        model.fit(data, epochs=work.n_epochs, callbacks=empty_callbacks, **options)
    else:  # Keras accepts a generator, not a list; it must not end between epochs
        endless = (batch for _ in range(work.n_epochs) for batch in data)
        n_steps = len(data)
        model.fit(
            endless, epochs=work.n_epochs, steps_per_epoch=n_steps, callbacks=empty_callbacks, **options
        )
    return torch_model


VARIANTS = {"defaults": fit, "off": lambda work: fit(work, auto_scale_loss=False, verbose=0)}
