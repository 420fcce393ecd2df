"""Train for a few steps at one batch size, to measure memory and time, or to find that it does not fit."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from callbacks import DevicePlacement
from callbacks.place.device import tensors_in, tensors_of
from learner.state.protocol import FullLearner
from learner.tools.cost_runs import alone, fit, why_not
from learner.tools.live_bytes import LiveBytes, OverLimit
from learner.tools.meter import Watch

N_GUARDED = 2  # steps whose memory is measured: in the second one the optimizer has its state
NATIVE = ("cuda", "xpu")  # devices whose allocator counts bytes itself
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
SIGNS = (  # parts of messages of a RuntimeError that mean too little memory
    "out of memory",  # accelerators
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True)
class SizeTrial:
    """The result of a few training steps at one batch size.

    Attributes:
        size: items per batch.
        peak: most bytes in use: weights, optimizer state, the batch and all tensors computed from it, without
            the data set; 0 if it did not fit.
        seconds: median time of a step, without fetching the batch; 0 if it did not fit.
        why_not: why it did not fit; None if it did.
        out_of_memory: did the device or the machine run out of memory?
    """

    size: int
    peak: int = 0
    seconds: float = 0.0
    why_not: str | None = None
    out_of_memory: bool = False

    @property
    def fits(self) -> bool:
        """Was there enough memory?"""
        return self.why_not is None

    @property
    def items_per_second(self) -> float:
        """Items per second; 0 if it did not fit."""
        return self.size / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Room:
    """How many bytes training may use, None if that is not known, and where the limit comes from."""

    bytes: int | None
    origin: str


class Trials:
    """Tries sizes, each in its own sandbox. `limit` is what the user passed; `n_steps` are timed."""

    def __init__(
        self, learn: FullLearner, make_batch: Callable[[int], Any], limit: str | int | None, n_steps: int
    ):
        self.learn, self.make_batch, self.n_steps = learn, make_batch, n_steps
        self.left_out = {each.name: reason for each in learn.callbacks if (reason := why_not(each))}
        placed = [each.device for each in learn.callbacks if isinstance(each, DevicePlacement)]
        self.device = placed[0] if placed else learn.device  # the model's in a fit
        with alone(learn, self.left_out, "learn.find_batch_size()"):  # its copies need memory too
            self.room = room_of(self.device, limit, sum(each.nbytes for each in held_by(learn)))
        self.is_guarded = limit is not None or self.device.type not in NATIVE
        self.tried: list[SizeTrial] = []
        self.held = 0

    def attempt(self, size: int) -> SizeTrial:
        """Try a size, unless the sizes tried before show that it cannot fit."""
        trial = self._predict(size) or self._try(size)
        self.tried.append(trial)
        return trial

    def _predict(self, size: int) -> SizeTrial | None:
        """A trial that does not fit, if the line through the two largest sizes exceeds the limit."""
        done = sorted((trial for trial in self.tried if trial.fits), key=lambda trial: trial.size)[-2:]
        if not self.is_guarded or self.room.bytes is None or len(done) < 2 or size < done[1].size:
            return None
        low, high = done
        peak = high.peak + (high.peak - low.peak) / (high.size - low.size) * (size - high.size)
        if peak <= self.room.bytes:
            return None
        words = f"it would need about {shown_bytes(peak)} of {shown_bytes(self.room.bytes)}; not tried."
        return SizeTrial(size, why_not=words)

    def _try(self, size: int) -> SizeTrial:
        try:
            peak = self._measure(size)
            if self.room.bytes is None or not self.is_guarded or peak <= self.room.bytes:
                return SizeTrial(size, peak, self._time(size))
            words, out_of_memory = over(peak, self.room), False
        except OverLimit as error:
            words, out_of_memory = over(error.held, self.room), False
        except Exception as error:
            if not is_out_of_memory(error):
                error.add_note(f"at a batch size of {size}")
                raise
            words, out_of_memory = f"{type(error).__name__}: {first_line(error)}.", True
        free()  # only here: the error has held the frames whose tensors did not fit
        return SizeTrial(size, why_not=words, out_of_memory=out_of_memory)

    def _measure(self, size: int) -> int:
        """Most bytes in use during a few steps."""
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
        """Most bytes in use, by the count of the device's allocator. Not yet run on such a device."""
        free()
        torch.accelerator.reset_peak_memory_stats(self.device)
        before = torch.accelerator.memory_allocated(self.device)
        fit(self.learn, self._watch(size, N_GUARDED), n_epochs=2)
        return torch.accelerator.max_memory_allocated(self.device) - before + held

    def _time(self, size: int) -> float:
        """Seconds per step, without counting memory."""
        with alone(self.learn, self.left_out, "learn.find_batch_size()"):
            watch = fit(self.learn, self._watch(size, self.n_steps + 1), n_epochs=1)
        return median(watch.works[1:] or watch.works)

    def _watch(self, size: int, n_steps: int) -> Watch:
        def make_batches(_loader: Any) -> Iterator[Any]:
            return (self.make_batch(size) for _ in range(n_steps if self.learn.training else 1))

        return Watch(self.learn, n_steps, make_batches)


def held_by(learn: FullLearner) -> list[Tensor]:
    """Weights, buffers, gradients, and the state of optimizer and callbacks."""
    state, kept = learn.optimizer.state_dict(), [each.state_dict() for each in learn.callbacks]
    gradients = [each.grad for each in learn.model.parameters() if each.grad is not None]
    return [*tensors_of(learn.model), *gradients, *tensors_in(state), *tensors_in(kept)]


def room_of(device: torch.device, limit: str | int | None, held: int) -> Room:
    """How much training may use: the user's limit, or the free memory and what it already uses."""
    if limit is not None:
        return Room(as_bytes(limit), "your limit")
    if device.type in NATIVE:
        free_bytes, _ = torch.accelerator.get_memory_info(device)
        reserved = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
        return Room(free_bytes + reserved + held, f"the free memory of {device}")
    available = available_memory()
    return Room(None if available is None else available + held, "the free memory of this machine")


def available_memory() -> int | None:
    """Bytes of the machine's free memory, within a container's limit; None if the system does not show it."""
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
    """Does the error mean too little memory, on any device?"""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def free() -> None:
    """Free what is no longer used."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def over(peak: int, room: Room) -> str:
    """The message about a size that needs too much."""
    return f"it needs {shown_bytes(peak)} of {shown_bytes(room.bytes or 0)}."


def first_line(error: BaseException) -> str:
    """The first line of its message."""
    return (str(error).strip() or "no memory").splitlines()[0][:200].rstrip(".")


def as_bytes(limit: Any) -> int:
    """Bytes, from a whole number or a string, such as `"4 GB"` (4e9) or `"4 GiB"` (4 * 2**30)."""
    words = "write bytes as a whole number above 0, or as in '4 GB', '500 MB', '3.5 GiB'."
    if isinstance(limit, bool) or not isinstance(limit, (str, int)):
        raise TypeError(f"find_batch_size(limit={limit!r}): {words}")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", str(limit), re.IGNORECASE)
    number, prefix, binary = found.groups("") if found else ("0", "", "")
    n_bytes = int(float(number) * (1024 if binary else 1000) ** POWERS[prefix.lower()])
    if n_bytes < 1:
        raise ValueError(f"find_batch_size(limit={limit!r}): {words}")
    return n_bytes


def shown_bytes(number: float) -> str:
    """Bytes in a suitable unit, with powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:.0f} bytes"
