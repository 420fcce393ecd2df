"""Join the other processes: find the store that all reach, agree on a new name, and make the group."""

from __future__ import annotations

import atexit
import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from callbacks.core.output import listed, print_line
from callbacks.core.ranks import is_launched

Store = Any  # a store of torch.distributed, whose stores pyright takes for private
stores: Any = dist

WAIT = 600.0  # seconds in which all processes must start: importing and reading data may take minutes
SHOWN_AFTER = 20.0  # seconds after which the first process prints the missing ranks
POLL = 0.02  # seconds between two reads of the store

#: The store of this process, which later groups use again.
opened: list[Store] = []
#: The group that `join` has made.
ours: list[Any] = []


class OtherRankError(RuntimeError):
    """Another process of the fit has failed, hangs or was killed; the message names it and its place.

    Attributes:
        is_ended: has the launcher asked this process to end already?
    """

    is_ended = False


class OtherRankOSError(OtherRankError, OSError):
    """The same for an `OSError`, which some callers handle."""


def join(backend: str | None = None, timeout: float | None = None) -> bool:
    """Join the process group that the launcher's environment describes, unless this process has joined one.

    Args:
        backend: a name of `torch.distributed`, such as `"gloo"` or `"nccl"`; by default gloo for tensors on
            the CPU and nccl for tensors on a GPU.
        timeout: the seconds after which a collective operation fails; None for torch's default.

    Returns:
        Is this process in a group? No, if no launcher has started it.

    Raises:
        RuntimeError: the environment is incomplete, or others did not start.
    """
    if dist.is_initialized():
        return True
    if not is_launched() or (os.environ["WORLD_SIZE"] == "1" and "MASTER_ADDR" not in os.environ):
        return False
    rank, size, host, port = environment()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if not opened:
        opened.append(connected(host, port, rank, WAIT))
    name = agreed_name(opened[0], rank, size, WAIT)
    more: dict[str, Any] = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    store = stores.PrefixStore(name, opened[0])
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, **more)
    ours[:] = [dist.group.WORLD]
    atexit.register(leave)
    return True


def leave() -> None:
    """Leave the group that `join` made, at the end of the process or after an error."""
    atexit.unregister(leave)
    if dist.is_initialized() and dist.group.WORLD in ours:
        dist.destroy_process_group()
    ours.clear()


def environment() -> tuple[int, int, str, int]:
    """The rank, the number of processes, and the host and port of the store, as the launcher has set them."""
    found = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    numbers = [found[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")]
    if all(map(str.isdecimal, numbers)) and int(numbers[0]) < int(numbers[1]) and found["MASTER_ADDR"]:
        return int(numbers[0]), int(numbers[1]), found["MASTER_ADDR"], int(numbers[2])
    shown = ", ".join(f"{name}={value}" if value else f"{name} is missing" for name, value in found.items())
    raise RuntimeError(
        f"Distributed: the processes cannot find each other: {shown}. torchrun sets all four variables. "
        "With another launcher, set MASTER_ADDR to the host of rank 0, and MASTER_PORT to a free port "
        "there. If this is the only process, unset RANK and WORLD_SIZE."
    )


def connected(host: str, port: int, rank: int, seconds: float) -> Store:
    """The store: in the agent of `torchrun`, and otherwise in the first process."""
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = rank == 0 and not has_agent
    end = time.monotonic() + seconds
    while True:  # each trial is short, because signals have no effect in it
        wait = timedelta(seconds=min(5.0, seconds))
        try:
            return stores.TCPStore(
                host, port, None, is_host, wait, wait_for_workers=False, multi_tenant=not has_agent
            )
        except dist.DistError as error:
            if is_host or time.monotonic() > end:
                raise RuntimeError(
                    f"Distributed: rank {rank} cannot {'open' if is_host else 'reach'} {host}:{port}, where "
                    f"the processes meet, within {seconds:g} s. Check MASTER_ADDR, MASTER_PORT and the "
                    "firewall, and that rank 0 has started."
                ) from error


def agreed_name(store: Store, rank: int, size: int, seconds: float) -> str:
    """A name for the group that no earlier group had.

    `torchrun` keeps its store when it restarts the processes, so it contains addresses of dead processes, and
    the processes may have joined different numbers of times. So each process writes a new mark, and the first
    one writes lists of the marks that it sees, until all processes have confirmed a list that contains their
    mark.
    """
    mark = uuid.uuid4().hex
    store.set(f"learner/mark/{rank}", mark)
    find = proposed_name if rank == 0 else confirmed_name
    return find(store, rank, size, mark, Patience(seconds))


def proposed_name(store: Store, rank: int, size: int, mark: str, patience: Patience) -> str:
    """The name, for the first process: it writes lists until every process has confirmed one."""
    marks, name = [""] * size, ""
    while True:
        seen = [read(store, f"learner/mark/{each}") for each in range(size)]
        if seen != marks:
            marks, name = seen, f"learner/{mark}/{uuid.uuid4().hex}"
            store.set("learner/list", json.dumps([name, marks]))
        absent = [each for each in range(1, size) if not store.check([f"{name}/{each}"])]
        if not absent:
            store.set(f"{name}/go", "1")
            return name
        patience.wait(rank, lambda: absent)  # noqa: B023 - it is called at once


def confirmed_name(store: Store, rank: int, size: int, mark: str, patience: Patience) -> str:
    """The name, for the other processes: they confirm lists with their mark until the first one starts."""
    confirmed = ""
    while True:
        name, marks = json.loads(read(store, "learner/list") or '["", []]')
        if len(marks) == size and marks[rank] == mark and name != confirmed:
            store.set(f"{name}/{rank}", "1")
            confirmed = name
        if confirmed and store.check([f"{confirmed}/go"]):
            return confirmed
        patience.wait(rank, lambda: [0])


def read(store: Store, key: str) -> str:
    """The value of a key; an empty text if it is missing."""
    return store.get(key).decode() if store.check([key]) else ""


class Patience:
    """Waits a moment, and gives up after some seconds."""

    def __init__(self, seconds: float):
        self.seconds, self.begin, self.is_shown = seconds, time.monotonic(), False

    def wait(self, rank: int, absent: Callable[[], list[int]]) -> None:
        """Wait a moment for the ranks that are absent."""
        time.sleep(POLL)
        passed = time.monotonic() - self.begin
        if passed > SHOWN_AFTER and not self.is_shown:
            self.is_shown = True
            print_line(f"waiting for {of_ranks(absent())} to start", "stderr")
        if passed > self.seconds:
            raise RuntimeError(
                f"Distributed: rank {rank} has waited {self.seconds:g} s for {of_ranks(absent())}, which did "
                "not start the fit. Look for their errors above. If this is the only process, unset RANK and "
                "WORLD_SIZE."
            )


def of_ranks(ranks: list[int]) -> str:
    """`rank 1`, or `ranks 1, 2, 5`."""
    return f"rank{'s' * (len(ranks) > 1)} {listed([*map(str, ranks)], 8)}"
