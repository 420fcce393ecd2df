"""Measure rates, gradients, speed and memory."""

from __future__ import annotations

import math
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from callbacks.core.contract import Callback, Direction, LearnerProtocol
from callbacks.core.modules import TrainedParameters
from callbacks.core.settings import is_number
from callbacks.history.scalars import Scalars, mean_and_largest
from callbacks.model.norms import total_norm


class LRMonitor(Callback):
    """Measure learning rate, momentum and weight decay of every parameter group after each training pass.

    The names are `lr_0`, `momentum_0` and `weight_decay_0` for the first group, and so on. The momentum of
    Adam and similar optimizers is their first beta. `Metrics` measures `lr`, the rate of the first group.
    """

    measures: Mapping[str, Direction | None] = {"lr_0": None}  # until a fit has shown the groups
    only_observes = True

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.measures = dict.fromkeys(settings_of(learn))

    def after_train(self, learn: LearnerProtocol) -> None:
        learn.results |= settings_of(learn)


def settings_of(learn: LearnerProtocol) -> dict[str, float]:
    """The settings of each group by name."""
    found = {}
    for n, group in enumerate(learn.optimizer.param_groups):
        momentum = group["betas"][0] if "betas" in group else group.get("momentum")
        settings = {"lr": group.get("lr"), "momentum": momentum, "weight_decay": group.get("weight_decay")}
        found |= {f"{name}_{n}": float(value) for name, value in settings.items() if value is not None}
    return found


