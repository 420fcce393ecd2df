"""Fit a polynomial until the loss is small, as `regression` in pytorch/examples does."""

from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import Callback, Metrics, Order, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_STEPS, TARGET = 1, 7, 40, 1e-3


class Draws:
    """Batches of new points on the polynomial, from their own generator; resumable."""

    def __init__(self):
        self.generator, self.n_drawn = torch.Generator().manual_seed(0), 0
        self.weights, self.bias = torch.tensor([[2.0], [-1.0], [0.5], [0.1]]), torch.tensor([1.0])

    def draw(self):
        x = torch.rand(16, generator=self.generator)
        features = torch.stack([x**power for power in range(1, 5)], dim=1)
        return features, features @ self.weights + self.bias

    def __iter__(self):
        while self.n_drawn < N_STEPS:
            self.n_drawn += 1
            yield self.draw()
        self.n_drawn = 0

    def state_dict(self):
        return {"generator": self.generator.get_state(), "n_drawn": self.n_drawn}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.n_drawn = state["n_drawn"]


def parts():
    """The model and its batches, seeded."""
    torch.manual_seed(0)
    return nn.Linear(4, 1), Draws()


def by_hand():
    model, draws = parts()
    optimizer = optim.SGD(model.parameters(), lr=0.4)
    for inputs, targets in draws:
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if loss.item() < TARGET:
            break
    return model.state_dict()


class StopAtTarget(Callback):
    """Stop after the first batch with a loss below the target."""

    order = Order.DECIDE

    def after_batch(self, learn):
        if learn.training and learn.loss_value < TARGET:
            learn.stop(f"the loss is below {TARGET}")


def make_learner(*callbacks):
    model, draws = parts()
    return Learner(
        model,
        Data(draws),
        F.smooth_l1_loss,
        partial(optim.SGD, lr=0.4),
        [StopAtTarget(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )
