# pyright: basic, reportMissingImports=false
"""Lightning: `Trainer()` with its defaults, and without logger, checkpoints, progress bar and summary."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from works import Work

PACKAGE = "lightning"


class EmptyCallback(Callback):
    """Called after each batch."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        pass


class Module(LightningModule):
    """The work's model, loss and optimizer."""

    def __init__(self, work: Work):
        super().__init__()
        self.model, self.work = work.make_model(), work

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        return self.work.loss_func(self.model(inputs), targets)

    def configure_optimizers(self) -> Any:
        return self.work.optimizer(self.parameters())


def fit(work: Work, **options: Any) -> nn.Module:
    module = Module(work)
    empty_callbacks: list[Callback] = [EmptyCallback() for _ in range(work.n_callbacks)]
    trainer = Trainer(
        max_epochs=work.n_epochs, accelerator="cpu", devices=1, callbacks=empty_callbacks, **options
    )
    trainer.fit(module, work.data())
    return module.model


def off(work: Work) -> nn.Module:
    return fit(
        work,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


VARIANTS = {"defaults": fit, "off": off}
