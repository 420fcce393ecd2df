"""Compress digits with a variational autoencoder, as `vae` in pytorch/examples does.

Source: Kingma and Welling 2014, arXiv:1312.6114, appendix B.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT = 2, 5


class VAE(nn.Module):
    def __init__(self, n_pixels=36, width=16, size=4):
        super().__init__()
        self.fc1, self.mean = nn.Linear(n_pixels, width), nn.Linear(width, size)
        self.log_variance = nn.Linear(width, size)
        self.fc3, self.fc4 = nn.Linear(size, width), nn.Linear(width, n_pixels)

    def forward(self, images):
        hidden = F.relu(self.fc1(images))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        spread = torch.exp(0.5 * log_variance)
        code = mean + torch.randn_like(spread) * spread
        return torch.sigmoid(self.fc4(F.relu(self.fc3(code)))), mean, log_variance


def vae_loss(outputs, images):
    """Reconstruction and Kullback-Leibler divergence, summed over pixels and images."""
    reconstruction, mean, log_variance = outputs
    binary = F.binary_cross_entropy(reconstruction, images, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return binary + divergence


vae_loss.reduction = "sum"  # type: ignore[reportFunctionMemberAccess]  # a pass adds up


def parts():
    """The model and its batches of images without labels; seeded."""
    torch.manual_seed(1)
    images = torch.rand(44, 36).round()
    return VAE(), list(images.split(12))


def by_hand():
    model, batches = parts()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(N_EPOCHS):
        model.train()
        for images in batches:
            optimizer.zero_grad()
            loss = vae_loss(model(images), images)
            loss.backward()
            optimizer.step()
    return model.state_dict()


def make_learner(*callbacks, made=None):
    model, batches = made or parts()
    data = Data(batches, split=lambda images: (images, images))
    return Learner(
        model, data, vae_loss, partial(optim.Adam, lr=1e-3), callbacks, defaults=(ZeroGrad, Metrics, Recorder)
    )
