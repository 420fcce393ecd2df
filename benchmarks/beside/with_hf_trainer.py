# pyright: basic, reportMissingImports=false
"""Hugging Face's Trainer: with its defaults, and without logs, checkpoints and progress bar.

Both use the work's optimizer, a constant rate and the work's order of items, so that they take the same
steps. Gradient clipping, a default that costs more time, is off.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.optimization import get_constant_schedule
from works import Work

PACKAGE = "transformers"


class EmptyCallback(TrainerCallback):
    """Called after each batch."""

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        pass


class WithLoss(nn.Module):
    """The work's model in the form that the Trainer expects: it computes its own loss."""

    def __init__(self, work: Work):
        super().__init__()
        self.model, self.loss_func = work.make_model(), work.loss_func

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        preds = self.model(inputs)
        return {"loss": self.loss_func(preds, labels), "logits": preds}


def fit(work: Work, **options: Any) -> nn.Module:
    data, model = work.data(keyed=True), WithLoss(work)
    optimizer = work.optimizer(model.parameters())

    class GivenBatches(Trainer):
        """Takes the work's batches as they are."""

        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(data)

    trainer = GivenBatches(
        model,
        TrainingArguments(
            "hf_trainer",
            num_train_epochs=work.n_epochs,
            use_cpu=True,
            max_grad_norm=0,
            accelerator_config={"use_seedable_sampler": False},
            **options,
        ),
        train_dataset=getattr(data, "dataset", data),
        optimizers=(optimizer, get_constant_schedule(optimizer)),
        callbacks=[EmptyCallback() for _ in range(work.n_callbacks)],
    )
    trainer.train()
    return model.model


def off(work: Work) -> nn.Module:
    return fit(work, logging_strategy="no", save_strategy="no", disable_tqdm=True, report_to="none")


VARIANTS = {"defaults": fit, "off": off}
