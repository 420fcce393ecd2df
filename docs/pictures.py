"""Draw the figures of the docs: `python docs/pictures.py`.

The library draws each figure, with fixed seeds, and writes it to `docs/pictures/`.
"""

from __future__ import annotations

import contextlib
import math
import runpy
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from outputs import files_of
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from callbacks import (
    ActivationStats,
    CutMix,
    GradientFlow,
    LossSurface,
    Metrics,
    MixUp,
    PlotSnapshots,
    Recorder,
    WeightUpdates,
    ZeroGrad,
    accuracy,
    annealers,
    on,
)
from callbacks.history.drawing import BLUE, add_legend, new_axes, new_panels
from learner import Data, Interpretation, Learner
from learner.data.datasets import diabetes, digits

FOLDER = Path(__file__).parent / "pictures"
DPI = 100


class Quadratic(nn.Module):
    """a * time**2 + b * time + c."""

    def __init__(self, params: Tensor):
        super().__init__()
        self.params = nn.Parameter(params.clone())

    def forward(self, time: Tensor) -> Tensor:
        a, b, c = self.params
        return a * time**2 + b * time + c


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    draw_data()
    draw_six_steps(1e-5, (-100, 100), "six_steps.png")
    draw_rates()
    draw_six_steps(4e-5, (-250, 250), "swinging.png")  # the rate is too high
    draw_lr_find()
    draw_training()
    draw_numbers()
    draw_annealers()
    draw_surface()
    draw_first_model()
    for mixer in (MixUp(1.0, seed=3), CutMix(1.0, seed=3)):
        draw_mixed(mixer)


def draw_data() -> None:
    """The article's 20 points."""
    (time, speed), _ = article()
    ax = new_axes(6, 3.5)
    ax.scatter(time.numpy(), speed.numpy(), s=18, facecolors="none", edgecolors=BLUE)
    ax.set(xlabel="time", ylabel="speed", title="The data: 20 noisy points")
    save(ax.figure, "data.png")


def draw_six_steps(rate: float, ylim: tuple[int, int], name: str) -> None:
    """Predictions, in red, before each of the first six steps."""
    plot = PlotSnapshots(6, ylim=ylim)
    make_learner(rate, plot).fit(6)
    assert plot.figure is not None
    save(plot.figure, name)


def draw_rates() -> None:
    """The loss over the epochs for three learning rates: too low, right, too high."""
    ax = new_axes(6, 3.5)
    for rate in (1e-6, 1e-5, 4e-5):
        make_learner(rate).fit(10).plot("train_loss", ax=ax, yscale="log")
        ax.collections[-1].remove()  # the star of the best epoch, which is not the point here
        ax.lines[-1].set_label(f"lr {rate:g}")
    ax.set(ylabel="loss", title="1e-5 is right: 1e-6 is too low, 4e-5 too high")
    add_legend(ax)
    save(ax.figure, "rates.png")


def draw_lr_find() -> None:
    """The losses of a search for a rate, for a small network on handwritten digits."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    model, optimizer = nn.Sequential(body, nn.Linear(64, 10)), partial(torch.optim.AdamW, lr=1e-3)
    found = Learner(model, digits(), nn.functional.cross_entropy, optimizer).lr_find()
    save(found.plot().figure, "lr_find.png")


def draw_training() -> None:
    """The history of a fit, outputs and gradients of the layers, and what is confused."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = partial(torch.optim.AdamW, lr=3e-3)
    callbacks = [ActivationStats(), GradientFlow(), WeightUpdates()]
    learn = Learner(model, digits(), nn.functional.cross_entropy, optimizer, callbacks, [accuracy])
    save(learn.fit(8).plot().figure, "history.png")
    save(learn.history.plot(["train_loss", "valid_loss"], ax=new_axes(5, 3)).figure, "progress.png")
    save(learn.callbacks[WeightUpdates].plot(ax=new_axes(6, 3.2)).figure, "updates.png")
    save(learn.callbacks[ActivationStats].plot_histograms(), "activations.png")
    save(learn.callbacks[GradientFlow].plot(ax=new_axes(6, 2.8)).figure, "gradients.png")
    save(Interpretation(learn).plot_confusion_matrix().figure, "confusion.png")


