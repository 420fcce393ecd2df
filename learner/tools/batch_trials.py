"""Train for a few steps at a batch size: the memory it takes, the time of a step, or that it does not fit."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from callbacks import DevicePlacement
from callbacks.place.device import tensors_in, tensors_of
from learner.tools.cost_runs import alone, fit, why_not
from learner.tools.live_bytes import LiveBytes, OverLimit
from learner.tools.meter import Watch

N_GUARDED = 2  # steps whose memory is measured: from the second on the optimizer has its state
NATIVE = ("cuda", "xpu")  # devices whose allocator keeps its own count
UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
SIGNS = (  # of having too little memory, in messages of RuntimeError
    "out of memory",  # of accelerators
    "can't allocate memory",  # of the CPU's allocator
    "not enough memory",  # the same on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True)
class SizeTrial:
    """What a few training steps at a batch size have shown.

    Attributes:
        size: items a batch.
        peak: bytes that were held at most: weights, optimizer state, the batch and all that is made of it,
            but not the data set; 0 where it did not fit.
        seconds: of a step, the median, without fetching the batch; 0 where it did not fit.
        why_not: why it did not fit; None where it did.
        out_of_memory: was it the device, or the machine, that had no more memory?
    """

    size: int
    peak: int = 0
    seconds: float = 0.0
    why_not: str | None = None
    out_of_memory: bool = False

    @property
    def fits(self) -> bool:
        """Was there memory enough?"""
        return self.why_not is None

    @property
    def items_per_second(self) -> float:
        """Items that are trained in a second; 0 where it did not fit."""
        return self.size / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Room:
    """How many bytes training may hold, and who says so; None where nobody knows."""

    bytes: int | None
    origin: str


class Trials:
    """Tries sizes, each in sandboxes of its own.

    Args:
        learn: the learner.
        make_batch: gives a batch of so many items.
        limit: bytes that training may hold, as the user said.
        n_steps: steps that are timed.
    """

    def __init__(self, learn: Any, make_batch: Callable[[int], Any], limit: str | int | None, n_steps: int):
        self.learn, self.make_batch, self.n_steps = learn, make_batch, n_steps
        self.left_out = {plugin.name: reason for plugin in learn.callbacks if (reason := why_not(plugin))}
        self.device = device_of(learn)
        with alone(learn, self.left_out, "learn.find_batch_size()"):  # its copies take room too
            self.room = room_of(self.device, limit, sum(each.nbytes for each in held_by(learn)))
        self.is_guarded = limit is not None or self.device.type not in NATIVE
        self.tried: list[SizeTrial] = []
        self.held = 0

    def attempt(self, size: int) -> SizeTrial:
        """Try a size, unless the ones before it foretell that it cannot fit."""
        trial = self._foretell(size) or self._try(size)
        self.tried.append(trial)
        return trial

    def _foretell(self, size: int) -> SizeTrial | None:
        """Where the line through the two largest sizes leads beyond the room, nothing is risked."""
        done = sorted((trial for trial in self.tried if trial.fits), key=lambda trial: trial.size)[-2:]
        if not self.is_guarded or self.room.bytes is None or len(done) < 2 or size < done[1].size:
            return None
        low, high = done
        peak = high.peak + (high.peak - low.peak) / (high.size - low.size) * (size - high.size)
        if peak <= self.room.bytes:
            return None
        words = f"it would hold about {shown_bytes(peak)}, of {shown_bytes(self.room.bytes)}; not tried."
        return SizeTrial(size, why_not=words)

    def _try(self, size: int) -> SizeTrial:
        words, out_of_memory = "", True
        try:
            peak = self._measure(size)
            if self.room.bytes is None or not self.is_guarded or peak <= self.room.bytes:
                return SizeTrial(size, peak, self._time(size))
            words, out_of_memory = over(peak, self.room), False
        except OverLimit as error:
            words, out_of_memory = over(error.held, self.room), False
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                error.add_note(f"at a batch size of {size}")
                raise
            words = f"{type(error).__name__}: {first_line(error)}."
        except Exception as error:
            error.add_note(f"at a batch size of {size}")
            raise
        free()  # only here: the error held the frames in which there was too little memory
        return SizeTrial(size, why_not=words, out_of_memory=out_of_memory)

    def _measure(self, size: int) -> int:
        """The most bytes that are held in a few steps."""
        with alone(self.learn, self.left_out, "learn.find_batch_size()"):
            held = held_by(self.learn)
            if self.device.type in NATIVE:
                peak = self._measure_natively(size, sum(each.nbytes for each in held))
            else:
                with LiveBytes(held, limit=self.room.bytes) as gauge:
                    fit(self.learn, self._watch(size, N_GUARDED), n_epochs=2)
                peak = gauge.peak
            self.held = self.held or sum(each.nbytes for each in held_by(self.learn))
            return peak

    def _measure_natively(self, size: int, held: int) -> int:
        """By the count that the device's allocator keeps. Not run on such a device yet."""
        free()
        torch.accelerator.reset_peak_memory_stats(self.device)
        before = torch.accelerator.memory_allocated(self.device)
        fit(self.learn, self._watch(size, N_GUARDED), n_epochs=2)
        return torch.accelerator.max_memory_allocated(self.device) - before + held

    def _time(self, size: int) -> float:
        """Seconds of a step, without anything that counts memory."""
        with alone(self.learn, self.left_out, "learn.find_batch_size()"):
            watch = fit(self.learn, self._watch(size, self.n_steps + 1), n_epochs=1)
        return median(watch.works[1:] or watch.works)

    def _watch(self, size: int, n_steps: int) -> Watch:
        watch = Watch(self.learn, n_steps)
        watch.give = lambda _loader: (
            self.make_batch(size) for _ in range(n_steps if self.learn.training else 1)
        )
        return watch


