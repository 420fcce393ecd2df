# pyright: basic, reportMissingImports=false
"""poutyne: `fit_generator` with its defaults, and without its progress bar."""

from __future__ import annotations

from typing import Any

from poutyne import Callback, Model
from torch import nn
from works import Work

PACKAGE = "poutyne"


class EmptyCallback(Callback):
    """Called after each batch."""

    def on_train_batch_end(self, batch_number: int, logs: dict[str, Any]) -> None:
        pass


def fit(work: Work, **options: Any) -> nn.Module:
    network = work.make_model()
    model = Model(network, work.optimizer(network.parameters()), work.loss_func)
    empty_callbacks = [EmptyCallback() for _ in range(work.n_callbacks)]
    model.fit_generator(work.data(), epochs=work.n_epochs, callbacks=empty_callbacks, **options)
    return network


VARIANTS = {"defaults": fit, "off": lambda work: fit(work, verbose=False)}
