"""Handwritten digits: an MLP and a small conv net on scikit-learn's 1797 images of 8 x 8 pixels.

A fifth of the images is held out for validation. Training stops when the validation loss has not fallen
for three epochs, and the best weights are restored.

Prints the losses and accuracy of each epoch, then the validation accuracy: 0.98 for the MLP, 0.99 for the
conv net. (The same 359 images also selected the epoch; with other seeds the MLP has between 0.95 and
0.99.)
"""

from functools import partial

import torch
from digits_models import MLP, ConvNet
from sklearn.datasets import load_digits
from torch import nn

from callbacks import EarlyStopping, accuracy
from learner import Data, Learner


def main() -> dict[str, float]:
    """Train both; return their accuracies by name."""
    accuracies = {}
    for make_model in MLP, ConvNet:
        learn = make_learner(make_model)
        learn.fit(30)
        accuracies[make_model.__name__] = learn.validate()["valid_accuracy"]
    for name, value in accuracies.items():
        print(f"{name}: accuracy {value:.3f}")
    return accuracies


def make_learner(make_model: type[nn.Module], **options) -> Learner:
    """A learner with a new model, the same one each time."""
    torch.manual_seed(0)
    return Learner(
        make_model(),
        load_data(),
        nn.CrossEntropyLoss(),
        partial(torch.optim.Adam, lr=3e-3),
        callbacks=[EarlyStopping("valid_loss", patience=3)],
        metrics=[accuracy],
        **options,
    )


def load_data() -> Data:
    """Images of shape (items, 64) with values in [0, 1], and classes 0 to 9; a fifth is held out."""
    images, classes = load_digits(return_X_y=True)
    return Data.from_tensors(images / 16, classes, batch_size=64, valid=0.2, seed=0)


if __name__ == "__main__":
    main()
