"""A contrastive model (SimCLR, Chen et al. 2020, equation 1): find the other view of the same image.

The only special part is the operation `forward`, which makes two views of each image. Training uses no
labels.

Prints the share of held-out digits whose nearest neighbour in the training data has the same class.
Neighbours are found with the network's 32 outputs, before and after training. (With all 64 pixels the
share is 0.98.)
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from learner import Learner
from learner.data.datasets import digits


class SimCLR(Learner):
    """Learns to find, for each view, the other view of the same image."""

    def forward(self):
        (images,) = self.inputs
        views = [view(images) for _ in range(2)] if self.training else [images] * 2
        self.preds = self.model(torch.cat(views))


def view(images):
    """Images moved by up to a pixel, brighter or darker, with noise: changes that keep the digit."""
    steps = torch.randint(-1, 2, (len(images), 2)).tolist()
    moved = torch.stack([image.roll(step, (1, 2)) for image, step in zip(images, steps, strict=True)])
    light = 0.6 + 0.8 * torch.rand(len(images), 1, 1, 1, device=images.device)
    return moved * light + 0.1 * torch.randn_like(images)


def info_nce(preds, targets, temperature=0.2):
    """Cross-entropy of finding, among all views, the other view of the same image."""
    units = F.normalize(preds, dim=1)
    scores = (units @ units.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(scores, torch.arange(len(preds), device=preds.device).roll(len(preds) // 2))


def make_learner(**options):
    """A learner with a new network, the same each time."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 32))
    data = digits(shape="image", batch_size=256, seed=0)
    return SimCLR(model, data, info_nce, partial(torch.optim.Adam, lr=1e-3), **options)


@torch.no_grad()
def neighbour_accuracy(learn):
    """The share of held-out images that have the class of their nearest neighbour in the training data."""
    known, asked = (loader.tensors for loader in (learn.data.train, learn.data.valid))
    codes = [F.normalize(learn.model(images.to(learn.device)), dim=1).cpu() for images, _ in (known, asked)]
    nearest = (codes[1] @ codes[0].T).argmax(1)
    return (known[1][nearest] == asked[1]).float().mean().item()


def main(n_epochs=30):
    """Train; return the accuracy before and after."""
    learn = make_learner()
    before = neighbour_accuracy(learn)
    learn.fit(n_epochs)
    print(f"nearest neighbours of the same class: {before:.3f} before, {neighbour_accuracy(learn):.3f} after")
    return before, neighbour_accuracy(learn)


if __name__ == "__main__":
    main()
