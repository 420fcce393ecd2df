"""What the server of `in_ranks` imports once, so that each process has it."""

import pytest  # noqa: F401
import torch.distributed.fsdp
import torch.nn.parallel.distributed  # noqa: F401
from torch import nn

import callbacks.distributed.distributed
from learner import Data, Learner

# a learner imports parts of torch when it is made
made = Learner(nn.Linear(1, 1), Data([]), nn.functional.mse_loss, torch.optim.AdamW)
