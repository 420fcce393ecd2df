"""What the tests of `learn.check()` share: a small learner, and a digest of all its state."""

from __future__ import annotations

import hashlib
import pickle
import random
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import ZeroGrad
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.01)


class OnceDifferentiable(torch.autograd.Function):
    """Double the inputs; there is no second derivative."""

    @staticmethod
    def forward(ctx, inputs):
        return inputs * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * 2


def learner_of(model=None, data=None, loss_func=F.mse_loss, optimizer=SGD, **options) -> Learner:
    torch.manual_seed(0)
    options.setdefault("defaults", (ZeroGrad,))
    data = data or Data([(torch.randn(8, 3), torch.randn(8, 1))] * 2)
    return Learner(nn.Linear(3, 1) if model is None else model, data, loss_func, optimizer, **options)


def checksum(learn: Learner) -> dict[str, str]:
    """A digest of everything that determines how a learner continues, by name."""
    optimizer, data = learn.optimizer, learn.data
    generators = [getattr(loader, "generator", None) for loader in (data.train, data.valid)]
    parts = {
        "weights": {name: each.detach().numpy().tobytes() for name, each in learn.model.named_parameters()},
        "buffers": {name: each.numpy().tobytes() for name, each in learn.model.named_buffers()},
        "frozen": [each.requires_grad for each in learn.model.parameters()],
        "gradients": [
            None if each.grad is None else each.grad.numpy().tobytes() for each in learn.model.parameters()
        ],
        "optimizer": None if optimizer is None else repr(optimizer.state_dict()),
        "groups": None
        if optimizer is None
        else [[id(p) for p in g["params"]] for g in optimizer.param_groups],
        "python": random.getstate(),
        "numpy": [np.asarray(part).tobytes() for part in np.random.get_state()[1:3]],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "generators": [each and each.get_state().numpy().tobytes() for each in generators],
        "loaders": [
            loader.state_dict() for loader in (data.train, data.valid) if hasattr(loader, "state_dict")
        ],
        "items": [tensor.numpy().tobytes() for tensor in getattr(data.train, "tensors", ())],
        "loss": [each.numpy().tobytes() for each in getattr(learn.loss_func, "buffers", tuple)()],
        "history": learn.history.state_dict(),
        "modes": [module.training for module in learn.model.modules()],
        "callbacks": [
            (id(callback), callback.state_dict(), sorted(vars(callback))) for callback in learn.callbacks
        ],
        "clock": [
            getattr(learn, name)
            for name in (
                "epoch",
                "n_epochs",
                "batch_idx",
                "n_batches",
                "global_step",
                "n_samples",
                "training",
            )
        ],
        "ending": [learn.fitting, learn.stop_reason, repr(learn.error), learn.results],
        "batch": [
            id(getattr(learn, name)) for name in ("batch", "inputs", "targets", "preds", "loss_grad", "_loss")
        ],
        "grad mode": torch.is_grad_enabled(),
    }
    return {name: hashlib.sha256(pickle.dumps(part)).hexdigest() for name, part in parts.items()}
