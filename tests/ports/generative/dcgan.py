"""Generate images with two networks that train against each other, as `dcgan` in pytorch/examples does.

Source: Radford et al. 2016, arXiv:1511.06434.
"""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

from callbacks import Callback, Metrics, Order, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_CODES = 2, 5, 5
adam = partial(optim.Adam, lr=0.0002, betas=(0.5, 0.999))


def initialize(module):
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def networks(width):
    """Generator and discriminator, not initialized yet."""
    generator = nn.Sequential(
        nn.ConvTranspose2d(N_CODES, width, 4, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 1, 4, bias=False),
        nn.Sigmoid(),
        nn.Flatten(0),
    )
    return generator, discriminator


def parts():
    """Generator, discriminator and loader, seeded."""
    torch.manual_seed(999)
    generator, discriminator = networks(6)
    images = 2 * torch.rand(28, 1, 8, 8) - 1
    train = DataLoader(images, batch_size=8, shuffle=True)
    return generator.apply(initialize), discriminator.apply(initialize), train


def judge(probabilities, label):
    return F.binary_cross_entropy(probabilities, torch.full_like(probabilities, label))


def by_hand():
    generator, discriminator, train = parts()
    optimizer_d, optimizer_g = adam(discriminator.parameters()), adam(generator.parameters())
    for _ in range(N_EPOCHS):
        for real in train:
            discriminator.zero_grad()
            judge(discriminator(real), 1.0).backward()
            fake = generator(torch.randn(len(real), N_CODES, 1, 1))
            judge(discriminator(fake.detach()), 0.0).backward()
            optimizer_d.step()
            generator.zero_grad()
            judge(discriminator(fake), 1.0).backward()
            optimizer_g.step()
    return named(generator, discriminator)


def named(generator, discriminator):
    return {
        **{f"generator.{name}": each for name, each in generator.state_dict().items()},
        **{f"discriminator.{name}": each for name, each in discriminator.state_dict().items()},
    }


class Discriminator(Callback):
    """Trains the discriminator on each batch, between the generator's forward pass and its loss."""

    order, state = Order.TRANSFORM, ("network", "optimizer")

    def __init__(self, network):
        super().__init__()
        self.network, self.optimizer = network, adam(network.parameters())

    def after_pred(self, learn):
        if learn.training:
            self.network.zero_grad()
            judge(self.network(learn.targets), 1.0).backward()
            judge(self.network(learn.preds.detach()), 0.0).backward()
            self.optimizer.step()


def make_learner(*callbacks, made=None):
    generator, network, train = made or parts()
    data = Data(train, split=lambda real: (torch.randn(len(real), N_CODES, 1, 1), real))
    return Learner(
        generator,
        data,
        lambda fake, real: judge(network(fake), 1.0),
        adam,
        [Discriminator(network), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )


def weights(learn):
    return named(learn.model, learn.callbacks.discriminator.network)
