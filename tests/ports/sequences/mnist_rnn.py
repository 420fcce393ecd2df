"""Read digits row by row with an LSTM, as `mnist_rnn` in pytorch/examples does."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Metrics, Recorder, TorchScheduler, ZeroGrad, accuracy
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5


class Net(nn.Module):
    """Each of the 8 rows of an image is one step of the sequence."""

    def __init__(self):
        super().__init__()
        self.rnn, self.norm = nn.LSTM(8, 12, batch_first=True), nn.BatchNorm1d(12)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(12, 8), nn.Linear(8, 10)

    def forward(self, images):
        rows = images.reshape(-1, 8, 8)
        output, _ = self.rnn(rows)
        x = self.dropout1(self.norm(output[:, -1]))
        x = self.dropout2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


def parts():
    """The model and its loader, seeded."""
    torch.manual_seed(1)
    images, targets = torch.rand(44, 1, 8, 8), torch.randint(10, (44,))
    return Net(), DataLoader(TensorDataset(images, targets), batch_size=11, shuffle=True)


def by_hand():
    model, train = parts()
    optimizer = optim.Adadelta(model.parameters(), lr=0.1)
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
    model, train = parts()
    scheduler = TorchScheduler(partial(optim.lr_scheduler.StepLR, step_size=1, gamma=0.7))
    return Learner(
        model,
        Data(train),
        F.nll_loss,
        partial(optim.Adadelta, lr=0.1),
        [scheduler, *callbacks],
        metrics=[accuracy],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
