"""Learn weights that adapt to a new task in one step of gradient descent, as MAML does.

A batch is a set of sine waves, each with points to adapt to and points to evaluate on. The gradient goes
through the step of adaptation. Source: Finn et al. 2017, arXiv:1703.03400, algorithm 1.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, INNER_RATE = 2, 5, 0.05


class Adapted(nn.Module):
    """Adapts a network to each task with one step, and predicts with the adapted weights."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1))

    def forward(self, support_x, support_y, query_x):
        weights = dict(self.net.named_parameters())
        predictions = []
        for x, y, query in zip(support_x, support_y, query_x, strict=True):
            with torch.enable_grad():
                loss = F.mse_loss(functional_call(self.net, weights, (x,)), y)
                gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            steps = zip(weights.items(), gradients, strict=True)
            adapted = {name: each - INNER_RATE * gradient for (name, each), gradient in steps}
            predictions.append(functional_call(self.net, adapted, (query,)))
        return torch.stack(predictions)


def parts():
    """The model and its tasks, seeded; each part of a batch has the shape (tasks, points, 1)."""
    torch.manual_seed(0)
    x, phase = 6 * torch.rand(24, 8, 1) - 3, torch.rand(24, 1, 1)
    y = torch.sin(x + 3 * phase)
    tasks = TensorDataset(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])
    return Adapted(), DataLoader(tasks, batch_size=6, shuffle=True)


def by_hand():
    model, train = parts()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(N_EPOCHS):
        for support_x, support_y, query_x, query_y in train:
            optimizer.zero_grad()
            loss = F.mse_loss(model(support_x, support_y, query_x), query_y)
            loss.backward()
            optimizer.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, train = parts()
    return Learner(
        model,
        Data(train, n_inputs=3),
        F.mse_loss,
        partial(optim.Adam, lr=0.01),
        callbacks,
        defaults=(ZeroGrad, Metrics, Recorder),
    )
