"""The training of `shapes_loop.py` with a Learner: the same numbers, to the last digit.

docs/move_your_loop.md compares both part by part. Both need tensorboard.

Prints the losses, accuracy and learning rate of each epoch. Starts again where it was interrupted.
"""

from functools import partial

import torch
from shapes import ShapeNet, make_loaders
from shapes_loop import warmup_cosine
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from callbacks import (
    Checkpoint,
    EarlyStopping,
    GradientClip,
    MixedPrecision,
    TensorBoard,
    TorchScheduler,
    accuracy,
)
from learner import Data, Learner


def main(folder="runs/shapes_learner", n_epochs=12, patience=4):
    """Train; return the learner, whose model has the best weights."""
    torch.manual_seed(0)
    train_loader, valid_loader = make_loaders()
    share = partial(warmup_cosine, n_steps=n_epochs * len(train_loader))
    learn = Learner(
        ShapeNet(),
        Data(train_loader, valid_loader),
        partial(F.cross_entropy, label_smoothing=0.1),
        partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.05),
        decay_norms=False,
        metrics=[accuracy],
        callbacks=[
            MixedPrecision("bf16"),
            GradientClip(1.0),
            TorchScheduler(partial(LambdaLR, lr_lambda=share), every="1 step"),
            TensorBoard(folder),
            EarlyStopping(patience=patience),
            Checkpoint(folder, best="valid_loss"),
        ],
    )
    learn.fit(n_epochs, resume="auto")
    return learn


if __name__ == "__main__":
    main()
