"""Learn to keep to the middle of a line by policy gradients, as `reinforcement_learning` in pytorch/examples.

A batch is an episode: the model acts and returns the log-probabilities of its actions and the rewards.
Source: Williams 1992, Machine Learning 8, 229-256.
"""

from functools import partial

import torch
from torch import nn, optim

from callbacks import Callback, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_EPISODES, N_MOVES, DISCOUNT = 2, 7, 5, 12, 0.99


class Policy(nn.Module):
    """Walks left or right from a random place; the reward is 1 for each move that ends near the middle."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))

    def forward(self):
        place, log_probabilities, rewards = 4 * torch.rand(1) - 2, [], []
        for _ in range(N_MOVES):
            choice = torch.distributions.Categorical(logits=self.net(place))
            action = choice.sample()
            log_probabilities.append(choice.log_prob(action))
            place = place + 0.5 * (2 * action - 1)
            rewards.append((place.abs() < 1).float())
        return torch.stack(log_probabilities), torch.cat(rewards)


def policy_loss(episode):
    """Minus the log-probabilities, weighted by the normalized rewards to come."""
    log_probabilities, rewards = episode
    returns, to_come = [], torch.zeros(())
    for reward in rewards.flip(0):
        to_come = reward + DISCOUNT * to_come
        returns.insert(0, to_come)
    returns = torch.stack(returns)
    return -(log_probabilities * (returns - returns.mean()) / (returns.std() + 1e-8)).sum()


def parts():
    """The policy, seeded."""
    torch.manual_seed(543)
    return Policy()


def by_hand():
    policy = parts()
    optimizer, running_reward = optim.Adam(policy.parameters(), lr=1e-2), 0.0
    for _ in range(N_EPOCHS * N_EPISODES):
        episode = policy()
        running_reward = 0.05 * episode[1].sum().item() + 0.95 * running_reward
        optimizer.zero_grad()
        loss = policy_loss(episode)
        loss.backward()
        optimizer.step()
    return {**policy.state_dict(), "running_reward": torch.tensor(running_reward)}


class RunningReward(Callback):
    """The exponential average of the episodes' rewards."""

    state = ("value",)

    def before_fit(self, learn):
        self.value = 0.0

    def after_batch(self, learn):
        self.value = 0.05 * learn.preds[1].sum().item() + 0.95 * self.value


def make_learner(*callbacks):
    data = Data([()] * N_EPISODES, split=lambda _: ((), None))
    return Learner(
        parts(),
        data,
        lambda episode, _: policy_loss(episode),
        partial(optim.Adam, lr=1e-2),
        [RunningReward(), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )


def weights(learn):
    reward = getattr(learn.callbacks.running_reward, "value", 0.0)
    return {**learn.model.state_dict(), "running_reward": torch.tensor(reward)}
