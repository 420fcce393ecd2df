"""A GAN: two networks and two optimizers (Goodfellow et al. 2014, algorithm 1), on digits of 8 x 8 pixels.

The learner trains the generator. A subclass overrides one operation, `forward`, and a callback owns the
critic and its optimizer. The callback declares both as its state, so both are placed on the device and
saved, and a killed run resumes with the same bits.

Prints the distance between the mean generated image and the mean real image, before and after training.
"""

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, Order
from learner import Data, Learner

judge = F.binary_cross_entropy_with_logits
adam = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.9))


class GAN(Learner):
    """Generates as many images from noise as the batch has items."""

    def forward(self):
        self.preds = self.model(torch.randn(self.n_items, 16, device=self.device))


class Critic(Callback):
    """Trains a critic on real and generated images, before each step of the generator."""

    order, state = Order.TRANSFORM, ("network", "optimizer")

    def __init__(self, network):
        super().__init__()
        self.network, self.optimizer = network, adam(network.parameters())

    def after_pred(self, learn):
        if learn.training:
            real, made = self.network(learn.targets), self.network(learn.preds.detach())
            self.optimizer.zero_grad()  # also clears what the generator's loss has left here
            (judge(real, torch.full_like(real, 0.9)) + judge(made, torch.zeros_like(made))).backward()
            self.optimizer.step()

    def loss(self, made, real):
        """The loss of the generator: how well the critic recognizes generated images."""
        return judge(score := self.network(made), torch.ones_like(score))


def make_learner(*callbacks, **options):
    """A learner with new networks, the same each time."""
    torch.manual_seed(0)
    pictures = torch.tensor(load_digits(return_X_y=True)[0], dtype=torch.float32) / 16
    generator = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
    critic = Critic(nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)))
    data = Data.from_tensors(pictures, pictures, batch_size=64, valid=None, seed=0)
    return GAN(generator, data, critic.loss, adam, [critic, *callbacks], **options)


def distance(learn):
    """Root of the mean squared difference between the mean images."""
    made, real = learn.get_preds(learn.data.train)
    return F.mse_loss(made.mean(0), real.mean(0)).sqrt().item()


def main(n_epochs=40):
    """Train; return the distance before and after."""
    learn = make_learner()
    before = distance(learn)
    learn.fit(n_epochs)
    print(f"distance of the mean images: {before:.3f} before, {distance(learn):.3f} after")
    return before, distance(learn)


if __name__ == "__main__":
    main()
