"""Recommend items to users: sparse gradients for the embeddings with SparseAdam, and Adam for the rest."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Optimizers, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_USERS, N_THINGS = 2, 5, 12, 9


class Recommender(nn.Module):
    """Predicts the rating of a thing by a user; both embedding tables get sparse gradients."""

    def __init__(self):
        super().__init__()
        self.users, self.things = (
            nn.Embedding(N_USERS, 4, sparse=True),
            nn.Embedding(N_THINGS, 4, sparse=True),
        )
        self.net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user, thing):
        return self.net(torch.cat([self.users(user), self.things(thing)], dim=1)).squeeze(1)


def is_embedding(name, parameter):
    return name in ("users.weight", "things.weight")


def parts():
    """The model and its loader, seeded."""
    torch.manual_seed(0)
    user, thing = torch.randint(N_USERS, (40,)), torch.randint(N_THINGS, (40,))
    data = TensorDataset(user, thing, ((user + thing) % 5).float())
    return Recommender(), DataLoader(data, batch_size=10, shuffle=True)


def by_hand():
    model, train = parts()
    sparse = optim.SparseAdam([model.users.weight, model.things.weight], lr=0.02)
    dense = optim.Adam(model.net.parameters(), lr=0.01)
    for _ in range(N_EPOCHS):
        for user, thing, ratings in train:
            sparse.zero_grad()
            dense.zero_grad()
            loss = F.mse_loss(model(user, thing), ratings)
            loss.backward()
            sparse.step()
            dense.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, train = parts()
    return Learner(
        model,
        Data(train, n_inputs=2),
        F.mse_loss,
        Optimizers((partial(optim.SparseAdam, lr=0.02), is_embedding), partial(optim.Adam, lr=0.01)),
        callbacks,
        defaults=(ZeroGrad, Metrics, Recorder),
    )
