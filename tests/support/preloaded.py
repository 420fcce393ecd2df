"""What servers import before they fork: making a learner imports parts of torch, which takes 1.5 s."""

import torch
from torch import nn

import learner.cli.commands
from learner import Data, Learner

needed = learner.cli.commands
made = Learner(nn.Linear(1, 1), Data([]), nn.functional.mse_loss, torch.optim.AdamW)
