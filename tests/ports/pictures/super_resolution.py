"""Double the resolution of images, as `super_resolution` in pytorch/examples does."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.nn import init
from torch.utils.data import DataLoader, Dataset

from callbacks import Callback, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5


class SuperResolution(nn.Module):
    def __init__(self, upscale, width=8):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 5, padding=2), nn.Conv2d(width, width, 3, padding=1)
        self.conv3, self.shuffle = nn.Conv2d(width, upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        for layer in (self.conv1, self.conv2):
            init.orthogonal_(layer.weight, init.calculate_gain("relu"))
        init.orthogonal_(self.conv3.weight)

    def forward(self, x):
        return self.shuffle(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class Images(Dataset):
    """Smooth images, with 16 x 16 pixels as targets and 8 x 8 pixels as inputs."""

    def __init__(self, n_items, seed):
        coarse = torch.rand(n_items, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
        self.targets = F.interpolate(coarse, scale_factor=4, mode="bilinear")

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        target = self.targets[index]
        return F.avg_pool2d(target, 2), target


class PSNR(Callback):
    """Write the mean peak signal-to-noise ratio of the validation pass, in dB, to the results."""

    measures = {"valid_psnr": "max"}  # noqa: RUF012 - as the documentation writes it
    state = ("ratios",)

    def before_validate(self, learn):
        self.ratios = []

    def after_batch(self, learn):
        if not learn.training:
            self.ratios.append(-10 * learn.loss.log10())

    def after_validate(self, learn):
        learn.results["valid_psnr"] = torch.stack(self.ratios).mean().item()


def parts():
    """The model and the two loaders, seeded."""
    torch.manual_seed(123)
    train = DataLoader(Images(24, seed=0), batch_size=6, shuffle=True)
    test = DataLoader(Images(8, seed=1), batch_size=4, generator=torch.Generator())  # its draws are its own
    return SuperResolution(2), train, test


def by_hand():
    model, train, test = parts()
    optimizer, criterion = optim.Adam(model.parameters(), lr=0.001), nn.MSELoss()
    for _ in range(N_EPOCHS):
        for inputs, targets in train:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            sum(10 * torch.log10(1 / criterion(model(inputs), targets)) for inputs, targets in test)
    return model.state_dict()


def make_learner(*callbacks, made=None):
    model, train, test = made or parts()
    return Learner(
        model,
        Data(train, test),
        nn.MSELoss(),
        partial(optim.Adam, lr=0.001),
        [PSNR(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