def draw_numbers() -> None:
    """Predictions over targets of a regression."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.AdamW, lr=0.1)
    learn = Learner(nn.Linear(10, 1), diabetes(), nn.functional.mse_loss, optimizer)
    learn.fit(20)
    save(Interpretation(learn).plot_predictions().figure, "predictions.png")


def draw_annealers() -> None:
    """The values of six schedules over the progress of a fit."""
    shapes = {
        "lin(1, 0)": annealers.lin(1.0, 0.0),
        "cos(1, 0)": annealers.cos(1.0, 0.0),
        "one_cycle(0.04, 1, 0)": annealers.one_cycle(0.04, 1.0, 0.0),
        "flat_cos(1)": annealers.flat_cos(1.0),
        "warmup_cosine(1)": annealers.warmup_cosine(1.0),
        "wsd(1)": annealers.wsd(1.0),
    }
    progress = [step / 200 for step in range(201)]
    axes = new_panels(6, 5, 4.6, 2, sharex=True, sharey=True)
    for ax, (name, shape) in zip(axes, shapes.items(), strict=True):
        ax.plot(progress, [shape(each) for each in progress], color=BLUE, linewidth=1.8)
        ax.set_title(name, fontsize="small")
    for ax in axes[4:]:
        ax.set_xlabel("progress of the fit", fontsize="small")
    save(axes[0].figure, "annealers.png")


def draw_surface() -> None:
    """The path of two of the article's parameters over the loss."""
    path = LossSurface()
    learn = make_learner(1e-5, path)
    learn.fit(10)
    ax = path.plot(learn, ("params[0]", "params[1]"), n=33, margin=1, ax=new_axes(5, 3.8))
    save(ax.figure, "surface.png")


def draw_mixed(mixer: MixUp | CutMix) -> None:
    """Six simple pictures as one batch, mixed."""

    @on("after_pred")
    def draw(learn: Any) -> None:
        axes = new_panels(6, 6, 1.1, 6)
        for ax, item in zip(axes, learn.inputs[0], strict=True):
            ax.imshow(item[0].numpy(), cmap="viridis", vmin=0, vmax=1)
            ax.set_axis_off()
        save(axes[0].figure, f"{type(mixer).__name__.lower()}.png")

    torch.manual_seed(0)
    model, optimizer = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 6)), partial(torch.optim.SGD, lr=0.1)
    data, composed = Data([(simple_pictures(48), torch.arange(6))]), [ZeroGrad, mixer, draw]
    Learner(model, data, nn.functional.cross_entropy, optimizer, composed, defaults=()).fit(1)


def draw_first_model() -> None:
    """A batch and the losses of the page on the first model, from its own script."""
    with TemporaryDirectory() as folder, contextlib.chdir(folder), files_of(FOLDER.parent / "first_model.md"):
        learn = runpy.run_path("train.py")["learn"]
        save(learn.show_batch(9, classes=["disc", "square", "cross"]), "first_batch.png")
        save(learn.history.plot(["train_loss", "valid_loss"]).figure, "first_losses.png")


def simple_pictures(size: int) -> Tensor:
    """A disc, stripes, a cross, a ring, a square and diagonals, shape (6, 1, size, size), in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius = (x**2 + y**2).sqrt()
    found = [
        radius < 0.7,
        (y * 8).floor() % 2 == 0,
        (x.abs() < 0.2) | (y.abs() < 0.2),
        (radius - 0.65).abs() < 0.15,
        (x.abs() < 0.6) & (y.abs() < 0.6),
        ((x + y) * 5).floor() % 2 == 0,
    ]
    return torch.stack(found)[:, None].float()


def article() -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The data, `(time, speed)`, and the first parameters."""
    torch.manual_seed(2021)
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)
    return (time, speed), torch.randn(3)


def make_learner(rate: float, *callbacks: Any) -> Learner:
    """The article's learner; one step takes the whole series."""
    data, params = article()
    optimizer = partial(torch.optim.SGD, lr=rate)
    composed = [ZeroGrad, Metrics, Recorder, *callbacks]
    return Learner(Quadratic(params), data, nn.functional.mse_loss, optimizer, composed, defaults=())


def save(figure: Any, name: str) -> None:
    """Write a small PNG."""
    figure.savefig(FOLDER / name, dpi=DPI, metadata={"Software": None})
    size = math.ceil((FOLDER / name).stat().st_size / 1024)
    print(f"{name}: {size} KB")


if __name__ == "__main__":
    main()
