"""What the layers give, as training goes on: means, spreads, dead units, and a picture of all of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.drawing import draw_histograms, draw_lines, new_axes, new_figure
from callbacks.core.settings import check_count, is_number
from callbacks.core.warning import warn
from callbacks.inspect.rows import Rows, put_recorded, recorded_of, stacked
from callbacks.model.named import as_patterns, find_layers
from callbacks.model.places import Places
from callbacks.place.device import tensors_in
from callbacks.place.hooks import Hooks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class ActivationStats(Callback):
    """Record what layers give: mean, standard deviation, share near zero, and a histogram at each step.

    `plot_histograms` draws fastai's colour picture, `plot_dead` the share near zero, `plot_layers` means and
    deviations. Only training is looked at, and a layer's last call of a step. What is measured stays on the
    device and is read once a pass. Hooks are on the layers only while a recorded batch is in the model. A
    model that `torch.compile` has compiled runs as it is written in these steps, since its layers are not
    to be seen otherwise.

    Args:
        layers: names of modules, with `*` for any letters, or of classes, as `"ReLU"`; by default all that
            have parameters and no modules within.
        every: which steps are recorded, as `"10 steps"`.
        n_bins: bins of the histogram of absolute values.
        highest: its upper edge; what lies beyond is counted in the top bin.
        near_zero: an item counts as near zero where its absolute value is at most this.

    Attributes:
        layer_names: what was recorded, in the order in which the model has them.
        steps: the recorded steps, of this fit or the last.
        means, stds, near_zeros: shape (steps, layers), float32; the deviation is that of the items given
            (divided by n). NaN where a layer was not called.
        histograms: shares of the items, shape (steps, layers, bins). NaN items are in no bin.

    Raises:
        ValueError: a setting cannot be used; or, before the first batch, the model has no such layer.

    Source: fastai, `callback.hook.ActivationStats` and its `color_dim`.
    """

    state = ("layer_names", "recorded")
    recorded = property(recorded_of, put_recorded)

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        *,
        every: str = "1 step",
        n_bins: int = 40,
        highest: float = 10.0,
        near_zero: float = 0.05,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_settings(n_bins, highest, near_zero)
        as_patterns("ActivationStats", "layers", layers)  # refuses what is none
        self.layers, self.every = layers, every
        self.n_bins, self.highest, self.near_zero = n_bins, highest, near_zero
        self.layer_names: list[str] = []
        self._rows = Rows("ActivationStats", every)
        self._modules: dict[nn.Module, int] = {}
        self._places: Places | None = None
        self._seen: dict[int, Tensor] = {}
        self._looking = ExitStack()  # what is there while a recorded batch is in the model
        self._n_missed = 0

    # What was recorded

    @property
    def steps(self) -> list[int]:
        """The recorded steps."""
        return self._rows.steps

    @property
    def means(self) -> Tensor:
        """Mean of each layer at each step."""
        return self._table()[..., 0]

    @property
    def stds(self) -> Tensor:
        """Standard deviation of each layer at each step."""
        return self._table()[..., 1]

    @property
    def near_zeros(self) -> Tensor:
        """Share of items near zero of each layer at each step."""
        return self._table()[..., 2]

    @property
    def histograms(self) -> Tensor:
        """Share of items in each bin, of each layer at each step."""
        return self._table()[..., 3:]

    def _table(self) -> Tensor:
        return self._rows.read().reshape(len(self.steps), len(self.layer_names), 3 + self.n_bins)

    # Record

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._rows = Rows("ActivationStats", self.every)
        self.layer_names, self._n_missed = [], 0

    def before_train(self, learn: LearnerProtocol) -> None:
        self._find(learn.model)

    def _find(self, model: nn.Module) -> None:
        """Look up the layers; those that a pass began with may be replaced in it."""
        patterns = as_patterns("ActivationStats", "layers", self.layers)
        found = find_layers(model, patterns, "ActivationStats")
        self.layer_names = self.layer_names or list(found)
        self._modules = {found[name]: n for n, name in enumerate(self.layer_names) if name in found}
        self._places = Places(model)

    def before_batch(self, learn: LearnerProtocol) -> None:
        self._drop()
        if self._rows.is_coming(learn):
            if self._places is None or not self._places.are_of(learn.model):
                self._find(learn.model)
            self._looking.enter_context(Hooks(self._modules, self._see))
            if "torch._dynamo" in sys.modules:  # else nothing is compiled
                self._looking.enter_context(torch.compiler.set_stance("force_eager"))

    def after_pred(self, learn: LearnerProtocol) -> None:
        self._looking.close()

    def after_step(self, learn: LearnerProtocol) -> None:
        if not self._rows.is_due(learn):
            return
        if not self._seen:
            self._n_missed += 1
            return
        missing = torch.full_like(next(iter(self._seen.values())), math.nan)
        self._rows.add(learn, stacked(self._seen.get(n, missing) for n in range(len(self.layer_names))))
        self._seen = {}

    def after_train(self, learn: LearnerProtocol) -> None:
        self._rows.read()  # the pass's one wait
        if self._n_missed and not self.steps:
            warn_of_nothing(self.layer_names)
            self._n_missed = 0

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._drop()
        self._modules, self._places = {}, None

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = next(tensors_in(output), None)
        if tensor is not None and tensor.numel():
            self._seen[self._modules[module]] = self._summary(tensor.detach())

    def _summary(self, tensor: Tensor) -> Tensor:
        """Mean, deviation, share near zero and histogram in a row, shape (3 + bins,)."""
        items = (tensor.abs() if tensor.is_complex() else tensor).float()
        sizes = items.abs()
        std, mean = torch.std_mean(items, correction=0)
        near_zero = (sizes <= self.near_zero).float().mean()
        shares = histogram(sizes, self.n_bins, self.highest) / items.numel()
        return torch.cat([torch.stack([mean, std, near_zero]), shares])

    def _drop(self) -> None:
        """Remove the hooks, and forget a step that was not made."""
        self._looking.close()
        self._seen = {}

    # Draw

    def plot_histograms(self) -> Figure:
        """Draw a picture of each layer: steps to the right, absolute value upwards, brightness as the share.

        In good health it is a broad band that does not collapse. Dark, with a bright line at the bottom: the
        layer is dead.

        Raises:
            ValueError: nothing was recorded.
        """
        self._rows.check("ActivationStats")
        return draw_histograms(self.steps, self.histograms, self.layer_names, self.highest)

    def plot_near_zero(self, *, ax: Axes | None = None) -> Axes:
        """Draw the share of items near zero, of dead units so, over steps; a line for each layer.

        Raises:
            ValueError: nothing was recorded.
        """
        self._rows.check("ActivationStats")
        ax = ax or new_axes(7, 4)
        draw_lines(ax, self.steps, self.near_zeros, self.layer_names)
        ax.set_ylim(-0.02, 1.02)
        ax.set_ylabel(f"share of items within {self.near_zero:g} of zero")
        return ax

    def plot_layers(self) -> Figure:
        """Draw mean and standard deviation over steps, a line for each layer.

        Raises:
            ValueError: nothing was recorded.
        """
        self._rows.check("ActivationStats")
        figure = new_figure(11, 4)
        axes = figure.subplots(1, 2)
        both = {"mean": self.means, "standard deviation": self.stds}
        for ax, (title, values) in zip(axes, both.items(), strict=True):
            draw_lines(ax, self.steps, values, self.layer_names)
            ax.set_title(title, fontsize="medium")
        axes[0].get_legend().remove()
        return figure


def histogram(sizes: Tensor, n_bins: int, highest: float) -> Tensor:
    """How many items lie in each of so many bins from 0 to `highest`; what is beyond is in the top bin.

    Args:
        sizes: not negative, any shape, float32; NaN is not counted.
        n_bins: of one width.
        highest: the upper edge of the last.

    Returns:
        Counts, shape (n_bins,), float32.
    """
    if not (sizes.is_cuda and torch.are_deterministic_algorithms_enabled()):  # where torch refuses histc
        return torch.histc(sizes.clamp(max=highest), n_bins, 0, highest)
    flat = sizes.flatten()
    places = (flat.nan_to_num(0) * (n_bins / highest)).clamp(max=n_bins - 1).long()
    counts = torch.zeros(n_bins, dtype=torch.long, device=flat.device)
    return counts.scatter_add_(0, places, (~flat.isnan()).long()).float()


def warn_of_nothing(layers: list[str]) -> None:
    """Say why a pass has recorded nothing."""
    warn(
        f"ActivationStats recorded nothing, as none of the layers {', '.join(layers[:5])} was called as a "
        "module, so layer(x). Where code calls layer.forward(x) or uses the weights alone, no hook hears of "
        "it: name layers that are called."
    )


def check_settings(n_bins: Any, highest: Any, near_zero: Any) -> None:
    """Refuse what cannot be used."""
    check_count("ActivationStats", "n_bins", n_bins, 2)
    for key, value, least in (("highest", highest, "above 0"), ("near_zero", near_zero, "0 or more")):
        if not is_number(value) or value < 0 or (value == 0 and key == "highest"):
            raise ValueError(f"ActivationStats({key}={value!r}): write a number, {least}.")
