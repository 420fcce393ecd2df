"""Learn the values of actions from a memory of past moves, as PyTorch's DQN tutorial does.

Source: Mnih et al. 2015, Nature 518, 529-533, algorithm 1.
"""

import copy
from collections import deque
from functools import partial

import torch
from torch import nn, optim
from torch.nn import functional as F

from callbacks import Callback, GradientClip, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

N_EPOCHS, CUT_AT, N_MOVES, BATCH_SIZE, DISCOUNT, FOLLOW = 2, 7, 10, 4, 0.9, 0.1


class Environment:
    """A walk on a line towards 0; acts as the network suggests or at random, and stores the moves.

    `state_dict` and `load_state_dict` let a killed run resume within an epoch.
    """

    def __init__(self, network):
        self.network, self.generator = network, torch.Generator().manual_seed(0)
        self.place, self.memory, self.n_moves = torch.ones(1), deque(maxlen=16), 0

    def move(self):
        """Make one move and store it as (place, action, reward, next place)."""
        if torch.rand((), generator=self.generator) < 0.3:
            action = torch.randint(2, (1,), generator=self.generator)
        else:
            with torch.no_grad():
                action = self.network(self.place).argmax(keepdim=True)
        next_place = (self.place + 0.5 * (2 * action - 1)).clamp(-2, 2)
        self.memory.append((self.place, action, -next_place.abs(), next_place))
        self.place = next_place

    def sample(self):
        """A batch of stored moves, each part of shape (BATCH_SIZE, 1)."""
        chosen = torch.randint(len(self.memory), (BATCH_SIZE,), generator=self.generator).tolist()
        return tuple(torch.stack(part) for part in zip(*[self.memory[each] for each in chosen], strict=True))

    def __iter__(self):
        while self.n_moves < N_MOVES:
            self.n_moves += 1
            self.move()
            yield self.sample()
        self.n_moves = 0

    def state_dict(self):
        state = {"place": self.place, "memory": list(self.memory), "n_moves": self.n_moves}
        return {**state, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.place, self.memory = state["place"], deque(state["memory"], maxlen=16)
        self.n_moves = state["n_moves"]
        self.generator.set_state(state["generator"])


def network():
    return nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))


def parts():
    """The network that acts, its slowly following copy, and the environment; seeded."""
    torch.manual_seed(0)
    policy = network()
    return policy, copy.deepcopy(policy), Environment(policy)


def expected_values(target, rewards, next_places):
    with torch.no_grad():
        return rewards + DISCOUNT * target(next_places).max(1, keepdim=True).values


@torch.no_grad()
def follow(target, policy):
    for slow, quick in zip(target.parameters(), policy.parameters(), strict=True):
        slow.copy_(FOLLOW * quick + (1 - FOLLOW) * slow)


def by_hand():
    policy, target, environment = parts()
    optimizer = optim.AdamW(policy.parameters(), lr=1e-2, amsgrad=True)
    for _ in range(N_EPOCHS):
        for places, actions, rewards, next_places in environment:
            values = policy(places).gather(1, actions)
            loss = F.smooth_l1_loss(values, expected_values(target, rewards, next_places))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(policy.parameters(), 0.5)
            optimizer.step()
            follow(target, policy)
    return {**policy.state_dict(), **{f"target.{name}": each for name, each in target.state_dict().items()}}


class TargetNetwork(Callback):
    """Owns the target network, computes the expected values with it, and lets it follow the policy."""

    state = ("network",)

    def __init__(self, network):
        super().__init__()
        self.network = network

    def loss(self, values, actions, rewards, next_places):
        return F.smooth_l1_loss(
            values.gather(1, actions), expected_values(self.network, rewards, next_places)
        )

    def after_step(self, learn):
        follow(self.network, learn.model)


def make_learner(*callbacks):
    policy, network, environment = parts()
    target = TargetNetwork(network)
    return Learner(
        policy,
        Data(environment),
        target.loss,
        partial(optim.AdamW, lr=1e-2, amsgrad=True),
        [target, GradientClip(max_value=0.5), *callbacks],
        defaults=(ZeroGrad, Metrics, Recorder),
    )


def weights(learn):
    target = learn.callbacks.target_network.network.state_dict()
    return {**learn.model.state_dict(), **{f"target.{name}": each for name, each in target.items()}}
