"""Statistics of layer outputs during training: means, standard deviations, dead units, histograms."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.settings import check_count, check_number
from callbacks.core.warning import warn
from callbacks.history.drawing import draw_histograms, draw_lines, new_axes, new_panels
from callbacks.inspect.recording import Recording, stacked
from callbacks.model.held import Held
from callbacks.model.named import find_layers
from callbacks.place.device import tensors_in
from callbacks.place.hooks import Hooks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class ActivationStats(Callback):
    """Record the outputs of layers: mean, standard deviation, share near zero, and a histogram at each step.

    `plot_histograms` draws fastai's colour image, `plot_near_zero` the share near zero, `plot_layers` means
    and standard deviations. Only training steps are recorded, and only a layer's last call in a step. Numbers
    stay on the device and are read once per pass. Layers have hooks only while a recorded batch runs through
    the model. A compiled model (`torch.compile`) runs eagerly in recorded steps, because hooks require that.

    Args:
        layers: names of modules, with `*` for any characters, or of classes, such as `"ReLU"`; by default all
            layers that have parameters and no submodules.
        every: which steps are recorded, as in `"10 steps"`.
        n_bins: bins of the histogram of absolute values.
        highest: the histogram's upper edge; larger values count in the top bin.
        near_zero: an item counts as near zero if its absolute value is at most this.

    Attributes:
        layer_names: the recorded layers, in the order in which the model has them.
        steps: the recorded steps of this fit, or of the last one.
        means, stds, near_zeros: shape (steps, layers), float32; the standard deviation divides by n. NaN if a
            layer was not called.
        histograms: shares of the items, shape (steps, layers, bins). NaN items are in no bin.

    Raises:
        TypeError, ValueError: a setting is invalid; or, before the first batch, the model has no such layer.

    Source: fastai, `callback.hook.ActivationStats` and its `color_dim`.
    """

    only_observes = True
    state = ("layer_names", "recorded")
    layer_names = Held[list[str]]("_recording", "names", "The recorded layers.")
    recorded = Held[dict[str, Any]]("_recording", "recorded", "All that was recorded, as plain data.")
    steps = Held[list[int]]("_recording", "steps", "The recorded steps.")

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
        self.layers, self.every = layers, every
        self.n_bins, self.highest, self.near_zero = n_bins, highest, near_zero
        self._recording = Recording("ActivationStats", "layers", layers, every, find_layers)
        self._seen: dict[nn.Module, Tensor] = {}
        self._looking = ExitStack()  # hooks, while a recorded batch is in the model
        self._n_missed = 0

    # What was recorded

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
        return self._recording.table(3 + self.n_bins)

    # Record

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._recording.begin(self.layers, self.every)
        self._n_missed = 0

    def before_train(self, learn: LearnerProtocol) -> None:
        self._recording.look_up(learn.model)

    def before_batch(self, learn: LearnerProtocol) -> None:
        self._drop()
        if self._recording.is_coming(learn):
            layers = [each for each in self._recording.parts if each is not None]
            self._looking.enter_context(Hooks(layers, self._see))
            if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled
                self._looking.enter_context(torch.compiler.set_stance("force_eager"))

    def after_pred(self, learn: LearnerProtocol) -> None:
        self._looking.close()

    def after_step(self, learn: LearnerProtocol) -> None:
        if not self._recording.is_due(learn):
            return
        if not self._seen:
            self._n_missed += 1
            return
        missing = torch.full_like(next(iter(self._seen.values())), math.nan)
        self._recording.add(learn, stacked(self._seen.get(each, missing) for each in self._recording.parts))
        self._seen = {}

    def after_train(self, learn: LearnerProtocol) -> None:
        self._recording.read()  # the pass's one wait
        if self._n_missed and not self.steps:
            warn_of_nothing(self.layer_names)
            self._n_missed = 0

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._drop()
        self._recording.end()

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = next(tensors_in(output), None)
        if tensor is not None and tensor.numel():
            self._seen[module] = self._summary(tensor.detach())

    def _summary(self, tensor: Tensor) -> Tensor:
        """Mean, standard deviation, share near zero and histogram, shape (3 + bins,)."""
        items = (tensor.abs() if tensor.is_complex() else tensor).float()
        sizes = items.abs()
        std, mean = torch.std_mean(items, correction=0)
        near_zero = (sizes <= self.near_zero).float().mean()
        shares = histogram(sizes, self.n_bins, self.highest) / items.numel()
        return torch.cat([torch.stack([mean, std, near_zero]), shares])

    def _drop(self) -> None:
        """Remove the hooks, and drop what a batch without a step has left."""
        self._looking.close()
        self._seen = {}

    # Draw

    def plot_histograms(self) -> Figure:
        """Draw an image of each layer: steps on x, absolute values on y, brightness for the share.

        A healthy layer shows a broad band that does not collapse. A dark image with a bright line at the
        bottom means that the layer is dead. A layer that was never called has no panel.

        Raises:
            ValueError: nothing was recorded.
        """
        self._recording.check()
        return draw_histograms(self.steps, self.histograms, self._recording.labels, self.highest)

    def plot_near_zero(self, *, ax: Axes | None = None) -> Axes:
        """Draw the share of items near zero over steps, which shows dead units; a line for each layer.

        Raises:
            ValueError: nothing was recorded.
        """
        self._recording.check()
        ax = ax or new_axes(8, 4)
        draw_lines(ax, self.steps, self.near_zeros, self._recording.labels)
        ax.set_ylim(-0.02, 1.02)
        ax.set_title("Outputs near zero per layer")
        ax.set_ylabel(f"share of the outputs within {self.near_zero:g} of zero")
        return ax

    def plot_layers(self) -> Figure:
        """Draw mean and standard deviation over steps, a line for each layer.

        Raises:
            ValueError: nothing was recorded.
        """
        self._recording.check()
        axes = new_panels(2, 12, 4, 2)
        both = {"mean": self.means, "standard deviation": self.stds}
        for ax, (title, values) in zip(axes, both.items(), strict=True):
            draw_lines(ax, self.steps, values, self._recording.labels)
            ax.set_title(f"{title.capitalize()} of the outputs per layer")
            ax.set_ylabel(title)
        legend = axes[0].get_legend()
        if legend is not None:  # the other panel has the same one
            legend.remove()
        figure: Any = axes[0].figure
        return figure


def histogram(sizes: Tensor, n_bins: int, highest: float) -> Tensor:
    """Counts in `n_bins` equal bins from 0 to `highest`; larger items count in the top bin.

    `sizes` are not negative, float32, of any shape; NaN is not counted. The result has the shape (n_bins,),
    float32.
    """
    if not (sizes.is_cuda and torch.are_deterministic_algorithms_enabled()):  # where torch refuses histc
        return torch.histc(sizes.clamp(max=highest), n_bins, 0, highest)
    flat = sizes.flatten()
    places = (flat.nan_to_num(0) * (n_bins / highest)).clamp(max=n_bins - 1).long()
    counts = torch.zeros(n_bins, dtype=torch.long, device=flat.device)
    return counts.scatter_add_(0, places, (~flat.isnan()).long()).float()


def warn_of_nothing(layers: list[str]) -> None:
    """Warn that a pass has recorded nothing, with the reason."""
    warn(
        f"ActivationStats recorded nothing, because none of the layers {', '.join(layers[:5])} was called "
        "as a module, layer(x). layer.forward(x), or code that only uses the weights, calls no hooks. "
        "Pass layers that the model calls, with ActivationStats(layers=[...])."
    )


def check_settings(n_bins: Any, highest: Any, near_zero: Any) -> None:
    """Refuse invalid settings."""
    check_count("ActivationStats", "n_bins", n_bins, 2)
    check_number("ActivationStats", "highest", highest, lambda x: x > 0, "a number, above 0")
    check_number("ActivationStats", "near_zero", near_zero, lambda x: x >= 0, "a number, 0 or more")
