"""Schedulers of torch, and a learner whose optimizer has a momentum."""

from __future__ import annotations

from functools import partial

from torch.optim.lr_scheduler import (
    OneCycleLR,
    StepLR,
)

from callbacks import (
    TorchScheduler,
)

STEP_LR = partial(StepLR, step_size=2)


def one_cycle_of(total_steps: int, every: str = "1 step") -> TorchScheduler:
    return TorchScheduler(partial(OneCycleLR, max_lr=0.1, total_steps=total_steps), every=every)
