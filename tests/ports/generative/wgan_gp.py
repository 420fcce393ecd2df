"""Train a critic with a gradient penalty more often than the generator, as WGAN-GP does.

Source: Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1.
"""

from functools import partial

import torch
from torch import nn, optim

from callbacks import Callback, CancelBatch, Metrics, Order, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_CODES, N_CRITIC, PENALTY = 3, 4, 3, 2, 10.0
adam = partial(optim.Adam, lr=1e-3, betas=(0.0, 0.9))


def parts():
    """Generator, critic and batches of points of the plane, seeded."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(N_CODES, 8), nn.ReLU(), nn.Linear(8, 2))
    critic = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    return generator, critic, list(torch.randn(30, 2).split(6))


def critic_loss(critic, real, fake):
    """Wasserstein loss of the critic, and the penalty on its gradient between real and generated points."""
    share = torch.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = (gradient.norm(2, dim=1) - 1).square().mean()
    return critic(fake).mean() - critic(real).mean() + PENALTY * penalty


def by_hand():
    generator, critic, batches = parts()
    optimizer_c, optimizer_g = adam(critic.parameters()), adam(generator.parameters())
    n_done = 0
    for _ in range(N_EPOCHS):
        for real in batches:
            codes = torch.randn(len(real), N_CODES)
            fake = generator(codes).detach()
            optimizer_c.zero_grad()
            critic_loss(critic, real, fake).backward()
            optimizer_c.step()
            n_done += 1
            if n_done % N_CRITIC == 0:
                optimizer_g.zero_grad()
                (-critic(generator(codes)).mean()).backward()
                optimizer_g.step()
    return named(generator, critic)


def named(generator, critic):
    return {
        **{f"generator.{name}": each for name, each in generator.state_dict().items()},
        **{f"critic.{name}": each for name, each in critic.state_dict().items()},
    }


class Critic(Callback):
    """Trains the critic on every batch, and lets the generator train on every n-th batch."""

    order, state = Order.TRANSFORM, ("network", "optimizer", "n_done")

    def __init__(self, network):
        super().__init__()
        self.network, self.optimizer, self.n_done = network, adam(network.parameters()), 0

    def after_pred(self, learn):
        if learn.training:
            self.optimizer.zero_grad()
            critic_loss(self.network, learn.targets, learn.preds.detach()).backward()
            self.optimizer.step()
            self.n_done += 1
            if self.n_done % N_CRITIC:
                raise CancelBatch


def make_learner(*callbacks):
    generator, network, batches = parts()
    data = Data(batches, split=lambda real: (torch.randn(len(real), N_CODES), real))
    return Learner(
        generator,
        data,
        lambda fake, real: -network(fake).mean(),
        adam,
        [Critic(network), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )


def weights(learn):
    return named(learn.model, learn.callbacks.critic.network)