class GradientNorms(Callback):
    """Measure the norm of all gradients together at each update, as the optimizer uses them.

    These are the gradients of the model and of trained parameters of the loss.

    Results of a training pass: `grad_norm`, the mean over its updates, and `grad_norm_max`. The norm is the
    root of the sum of all squares. Nothing waits for the device before the end of the pass.
    """

    only_observes = True
    measures: Mapping[str, Direction | None] = {"grad_norm": None, "grad_norm_max": None}
    state = ("norms",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._norms, self._trained = Scalars(), TrainedParameters()

    @property
    def norms(self) -> array[float]:
        """The norms of the current or last pass; waits for the device."""
        return self._norms.read()[:]

    @norms.setter
    def norms(self, norms: array[float]) -> None:
        self._norms = Scalars(norms[:])

    def before_train(self, learn: LearnerProtocol) -> None:
        self._norms.clear()

    def before_step(self, learn: LearnerProtocol) -> None:
        self._norms.append(total_norm(self._trained.gradients(learn)))

    def after_train(self, learn: LearnerProtocol) -> None:
        norms = self._norms.read()
        if norms:
            learn.results["grad_norm"], learn.results["grad_norm_max"] = mean_and_largest(norms)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._trained.clear()


class Throughput(Callback):
    """Measure the speed of each training pass, and the share of time that it waited for data.

    Results: `samples_per_second`, and `data_wait`, the share in [0, 1] of the pass that is spent between the
        end of one batch and the start of the next. Times are measured on the host, without waiting for a
        device. If `data_wait` is high, the loader is too slow: use more workers, or `Data.from_tensors`.
        Validations within the pass do not count. In a resumed pass, only the rest of the pass counts.

    Args:
        tokens: returns the number of tokens of a batch, e.g. `lambda batch: batch[0].numel()`; the result is
            `tokens_per_second`. It must not wait for the device.
        peak_flops: the peak of the device, in floating-point operations per second, e.g. 989e12 for an H100
            in bfloat16. The result is `flops_utilization`, the share in [0, 1] of this peak that the model
            used in the pass. The operations of the first training batch are counted, including its backward
            pass (`torch.utils.flop_counter`: matrix products, convolutions and attention), and other batches
            count by their number of items.

    Raises:
        TypeError, ValueError: `tokens` cannot be called, or `peak_flops` is not a number above 0.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B (model FLOPs utilization).
    """

    only_observes = True

    def __init__(
        self,
        *,
        tokens: Callable[[Any], int] | None = None,
        peak_flops: float | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if tokens is not None and not callable(tokens):
            raise TypeError(f"Throughput(tokens={tokens!r}): pass a function of a batch, such as len.")
        if peak_flops is not None and not (is_number(peak_flops) and peak_flops > 0):
            raise ValueError(f"Throughput(peak_flops={peak_flops!r}): pass a number above 0, e.g. 989e12.")
        self.tokens, self.peak_flops = tokens, peak_flops
        self._n_flops, self._n_counted = 0.0, 0  # of the first batch, and its items
        self._begun = self._ended = self._paused = 0.0  # of the pass, its last batch, and a validation in it

    @property
    def measures(self) -> Mapping[str, Direction | None]:  # type: ignore[override]
        """The names of the results."""
        found: dict[str, Direction | None] = {"samples_per_second": "max", "data_wait": "min"}
        if self.tokens is not None:
            found["tokens_per_second"] = "max"
        return found if self.peak_flops is None else {**found, "flops_utilization": "max"}

    @property
    def surrounds(self) -> tuple[str, ...]:  # type: ignore[override]
        """The operations whose floating-point operations are counted."""
        return () if self.peak_flops is None else ("forward", "compute_loss", "backward")

    @contextmanager
    def surround(self, learn: LearnerProtocol, operation: str) -> Iterator[None]:
        """Count the floating-point operations of the first training batch."""
        if self._n_counted or not learn.training:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is installed

        with FlopCounterMode(display=False) as counter:
            yield
        self._n_flops += counter.get_total_flops()

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._n_flops, self._n_counted = 0.0, 0

    def before_train(self, learn: LearnerProtocol) -> None:
        self._begun = self._ended = time.perf_counter()
        self._waited, self._n_samples, self._n_tokens = 0.0, learn.n_samples, 0

    def before_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            self._waited += time.perf_counter() - self._ended
            if not self._n_counted:
                self._n_flops = 0.0  # of a batch that was cancelled

    def after_batch(self, learn: LearnerProtocol) -> None:
        if learn.training:
            if self.tokens is not None:
                self._n_tokens += self.tokens(learn.batch)
            self._n_counted = self._n_counted or learn.n_items
            self._ended = time.perf_counter()

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._paused = time.perf_counter()

    def after_validate(self, learn: LearnerProtocol) -> None:
        seconds = time.perf_counter() - self._paused
        self._begun, self._ended = self._begun + seconds, self._ended + seconds

    def after_train(self, learn: LearnerProtocol) -> None:
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        speed = (learn.n_samples - self._n_samples) / seconds
        learn.results["samples_per_second"] = speed
        learn.results["data_wait"] = self._waited / seconds
        if self.tokens is not None:
            n_tokens = sum(learn.ranks.gather(self._n_tokens))
            learn.results["tokens_per_second"] = n_tokens / seconds
        if self.peak_flops is not None and self._n_counted:
            per_device = speed * self._n_flops / self._n_counted / learn.ranks.size
            learn.results["flops_utilization"] = per_device / self.peak_flops


class DeviceStats(Callback):
    """Measure the peak memory up to the end of each epoch, in units of 2**20 bytes.

    Results: `memory_mib`, the main memory of this process, and on a CUDA device `device_memory_mib`, the peak
    that torch has allocated there since the start of the fit.
    """

    only_observes = True
    measures: Mapping[str, Direction | None] = {"memory_mib": "min", "device_memory_mib": "min"}

    def before_fit(self, learn: LearnerProtocol) -> None:
        if learn.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(learn.device)

    def after_epoch(self, learn: LearnerProtocol) -> None:
        learn.results["memory_mib"] = peak_memory()
        if learn.device.type == "cuda":
            learn.results["device_memory_mib"] = torch.cuda.max_memory_allocated(learn.device) / 2**20


def peak_memory() -> float:
    """The peak main memory of this process; NaN if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
