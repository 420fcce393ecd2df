"""Values that change during training: functions of progress, for `ParamScheduler`.

    lin(0.1, 0.0)(0.25)                  # 0.075
    one_cycle(0.004, 0.1, 1e-6)(0.25)    # 0.1, the peak

Progress is 0 at the first batch of a fit and 1 at its last. You can also write your own function of progress.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Literal

from callbacks.core.missing_names import suggest_arguments
from callbacks.schedule import plain_curves as curves

__all__ = [
    "combine",
    "constant",
    "cos",
    "exp",
    "flat_cos",
    "lin",
    "one_cycle",
    "poly",
    "sgdr",
    "warmup_cosine",
    "wsd",
]


@dataclass(frozen=True)
class Annealer:
    """A value as a function of progress; two with the same name and arguments are equal."""

    name: str
    arguments: tuple[object, ...]
    value: Callable[..., float] = field(compare=False)
    in_steps: bool = field(default=False, compare=False)  #: does `value` take the number of steps too?

    def __call__(self, progress: float, n_steps: int | None = None) -> float:
        """The value at a point.

        Args:
            progress: from 0 at the start to 1 at the end; clipped to that range.
            n_steps: how many steps the whole has; phases then end as described in `combine`.
        """
        progress = min(max(progress, 0.0), 1.0)
        return self.value(progress, n_steps) if self.in_steps else self.value(progress)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.arguments))})"


# From one value to another


def constant(value: float) -> Annealer:
    """The same value at any progress."""
    return Annealer("constant", (checked("constant", value),), partial(curves.constant, value))


def lin(start: float, end: float) -> Annealer:
    """Change linearly from `start` to `end`.

    Raises:
        TypeError, ValueError: a value is not a finite number; this is so for all functions of this module.
    """
    checked("lin", start, end)
    return Annealer("lin", (start, end), partial(curves.lin, start, end))


def cos(start: float, end: float) -> Annealer:
    """Change along half a cosine from `start` to `end`: slowly, quickly, slowly.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """
    checked("cos", start, end)
    return Annealer("cos", (start, end), partial(curves.cos, start, end))


def exp(start: float, end: float) -> Annealer:
    """Change exponentially, by the same factor at each step.

    Raises:
        ValueError: `start` and `end` are not both above 0, or both below.
    """
    checked("exp", start, end)
    if start * end <= 0:
        raise ValueError(f"exp({start!r}, {end!r}): both must be above 0, or both below; use lin or cos.")
    return Annealer("exp", (start, end), partial(curves.exp, start, end))


def poly(start: float, end: float, power: float) -> Annealer:
    """Change with a power of progress: late if `power` is above 1, early if it is between 0 and 1.

    Raises:
        ValueError: `power` is not above 0.
    """
    checked("poly", start, end, power)
    if power <= 0:
        raise ValueError(f"poly(power={power!r}): power must be a number above 0.")
    return Annealer("poly", (start, end, power), partial(curves.poly, start, end, power))


# In phases


def combine(shares: Sequence[float], parts: Sequence[Callable[[float], float]]) -> Annealer:
    """Join several functions, one after the other.

    Let s be the sum of the shares up to the end of a phase. With `n_steps`, which `ParamScheduler` passes,
    the phase ends at step `s * n_steps - 1`, counted from 0, as in torch's `OneCycleLR`: if `s * n_steps` is
    a whole number, its last step has its end value. Without `n_steps`, it ends at progress s.

    Args:
        shares: the share of each part in the whole; they sum to 1. A part whose share is 0 is left out.
        parts: functions of progress; each runs from 0 to 1 in its share.

    Raises:
        TypeError: a part is not callable, or a share is not a number.
        ValueError: the numbers of shares and parts differ, or the shares do not sum to 1.
    """
    if not isinstance(shares, Iterable) or not isinstance(parts, Iterable):
        raise TypeError(
            f"combine({shares!r}, {parts!r}): pass several of both, as (0.3, 0.7), (lin(0, 1), cos(1, 0))."
        )
    shares, parts = tuple(shares), tuple(parts)
    for part in parts:
        if not callable(part):
            raise TypeError(f"combine: {part!r} is not a function of progress, as lin(0.1, 0.0) is.")
    if len(shares) != len(parts) or not parts:
        raise ValueError(f"combine: {len(shares)} shares for {len(parts)} parts. Pass one share per part.")
    checked("combine", *shares)
    if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"combine(shares={list(shares)}): they add up to {sum(shares):g}, not to 1.")
    kept = [(share, part) for share, part in zip(shares, parts, strict=True) if share > 0]
    ends = (*list(accumulate(share for share, _ in kept))[:-1], 1.0)
    value = partial(_combine, ends, tuple(part for _, part in kept))
    return Annealer("combine", (shares, parts), value, in_steps=True)


def _combine(
    ends: tuple[float, ...], parts: tuple[Callable[[float], float], ...], progress: float, n_steps: int | None
) -> float:
    if n_steps is not None and n_steps > 1:  # the last step of a phase has the phase's end value
        ends = (*((end * n_steps - 1) / (n_steps - 1) for end in ends[:-1]), 1.0)
    at = min(bisect_left(ends, progress), len(ends) - 1)
    start = max(ends[at - 1], 0.0) if at else 0.0
    return parts[at]((progress - start) / (ends[at] - start) if ends[at] > start else 1.0)


@suggest_arguments
def one_cycle(
    start: float, peak: float, end: float, pct_start: float = 0.25, anneal: Literal["cos", "linear"] = "cos"
) -> Annealer:
    """Rise along a cosine to a peak, then fall to `end` (1cycle); with a low peak, fall and then rise.

    Over whole steps it is `torch.optim.lr_scheduler.OneCycleLR` with `start = max_lr / div_factor`,
    `peak = max_lr`, `end = start / final_div_factor`.

    Args:
        start: the value at the start.
        peak: the value at the peak.
        end: the value at the end.
        pct_start: the position of the peak, in (0, 1).
        anneal: along half a cosine, or linearly, as torch's `anneal_strategy`.

    Raises:
        ValueError: `pct_start` is not in (0, 1), or `anneal` is neither.

    Source: Smith and Topin 2018, arXiv:1708.07120.
    """
    share = checked_share("one_cycle", "pct_start", pct_start)
    way = cos if anneal == "cos" else lin
    whole = combine((share, 1 - share), (way(start, peak), way(peak, end)))
    return named("one_cycle", whole, start, peak, end, share, *(() if anneal == "cos" else (anneal,)))


def flat_cos(value: float, end: float = 0.0, pct_start: float = 0.75) -> Annealer:
    """Stay at `value` up to the share `pct_start`, in [0, 1), then change along a cosine to `end`."""
    share = checked_share("flat_cos", "pct_start", pct_start, may_be_0=True)
    return named(
        "flat_cos", combine((share, 1 - share), (constant(value), cos(value, end))), value, end, share
    )


def warmup_cosine(peak: float, warmup: float = 0.1, start: float = 0.0, end: float = 0.0) -> Annealer:
    """Rise linearly to `peak` over the share `warmup`, in [0, 1), then change along a cosine to `end`."""
    share = checked_share("warmup_cosine", "warmup", warmup, may_be_0=True)
    whole = combine((share, 1 - share), (lin(start, peak), cos(peak, end)))
    return named("warmup_cosine", whole, peak, share, start, end)


def wsd(
    peak: float, warmup: float = 0.1, decay: float = 0.1, start: float = 0.0, end: float = 0.0
) -> Annealer:
    """Warm up, stay, decay: rise linearly to `peak`, stay there, then change linearly to `end`.

    Args:
        peak: the value between warm-up and decay.
        warmup: the share of the rise, in [0, 1).
        decay: the share of the decay, in [0, 1).
        start: the value at the start.
        end: the value at the end.

    Raises:
        ValueError: a share is not in [0, 1), or their sum is above 1.

    Source: Hu et al. 2024, arXiv:2404.06395, equation 1; linear decay as in Haegele et al. 2024.
    """
    up = checked_share("wsd", "warmup", warmup, may_be_0=True)
    down = checked_share("wsd", "decay", decay, may_be_0=True)
    if up + down > 1 + 1e-9:
        raise ValueError(f"wsd(warmup={warmup!r}, decay={decay!r}): their sum must be at most 1.")
    whole = combine((up, max(0.0, 1 - up - down), down), (lin(start, peak), constant(peak), lin(peak, end)))
    return named("wsd", whole, peak, up, down, start, end)


def sgdr(value: float, end: float = 0.0, n_cycles: int = 3, mult: float = 2.0) -> Annealer:
    """Fall along a cosine with restarts, each cycle `mult` times as long as the one before.

    Over whole steps it is `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`: each cycle starts at
    `value`, and the next one starts at the step where `end` would be reached.

    Raises:
        ValueError: `n_cycles` is not a whole number of 1 or more, or `mult` is not above 0.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, "SGDR".
    """
    checked("sgdr", value, end, mult)
    if type(n_cycles) is not int or n_cycles < 1 or mult <= 0:
        raise ValueError(
            f"sgdr(n_cycles={n_cycles!r}, mult={mult!r}): n_cycles must be 1 or more, and mult above 0."
        )
    lengths = [mult**cycle for cycle in range(n_cycles)]
    ends = tuple(length / sum(lengths) for length in accumulate(lengths))
    return Annealer("sgdr", (value, end, n_cycles, mult), partial(_sgdr, value, end, ends), in_steps=True)


def _sgdr(value: float, end: float, ends: tuple[float, ...], progress: float, n_steps: int | None) -> float:
    if n_steps is not None:
        progress *= (n_steps - 1) / n_steps
    at = next((number for number, limit in enumerate(ends) if progress < limit - 1e-9), len(ends) - 1)
    start = ends[at - 1] if at else 0.0
    return curves.cos(value, end, (progress - start) / (ends[at] - start))


# Checks


def named(name: str, annealer: Annealer, *arguments: object) -> Annealer:
    """The same annealer under another name."""
    return replace(annealer, name=name, arguments=arguments)


def checked(name: str, *values: float) -> float:
    """The first of the values; all must be finite numbers."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: {value!r} is not a number.")
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value!r} is not finite.")
    return values[0]


def checked_share(name: str, argument: str, share: float, *, may_be_0: bool = False) -> float:
    """A share in (0, 1), or in [0, 1) on request."""
    checked(name, share)
    if not 0 < share < 1 and not (may_be_0 and share == 0):
        words = "between 0 and 1, or 0" if may_be_0 else "between 0 and 1"
        raise ValueError(
            f"{name}({argument}={share!r}): {argument} must be a share of the whole {words}, such as 0.25."
        )
    return share
