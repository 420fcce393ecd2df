"""Learn to remove noise step by step: a denoising diffusion model.

Source: Ho et al. 2020, arXiv:2006.11239, algorithm 1.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GradientClip, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_TIMES = 2, 5, 20


class Denoiser(nn.Module):
    """Predicts the noise in points of the plane at a time step of the diffusion."""

    def __init__(self):
        super().__init__()
        self.times = nn.Embedding(N_TIMES, 8)
        self.net = nn.Sequential(nn.Linear(10, 16), nn.SiLU(), nn.Linear(16, 2))
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.3, N_TIMES), dim=0)
        self.register_buffer("signal", kept.sqrt())
        self.register_buffer("noise", (1 - kept).sqrt())

    def forward(self, points, times):
        return self.net(torch.cat([points, self.times(times)], dim=1))

    def diffuse(self, points):
        """Noisy points, the time step of each point, and the noise in it."""
        times, noise = torch.randint(N_TIMES, (len(points),)), torch.randn_like(points)
        return self.signal[times, None] * points + self.noise[times, None] * noise, times, noise


def parts():
    """The model and its loader, seeded."""
    torch.manual_seed(0)
    angles = 6.28 * torch.rand(42)
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    return Denoiser(), DataLoader(TensorDataset(points), batch_size=12, shuffle=True)


def by_hand():
    model, train = parts()
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(N_EPOCHS):
        for (points,) in train:
            noisy, times, noise = model.diffuse(points)
            optimizer.zero_grad()
            loss = F.mse_loss(model(noisy, times), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.state_dict()


def make_learner(*callbacks, made=None):
    model, train = made or parts()

    def diffuse(batch):
        noisy, times, noise = model.diffuse(batch[0])
        return (noisy, times), noise

    return Learner(
        model,
        Data(train, split=diffuse),
        F.mse_loss,
        partial(optim.AdamW, lr=2e-3),
        [GradientClip(1.0), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
