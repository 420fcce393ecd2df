# pyright: basic, reportMissingImports=false
"""fastai: the default `Learner`, and one without recorder, progress bar and casting.

Its own optimizers are not PyTorch's; `OptimWrapper` makes it use the same one as the other frameworks.
"""

from __future__ import annotations

from functools import partial

import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.optimizer import OptimWrapper
from torch import nn
from works import Work

PACKAGE = "fastai"


class EmptyCallback(Callback):
    """Called after each batch."""

    def after_batch(self):
        pass


def fit(work: Work, without: list[type[Callback]]) -> nn.Module:
    learn = Learner(
        DataLoaders(work.data(), []),  # no validation
        work.make_model(),
        loss_func=work.loss_func,
        opt_func=partial(OptimWrapper, opt=torch.optim.SGD),
        lr=work.rate,
    )
    learn.remove_cbs([each for each in learn.cbs if type(each) in without])
    learn.add_cbs([EmptyCallback() for _ in range(work.n_callbacks)])
    learn.fit(work.n_epochs)
    return learn.model


VARIANTS = {
    "defaults": lambda work: fit(work, []),
    "off": lambda work: fit(work, [Recorder, ProgressCallback, CastToTensor]),
}
