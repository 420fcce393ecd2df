"""A GAN: two networks and two optimizers (Goodfellow et al. 2014, algorithm 1), on digits of 8 x 8 pixels.

The learner trains the generator. One operation, `forward`, is overridden, and one callback owns the critic
and its optimizer. It declares both as its state, so both are placed and saved, and a killed run resumes with
the same bits.

Prints how far the mean pictures, made and real, are apart, before and after.
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
    """Makes as many pictures of noise as there are real ones."""

    def forward(self):
        self.preds = self.model(torch.randn(self.n_items, 16, device=self.device))


class Critic(Callback):
    """Trains a critic on real and made pictures, before each step of the generator."""

    order, state = Order.TRANSFORM, ("network", "optimizer")

    def __init__(self, network):
        super().__init__()
        self.network, self.optimizer = network, adam(network.parameters())

    def after_pred(self, learn):
        if learn.training:
            real, made = self.network(learn.targets), self.network(learn.preds.detach())
            self.optimizer.zero_grad()  # of what the generator's loss has left here, too
            (judge(real, torch.full_like(real, 0.9)) + judge(made, torch.zeros_like(made))).backward()
            self.optimizer.step()

    def loss(self, made, real):
        """The generator's: how well the critic knows what is made."""
        return judge(score := self.network(made), torch.ones_like(score))


def make_learner(*callbacks, **options):
    """A learner with fresh networks, the same each time."""
    torch.manual_seed(0)
    pictures = torch.tensor(load_digits(return_X_y=True)[0], dtype=torch.float32) / 16
    generator = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
    critic = Critic(nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)))
    data = Data.from_tensors(pictures, pictures, batch_size=64, valid=None, seed=0)
    return GAN(generator, data, critic.loss, adam, [critic, *callbacks], **options)


def distance(learn):
    """Root of the mean squared difference of the mean pictures."""
    made, real = learn.get_preds(learn.data.train)
    return F.mse_loss(made.mean(0), real.mean(0)).sqrt().item()


def main(n_epochs=40):
    """Train, and give the distance before and after."""
    learn = make_learner()
    before = distance(learn)
    learn.fit(n_epochs)
    print(f"mean pictures apart by {before:.3f} before, {distance(learn):.3f} after")
    return before, distance(learn)


if __name__ == "__main__":
    main()
