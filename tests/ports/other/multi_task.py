"""Learn two tasks, and their weights in the loss (Kendall et al. 2018, arXiv:1705.07115, eq. 7)."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.Tanh())
        self.value, self.label = nn.Linear(12, 1), nn.Linear(12, 3)

    def forward(self, x):
        hidden = self.body(x)
        return self.value(hidden), self.label(hidden)


class WeightedTasks(nn.Module):
    """Each task's loss divided by its variance, whose logarithm is a parameter."""

    def __init__(self):
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, predictions, values, labels):
        losses = F.mse_loss(predictions[0], values), F.cross_entropy(predictions[1], labels)
        return (torch.stack(losses) * torch.exp(-self.log_variances) + self.log_variances).sum()


def parts():
    """Model, loss and loader, seeded."""
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    data = TensorDataset(x, x.sum(1, keepdim=True), x[:, :3].argmax(1))
    return TwoHeads(), WeightedTasks(), DataLoader(data, batch_size=10, shuffle=True)


def by_hand():
    model, criterion, train = parts()
    optimizer = optim.Adam([*model.parameters(), *criterion.parameters()], lr=0.01)
    for _ in range(N_EPOCHS):
        for x, values, labels in train:
            optimizer.zero_grad()
            loss = criterion(model(x), values, labels)
            loss.backward()
            optimizer.step()
    return {**model.state_dict(), **criterion.state_dict()}


def make_learner(*callbacks):
    model, criterion, train = parts()
    return Learner(
        model,
        Data(train),
        criterion,
        partial(optim.Adam, lr=0.01),
        callbacks,
        defaults=(ZeroGrad, Metrics, Recorder),
    )


def weights(learn):
    return {**learn.model.state_dict(), **learn.loss_func.state_dict()}
