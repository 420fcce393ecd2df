"""The search for a learning rate: train at a growing rate, and see how the loss changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from callbacks import Callback, CancelValidate, LearnerProtocol, Order
from callbacks.core.settings import check_count
from callbacks.history.drawing import BLUE, INK, MARKERS, VERMILLION, add_legend, new_axes
from callbacks.optim import hyperparameters
from callbacks.schedule.annealers import exp
from learner.messages.keywords import suggest_keywords
from learner.state.protocol import FullLearner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETA = 0.98  # of the running mean of the losses, as in fastai
N_FEWEST = 10  # steps that a suggestion needs
SUGGESTIONS = ("valley", "slide", "minimum", "steep")
NAMES = {"minimum": "minimum/10"}  # as printed, where it differs
MEANINGS = {
    "valley": "a rate to start with",
    "slide": "the largest before the loss jumps",
    "minimum": "a tenth of the rate at the lowest loss",
    "steep": "the loss falls most steeply",
}
# The drop of the loss, as a share of the first losses, and in standard errors of their difference. The errors
# were above 3 in 63 of 64 searches on untrained networks, and below 3 in 44 of 48 after ten epochs and more.
LEAST_DROP, LEAST_ERRORS = 0.05, 3.0
NO_FALL = "the loss falls at none of these rates, as if the model were trained already"


@dataclass(frozen=True, repr=False)
class LRSearch:
    """The result of a search: losses at growing rates, and the rates that they suggest.

    Attributes:
        rates: one per step, each larger than the one before by the same factor.
        losses: the running mean of the losses, debiased.
        raw: the losses themselves.

    If the loss does not fall, as on a trained model, `falls` is False and the suggestions mean nothing.
    """

    rates: list[float]
    losses: list[float]
    raw: list[float]

    @property
    def valley(self) -> float:
        """Two thirds down the longest descent; a rate to start with. The method of fastai's default."""
        rates, losses = self._middle()
        first, last = longest_descent(losses)
        return rates[first + (last - first) // 2 + (last - first) // 6]

    @property
    def slide(self) -> float:
        """The largest rate before the last sudden change of the loss."""
        rates, losses = self._middle()
        slopes = slopes_of(rates, losses)
        spread = max(abs(slope) for slope in slopes) or 1.0
        gap = max(1, len(slopes) // 7)
        right = len(slopes) - 1
        while right - gap > 0 and abs(slopes[right] - slopes[right - gap]) > 0.05 * spread:
            right -= 1
        return rates[max(right - gap, 0)]

    @property
    def minimum(self) -> float:
        """A tenth of the rate at the lowest loss. Smith 2017; fastai's `minimum`."""
        rates, losses = self._middle()
        return rates[losses.index(min(losses))] / 10

    @property
    def steep(self) -> float:
        """The rate at which the loss falls most steeply over the logarithm of the rate."""
        rates, losses = self._middle()
        slopes = slopes_of(rates, losses)
        return rates[slopes.index(min(slopes))]

    def _middle(self) -> tuple[list[float], list[float]]:
        """Rates and losses without the first tenth, where the mean is not stable yet, and the last steps."""
        first, last = len(self.rates) // 10, len(self.rates) - (5 if len(self.rates) > 4 * N_FEWEST else 0)
        return self.rates[first:last], self.losses[first:last]

    @property
    def falls(self) -> bool:
        """Does the loss fall by more than noise? If it does not, the suggestions mean nothing."""
        raw = torch.tensor(self.raw, dtype=torch.float64)
        first, width = raw[: max(len(raw) // 3, 4)], max(len(raw) // 10, 3)
        drop = first.mean() - raw.unfold(0, width, 1).mean(1).min()
        noise = (first.diff().square().mean() / 2).sqrt() * math.sqrt(1 / width + 1 / len(first))
        return bool(drop > LEAST_DROP * first.mean().abs() and drop > LEAST_ERRORS * noise)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the smoothed loss over the rate, with the suggestions, or a title that there are none.

        Args:
            ax: where to draw; by default a new figure of 7 x 4.5 inches.

        Returns:
            The axes; `.figure.savefig(path)` writes the plot.
        """
        ax = ax or new_axes(7, 4.5)
        raw = ax.plot(self.rates, self.raw, "-", color=INK, alpha=0.5, linewidth=1, label="loss")
        smooth = ax.plot(self.rates, self.losses, "-", color=BLUE, linewidth=2, label="smoothed")
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss", title="Nothing to suggest: no fall")
        if self.falls:
            ax.set_title(f"A rate to start with: {self.valley:.2g} (valley)")
            self._draw_suggestions(ax)
        self._set_limits(ax)
        add_legend(ax, handles=[*raw, *smooth], loc="upper left", ncols=2)
        return ax

    def _set_limits(self, ax: Axes) -> None:
        """Cut off the rise at the end; leave room for a legend above the curves, and for labels below."""
        last = self.losses.index(min(self.losses)) if self.falls else len(self.losses) - 1
        low, high = min(*self.raw, *self.losses), max(self.losses[: last + 1])
        bottom = low - (0.55 if self.falls else 0.1) * (high - low)
        highest = min(max(high, *self.raw[: last + 1]), 2 * high - low)  # a single loss may be much higher
        if highest > bottom:
            ax.set_ylim(bottom, bottom + (highest - bottom) / 0.88)

    def _draw_suggestions(self, ax: Axes) -> None:
        """Mark each suggestion on the curve, with its meaning on the left of a line down from it."""
        arrow = {"arrowstyle": "-", "color": VERMILLION, "shrinkA": 0}
        found = sorted((getattr(self, name), name) for name in SUGGESTIONS)
        is_narrow = ax.get_window_extent().width < 4 * ax.figure.dpi  # inches
        for place, (rate, name) in enumerate(found):
            at = min(range(len(self.rates)), key=lambda step: abs(math.log(self.rates[step] / rate)))
            label = f"{NAMES.get(name, name)} {rate:.2g}"
            is_left = math.log(rate / self.rates[0]) < 0.4 * math.log(self.rates[-1] / self.rates[0])
            dot = {"marker": MARKERS[place], "markersize": 7, "color": VERMILLION, "linestyle": ""}
            ax.plot(rate, self.losses[at], label=label, **dot)
            ax.annotate(
                f" {label} " if is_narrow else f" {label}: {MEANINGS[name]} ",
                (rate, self.losses[at]),
                (rate, 0.26 - 0.07 * place),
                textcoords=ax.get_xaxis_transform(),
                arrowprops=arrow | {"relpos": (1 - is_left, 0.5)},
                color=ax.xaxis.label.get_color(),
                ha="left" if is_left else "right",
                va="center",
                fontsize="small",
            )

    def __repr__(self) -> str:
        span = f"{len(self.rates)} steps up to {self.rates[-1]:.2g}"
        if not self.falls:
            return f"LRSearch(nothing to suggest: {NO_FALL}; {span})"
        found = (f"{NAMES.get(name, name)}={getattr(self, name):.2g}" for name in SUGGESTIONS)
        return f"LRSearch({', '.join(found)}; {span})"


@suggest_keywords
def lr_find(
    learn: FullLearner,
    start: float = 1e-7,
    end: float = 10.0,
    *,
    n_steps: int = 100,
    stop_factor: float | None = 4.0,
) -> LRSearch:
    """Train for some steps at a growing rate in a sandbox, and suggest a rate from the losses.

    Callbacks that measure, decide, report, save or average are left out. With several groups, the largest
    rate grows, and the ratios between the groups stay the same.

    Args:
        learn: the learner.
        start: the rate of the first step.
        end: the rate of the last step; each step multiplies the rate by the same factor.
        n_steps: the number of steps, at least 10; the data is repeated as often as needed.
        stop_factor: end the search when the smoothed loss is this many times the lowest one; None for never.

    Returns:
        The rates and losses, the suggestions `.valley`, `.slide`, `.minimum` and `.steep`, and `.plot()`.

    Raises:
        TypeError, ValueError: a setting cannot be used.
        RuntimeError: the loss is not finite, or grows, in the first steps.

    Source: Smith 2017, arXiv:1506.01186, section 3.3.
    """
    finder = Finder(start, end, n_steps, stop_factor)
    with learn.sandbox(), learn.without(*bystanders(learn)), learn.added(finder):
        learn.fit(n_steps)
    if len(finder.raw) < min(N_FEWEST, n_steps):
        raise RuntimeError(
            f"lr_find: only the first {len(finder.raw)} of {n_steps} steps had a usable loss, too few to "
            f"suggest a rate. Start with a lower rate than start={start:g}, raise stop_factor, or run "
            "learn.check()."
        )
    return LRSearch(finder.rates[: len(finder.raw)], finder.smoothed, finder.raw)


def bystanders(learn: FullLearner) -> list[Callback]:
    """The callbacks that measure, report, decide, save or average; those that change a training step stay."""
    return [
        each
        for each in learn.callbacks
        if each.order >= Order.MEASURE or each.averages_weights or each.only_observes
    ]


class Finder(Callback):
    """Raises the rate at each batch and records the losses."""

    order = Order.DECIDE

    def __init__(self, start: float, end: float, n_steps: int, stop_factor: float | None):
        super().__init__()
        check_settings(start, end, n_steps, stop_factor)
        self.rates = [exp(start, end)(step / (n_steps - 1)) for step in range(n_steps)]
        self.stop_factor = math.inf if stop_factor is None else stop_factor
        self.raw: list[float] = []
        self.smoothed: list[float] = []
        self._mean = 0.0
        self._ratios: list[float] = []

    def before_fit(self, learn: LearnerProtocol) -> None:
        groups = learn.optimizer.param_groups
        if not all("lr" in group for group in groups):
            title = type(learn.optimizer).__name__
            raise ValueError(
                f"lr_find: {title} has a parameter group without 'lr', so it has no rate to change."
            )
        rates = [float(group["lr"]) for group in groups]
        self._ratios = [rate / max(rates) if max(rates) else 1.0 for rate in rates]

    def before_batch(self, learn: LearnerProtocol) -> None:
        for group, ratio in zip(learn.optimizer.param_groups, self._ratios, strict=True):
            hyperparameters.put(group, "lr", self.rates[len(self.raw)] * ratio)

    def after_batch(self, learn: LearnerProtocol) -> None:
        loss = float(learn.ranks.whole_loss(learn))  # an intended wait: the next step depends on it
        if not math.isfinite(loss):
            learn.stop("the loss is not finite", alike=True)
            return
        self._mean = BETA * self._mean + (1 - BETA) * loss
        self.raw.append(loss)
        self.smoothed.append(self._mean / (1 - BETA ** len(self.raw)))
        if len(self.raw) == len(self.rates):
            learn.stop("the highest rate is reached", alike=True)
        elif len(self.raw) > N_FEWEST and self.smoothed[-1] > self.stop_factor * min(self.smoothed) > 0:
            learn.stop("the loss has grown", alike=True)

    def before_validate(self, learn: LearnerProtocol) -> None:
        raise CancelValidate


def check_settings(start: Any, end: Any, n_steps: Any, stop_factor: Any) -> None:
    """Refuse invalid settings."""
    for name, value in (
        ("start", start),
        ("end", end),
        ("stop_factor", 2.0 if stop_factor is None else stop_factor),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"lr_find({name}={value!r}): {name} must be a number.")
    if not 0 < start < end < math.inf:
        raise ValueError(
            f"lr_find(start={start!r}, end={end!r}): pass two rates above 0, the lower one first."
        )
    check_count("lr_find", "n_steps", n_steps, N_FEWEST)
    if stop_factor is not None and not stop_factor > 1:
        raise ValueError(
            f"lr_find(stop_factor={stop_factor!r}): stop_factor must be a number above 1, or None."
        )


def slopes_of(rates: list[float], losses: list[float]) -> list[float]:
    """The slope of the losses over the logarithm of the rates."""
    logs = torch.tensor(rates, dtype=torch.float64).log()
    return torch.gradient(torch.tensor(losses, dtype=torch.float64), spacing=(logs,))[0].tolist()


def longest_descent(losses: list[float]) -> tuple[int, int]:
    """First and last step of the longest subsequence of falling losses, by dynamic programming."""
    lengths, starts = [1] * len(losses), list(range(len(losses)))
    for step, loss in enumerate(losses):
        for before in range(step):
            if losses[before] > loss and lengths[before] >= lengths[step]:
                lengths[step], starts[step] = lengths[before] + 1, starts[before]
    last = lengths.index(max(lengths))
    return starts[last], last
