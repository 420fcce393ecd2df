"""Classify digits with a small convolutional network, as `mnist` in pytorch/examples does."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Recorder, TorchScheduler, ZeroGrad, accuracy
from learner import Data, Learner

N_EPOCHS, CUT_AT = 3, 8


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
        return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)


def digits(n_items, seed):
    """A noisy pattern for each class, in place of the scanned digits; shape (n_items, 1, 8, 8)."""
    draw = torch.Generator().manual_seed(seed)
    patterns = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    targets = torch.randint(10, (n_items,), generator=draw)
    return TensorDataset(patterns[targets] + 0.3 * torch.randn(n_items, 1, 8, 8, generator=draw), targets)


def parts():
    """The model and the two loaders, seeded."""
    torch.manual_seed(1)
    train = DataLoader(digits(60, seed=0), batch_size=16, shuffle=True)
    return Net(), train, DataLoader(digits(20, seed=1), batch_size=10)


def by_hand():
    model, train, _ = parts()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(N_EPOCHS):
        model.train()
        for inputs, targets in train:
            optimizer.zero_grad()
            loss = F.nll_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, train, test = parts()
    scheduler = TorchScheduler(partial(optim.lr_scheduler.StepLR, step_size=1, gamma=0.7))
    return Learner(
        model,
        Data(train, test),
        F.nll_loss,
        partial(optim.Adadelta, lr=1.0),
        [scheduler, *callbacks],
        metrics=[accuracy],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