def held_by(learn: Any) -> list[Tensor]:
    """Weights, buffers, gradients, and what optimizer and plug-ins keep."""
    state, kept = learn.optimizer.state_dict(), [plugin.state_dict() for plugin in learn.callbacks]
    gradients = [each.grad for each in learn.model.parameters() if each.grad is not None]
    return [*tensors_of(learn.model), *gradients, *tensors_in(state), *tensors_in(kept)]


def device_of(learn: Any) -> torch.device:
    """Where the model will be in a fit."""
    for plugin in learn.callbacks:
        if isinstance(plugin, DevicePlacement):
            return plugin.device
    return learn.device


def room_of(device: torch.device, limit: str | int | None, held: int) -> Room:
    """What training may hold: as the user said, or what is free, with what it holds already."""
    if limit is not None:
        return Room(as_bytes(limit), "the limit that you gave")
    if device.type in NATIVE:
        free_bytes, _ = torch.accelerator.get_memory_info(device)
        reserved = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
        return Room(free_bytes + reserved + held, f"what is free on {device}")
    available = available_memory()
    return Room(None if available is None else available + held, "what this machine has left")


def available_memory() -> int | None:
    """Bytes of the machine's memory that can be had, a container's limit minded; None if nobody tells."""
    found = []
    try:
        found.append(int(re.findall(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))[0]) * 1024)
    except (OSError, IndexError):
        try:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):  # Windows
            return None
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(read(most)) - int(read(used)))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(min(found), 0)


def read(path: str) -> str:
    """The text of a file of the system."""
    return Path(path).read_text(encoding="ascii")


def is_out_of_memory(error: BaseException) -> bool:
    """Was there too little memory, on whatever device?"""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def free() -> None:
    """Give back what nobody holds."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def over(peak: int, room: Room) -> str:
    """Words for more than may be."""
    return f"it came to hold {shown_bytes(peak)}, of {shown_bytes(room.bytes or 0)}."


def first_line(error: BaseException) -> str:
    """The beginning of its message."""
    return (str(error).strip() or "no memory").splitlines()[0][:200].rstrip(".")


def as_bytes(limit: Any) -> int:
    """Bytes, as a whole number or in words, as `"4 GB"` (4e9) or `"4 GiB"` (4 * 2**30).

    Raises:
        TypeError, ValueError: it is neither, or none.
    """
    words = "write bytes as a whole number above 0, or as in '4 GB', '500 MB', '3.5 GiB'."
    if isinstance(limit, bool) or not isinstance(limit, (str, int)):
        raise TypeError(f"find_batch_size(limit={limit!r}): {words}")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(limit), re.IGNORECASE)
    unit = UNITS.get(found.group(2).lower()) if found else None
    if found is None or unit is None or float(found.group(1)) * unit < 1:
        raise ValueError(f"find_batch_size(limit={limit!r}): {words}")
    return int(float(found.group(1)) * unit)


def shown_bytes(number: float) -> str:
    """Bytes in a unit that suits them, of powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:.0f} bytes"
