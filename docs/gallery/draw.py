"""Draw the figures of the gallery: `python docs/gallery/draw.py`, a few minutes on one core.

The ports of the tests have random data and train for a moment. Here the same learners get real data,
wider networks and more epochs, with fixed seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]

import diabetes  # noqa: E402 - on the path by now
import gan  # noqa: E402
import my_model  # noqa: E402
from ports.generative import dcgan, ddpm, vae  # noqa: E402
from ports.pictures import super_resolution  # noqa: E402

from callbacks.history.drawing import BLUE, INK, new_panels  # noqa: E402
from learner import Interpretation  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"


def main() -> None:
    """Draw them all."""
    draw_vae()
    draw_dcgan()
    draw_ddpm()
    draw_super_resolution()
    draw_gan()
    draw_diabetes()
    draw_spirals()


def draw_vae() -> None:
    """Digits, and what is left of them after eight numbers."""
    torch.manual_seed(1)
    pictures = digits()[0].flatten(1)
    learn = vae.make_learner(made=(vae.VAE(64, 128, 8), list(pictures.split(64))))
    learn.fit(60)
    drawn, _, _ = learn.predict(pictures[:8])
    rows = [pictures[:8].view(-1, 8, 8), drawn.view(-1, 8, 8)]
    save(grid(rows, ["digits", "drawn from 8 numbers"]), "gallery_vae.png")


def draw_dcgan() -> None:
    """Digits that the generator draws from noise, beside real ones."""
    torch.manual_seed(999)
    real = 2 * digits()[0] - 1
    made = [each.apply(dcgan.initialize) for each in dcgan.networks(64)]
    learn = dcgan.make_learner(made=(*made, DataLoader(real, batch_size=64, shuffle=True)))
    learn.fit(100)
    with torch.no_grad():
        drawn = learn.predict(torch.randn(16, dcgan.N_CODES, 1, 1))
    save(grid([real[:8, 0], drawn[:8, 0], drawn[8:, 0]], ["real", "drawn", ""]), "gallery_dcgan.png")


def draw_ddpm() -> None:
    """Points of a ring that the model makes from noise."""
    torch.manual_seed(0)
    angles = 6.28 * torch.rand(1024)
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    train = DataLoader(TensorDataset(points), batch_size=256, shuffle=True)
    model, hidden = ddpm.Denoiser(), [nn.Linear(128, 128), nn.SiLU()]
    model.net = nn.Sequential(nn.Linear(10, 128), nn.SiLU(), *hidden, nn.Linear(128, 2))
    learn = ddpm.make_learner(made=(model, train))
    learn.fit(1500)
    path = denoised(model.eval(), 400)
    panels = new_panels(4, 8, 2.4, 4)
    for axes, n in zip(panels, (20, 10, 4, 0), strict=True):
        axes.scatter(*path[n].T.numpy(), s=2, color=BLUE)
        axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[], title=f"{n} steps left")
    save(panels[0].figure, "gallery_ddpm.png")


@torch.no_grad()
def denoised(model: Any, n_points: int) -> dict[int, Tensor]:
    """Remove noise step by step (algorithm 2); the points by the number of steps that are left."""
    points = torch.randn(n_points, 2)
    found = {ddpm.N_MOMENTS: points}
    betas = torch.linspace(1e-4, 0.3, ddpm.N_MOMENTS)
    for step in reversed(range(ddpm.N_MOMENTS)):
        noise = model(points, torch.full((n_points,), step))
        points = (points - betas[step] / model.noise[step] * noise) / (1 - betas[step]).sqrt()
        if step:
            points = points + betas[step].sqrt() * torch.randn_like(points)
        found[step] = points
    return found


def draw_super_resolution() -> None:
    """A flower at half its resolution, enlarged by interpolation and by the model."""
    flower, china = (grey(load_sample_image(name)) for name in ("flower.jpg", "china.jpg"))
    torch.manual_seed(123)
    parts = china, flower[:, :240], flower[:, 390:]  # the picture is drawn of what lies between
    targets = torch.cat([each.unfold(0, 32, 16).unfold(1, 32, 16).reshape(-1, 1, 32, 32) for each in parts])
    data = TensorDataset(F.avg_pool2d(targets, 2), targets)
    train, valid = torch.utils.data.random_split(data, [0.9, 0.1])
    made = super_resolution.SuperResolution(2, 32), DataLoader(train, 16, shuffle=True), DataLoader(valid, 64)
    learn = super_resolution.make_learner(made=made)
    learn.fit(50)
    whole = flower[150:278, 250:378][None, None]
    small = F.avg_pool2d(whole, 2)
    bicubic = F.interpolate(small, scale_factor=2, mode="bicubic").clamp(0, 1)
    ours = learn.predict(small).clamp(0, 1)
    print(
        "psnr", learn.history[-1], [float(-10 * F.mse_loss(each, whole).log10()) for each in (bicubic, ours)]
    )
    shown = [F.interpolate(small, scale_factor=2), bicubic, ours, whole]
    titles = ["half the pixels", "bicubic", "model", "original"]
    panels = new_panels(4, 8, 2.4, 4)
    for axes, each, title in zip(panels, shown, titles, strict=True):
        add_picture(axes, each[0, 0], title)
    save(panels[0].figure, "gallery_super_resolution.png")


def draw_gan() -> None:
    """Digits of the GAN of the examples."""
    learn = gan.make_learner()
    learn.fit(40)
    made, real = learn.get_preds(learn.data.train)
    save(grid([real[:8].view(-1, 8, 8), made[:8].view(-1, 8, 8)], ["real", "drawn"]), "gallery_gan.png")


def draw_diabetes() -> None:
    """Predictions of the example over what was measured."""
    learn = diabetes.make_learner()
    learn.fit(40)
    save(Interpretation(learn).plot_predictions().figure, "gallery_diabetes.png")


def draw_spirals() -> None:
    """The border between the classes of two spirals, as the example draws it; smaller, without margin."""
    path = FOLDER / "gallery_spirals.png"
    my_model.main(path)
    with Image.open(path) as picture:
        picture.crop(picture.getbbox()).reduce(2).quantize(128).save(path, optimize=True)


def grey(picture: Any) -> Tensor:
    """Grey values in [0, 1], shape (height, width)."""
    return torch.tensor(picture.copy()).float().mean(2) / 255


def digits() -> tuple[Tensor, Tensor]:
    """Images in [0, 1], shape (1797, 1, 8, 8), and their classes."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def grid(rows: list[Tensor], titles: list[str]) -> Any:
    """Rows of images."""
    n_columns = len(rows[0])
    panels = new_panels(len(rows) * n_columns, n_columns * 0.8, len(rows) * 0.95, n_columns)
    for place, picture in enumerate(torch.cat(rows)):
        row, column = divmod(place, n_columns)
        add_picture(panels[place], picture, "" if column else titles[row])
    return panels[0].figure


def add_picture(axes: Any, picture: Tensor, title: str) -> None:
    """Show one image in grey, without ticks."""
    axes.imshow(picture.numpy(), cmap="gray")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize="small", color=INK)
    axes.grid(visible=False)


def save(figure: Any, name: str) -> None:
    """Write a small PNG."""
    figure.savefig(FOLDER / name, dpi=100, metadata={"Software": None})
    print(name)


if __name__ == "__main__":
    main()
