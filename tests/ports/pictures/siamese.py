"""Decide whether two digits are of the same class, as `siamese_network` in pytorch/examples does."""

from functools import partial

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

from callbacks import Metrics, Recorder, TorchScheduler, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, first, second):
        return self.head(torch.cat([self.features(first), self.features(second)], dim=1)).squeeze(1)


class Pairs(Dataset):
    """Pairs of noisy patterns, half of them of the same class; the partner is drawn again each time."""

    def __init__(self, n_items):
        draw = torch.Generator().manual_seed(0)
        self.classes = torch.randint(4, (n_items,), generator=draw)
        patterns = torch.rand(4, 1, 8, 8, generator=draw)
        self.images = patterns[self.classes] + 0.2 * torch.randn(n_items, 1, 8, 8, generator=draw)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        same = self.classes == self.classes[index]
        is_positive = index % 2 == 0
        candidates = (same if is_positive else ~same).nonzero()[:, 0]
        partner = candidates[torch.randint(len(candidates), ())]
        return self.images[index], self.images[partner], torch.tensor(float(is_positive))


def parts():
    """The model and its loader, seeded."""
    torch.manual_seed(1)
    return Siamese(), DataLoader(Pairs(40), batch_size=8, shuffle=True)


def by_hand():
    model, train = parts()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    criterion = nn.BCELoss()
    for _ in range(N_EPOCHS):
        model.train()
        for first, second, targets in train:
            optimizer.zero_grad()
            loss = criterion(model(first, second), targets)
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model.state_dict()


def make_learner(*callbacks):
    model, train = parts()
    scheduler = TorchScheduler(partial(optim.lr_scheduler.StepLR, step_size=1, gamma=0.7))
    return Learner(
        model,
        Data(train, n_inputs=2),
        nn.BCELoss(),
        partial(optim.Adadelta, lr=1.0),
        [scheduler, *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
