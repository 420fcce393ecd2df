"""What the server of `in_ranks` imports once, so that each process has it."""

import pytest
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.nn.parallel.distributed
from torch import nn

from learner import Data, Learner

needed = pytest
# a learner imports parts of torch when it is made
made = Learner(nn.Linear(1, 1), Data([]), nn.functional.mse_loss, torch.optim.AdamW)
