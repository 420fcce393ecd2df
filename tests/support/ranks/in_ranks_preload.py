"""What the server of `in_ranks` imports once, so that each process has it."""

import importlib
import os

import fsspec  # with which torch writes sharded checkpoints
import preloaded
import pytest
import torch.distributed.checkpoint

needed = fsspec, preloaded, pytest, torch.distributed.checkpoint
for name in os.environ.get("PRELOADED", "").split():
    importlib.import_module(name)
