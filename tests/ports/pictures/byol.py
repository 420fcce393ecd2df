"""Learn from two views of each image and a target network that follows slowly, as BYOL does.

Source: Grill et al. 2020, arXiv:2006.07733, eq. 1 and 2.
"""

import copy
from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

from callbacks import Callback, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, DECAY = 2, 5, 0.9


def encoder():
    return nn.Sequential(nn.Linear(12, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


class BYOL(nn.Module):
    """The online network with its predictor, and the target network, which gets no gradients."""

    def __init__(self):
        super().__init__()
        self.online, self.predictor = encoder(), nn.Linear(8, 8)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, first, second):
        predictions = self.predictor(self.online(first)), self.predictor(self.online(second))
        with torch.no_grad():
            projections = self.target(second), self.target(first)
        return predictions, projections

    @torch.no_grad()
    def follow(self):
        for slow, quick in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.copy_(DECAY * slow + (1 - DECAY) * quick)


def byol_loss(outputs):
    pairs = zip(*outputs, strict=True)
    return sum((2 - 2 * F.cosine_similarity(one, other, dim=-1)).mean() for one, other in pairs)


def two_views(items):
    """A batch of two noisy views of each item; shape (items, 12) each."""
    batch = torch.stack(items)
    return batch + 0.1 * torch.randn_like(batch), batch + 0.1 * torch.randn_like(batch)


def parts():
    """The model and its loader, seeded."""
    torch.manual_seed(0)
    images = torch.rand(32, 12)
    return BYOL(), DataLoader(images, batch_size=8, shuffle=True, collate_fn=two_views)


def by_hand():
    model, train = parts()
    optimizer = optim.Adam([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    for _ in range(N_EPOCHS):
        for first, second in train:
            loss = byol_loss(model(first, second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.follow()
    return model.state_dict()


class FollowOnline(Callback):
    """Move the target network towards the online network after each update."""

    def after_step(self, learn):
        learn.model.follow()


def make_learner(*callbacks):
    model, train = parts()
    return Learner(
        model,
        Data(train, n_inputs=2),
        lambda outputs, _: byol_loss(outputs),
        partial(optim.Adam, lr=3e-3),
        [FollowOnline(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
