"""Run a function in several processes that train together, in well under a second."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

SECONDS = 60  # seconds after which a process that waits for another one fails

# The processes are forked from a server that has imported everything and has run nothing: a fork of the test
# process itself hangs where torch has already started threads.
multiprocessing.set_forkserver_preload(["ranks.in_ranks_preload"])
#: Imports of some seconds, which the server makes where the tests have made them.
SLOW_IMPORTS = ("torchmetrics",)


@contextmanager
def with_our_path() -> Iterator[None]:
    """The server imports from where this process does; before Python 3.13 it does not know that path."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    preloaded = " ".join(name for name in SLOW_IMPORTS if name in sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("PRELOADED", preloaded)
        yield


def in_ranks(size: int, function: Callable[..., Any], *arguments: Any, limit: float = SECONDS) -> list[Any]:
    """What `function(*arguments)` returns in each of `size` processes, by rank.

    The function is one of a module, and so are the classes of its arguments, so that they can be pickled.

    A process fails when it has waited for another one for `limit` seconds.

    Raises:
        ProcessRaisedException: a process raised an error; with its traceback.
    """
    with with_our_path(), tempfile.TemporaryDirectory() as folder:
        call = (size, folder, limit, function, arguments)
        start_processes(run, call, nprocs=size, start_method="forkserver")
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(size)]


def run(
    rank: int, size: int, folder: str, limit: float, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    store = dist.FileStore(str(Path(folder, "store")), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=limit))
    try:
        torch.save(function(*arguments), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()
