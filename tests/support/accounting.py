"""The memory that a piece of work takes, as the allocator reports it to torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_by_profiler(work: Callable[[], object]) -> int:
    """The most bytes that were allocated within the block and held at the same time on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    found = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted(
        ((each.start_ns(), each.nbytes()) for each in found if each.name() == "[memory]"),
        key=lambda change: change[0],
    )
    now = peak = 0
    for _, n_bytes in changes:
        now += n_bytes
        peak = max(peak, now)
    return peak
