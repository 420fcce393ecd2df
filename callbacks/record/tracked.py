"""What a tracker keeps of a run in addition to its numbers: settings and files."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from callbacks.core.contract import LearnerProtocol
from callbacks.core.given import paths_of
from callbacks.core.modules import plain_name
from callbacks.core.registry import describe


def settings_of(learn: LearnerProtocol) -> dict[str, Any]:
    """The composition and the environment, as numbers and text by name: `{"model": "Linear", ...}`."""
    given = [each for each in learn.callbacks if not type(each).__module__.startswith("learner.")]
    parameters = [each for each in learn.model.parameters() if not is_lazy(each)]
    found = {
        "model": type(learn.model).__name__,
        "n_parameters": sum(each.numel() for each in parameters),
        "loss": "" if learn.loss_func is None else plain_name(learn.loss_func),
        "optimizer": type(learn.optimizer).__name__,
        "n_epochs": learn.n_epochs,
        "callbacks": ", ".join(map(describe, given)),
        "device": str(learn.device),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    groups = learn.optimizer.param_groups
    plain = {name: value for name, value in groups[0].items() if isinstance(value, (int, float, str))}
    return {**found, **{f"optimizer_{name}": value for name, value in plain.items()}}


def files_of(learn: LearnerProtocol) -> list[Path]:
    """The files that callbacks of the fit have written, without those in folders."""
    paths = [Path(path) for each in learn.callbacks for path in paths_of(each).values()]
    return [path for path in paths if path.is_file()]
