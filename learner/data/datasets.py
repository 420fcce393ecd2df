"""Small data sets for recipes and examples; each function returns the data for a Learner."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.core.draws import draw_seed
from learner.data.data import Data
from learner.data.tensors import draw_rows

__all__ = ["article", "diabetes", "digits"]


def article() -> tuple[Tensor, Tensor]:
    """The article's 20 noisy points of a parabola, as one batch without validation.

    They are drawn from torch's random state: with the seed 2021, and a model that draws `torch.randn(3)`
    next, training prints the article's digits.

    Returns:
        Time, 0 to 19, and speed, each of shape (20,).

    Source: "Gradient Descent: Design Your First Machine Learning Model", 2021.
    """
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)  # the article prints and discards these; its model draws the next three
    return time, speed


def digits(
    *,
    batch_size: int = 64,
    valid: float = 0.2,
    shape: Literal["flat", "image"] = "flat",
    seed: int | None = None,
) -> Data:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, scaled to the range 0 to 1.

    Args:
        batch_size: images per batch; validation uses twice as many.
        valid: the share of the images to hold out.
        shape: images of shape (64,), or (1, 8, 8) for convolutions.
        seed: for split and order; by default drawn from torch's random state.

    Returns:
        Images, float32, and their digits, int64 from 0 to 9.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: the shape is unknown.
    """
    if shape not in ("flat", "image"):
        raise ValueError(f"digits(shape={shape!r}): choose 'flat' or 'image'.")
    found = load("load_digits")
    images = torch.as_tensor(found.data, dtype=torch.float32) / 16
    images = images if shape == "flat" else images.reshape(-1, 1, 8, 8)
    return Data.from_tensors(images, torch.as_tensor(found.target), batch_size, valid=valid, seed=seed)


def diabetes(*, batch_size: int = 64, valid: float = 0.2, seed: int | None = None) -> Data:
    """scikit-learn's diabetes study: 10 measurements of 442 people, and how the disease progressed in a year.

    Measurements and targets have mean 0 and deviation 1 over the training part, so predicting the mean has an
    RMSE of 1.

    Args:
        batch_size: people per batch; validation uses twice as many.
        valid: the share of the people to hold out.
        seed: for split and order; by default drawn from torch's random state.

    Returns:
        Measurements of shape (10,) and targets of shape (1,), float32.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    found = load("load_diabetes")
    inputs = torch.as_tensor(found.data, dtype=torch.float32)
    targets = torch.as_tensor(found.target, dtype=torch.float32).unsqueeze(1)
    seed = draw_seed() if seed is None else seed
    parts = [(inputs[rows], targets[rows]) for rows in draw_rows(len(inputs), {"valid": valid}, seed)]
    train, test = (standardise(part, parts[0]) for part in parts)
    return Data.from_tensors(train[0], train[1], batch_size, valid=(test[0], test[1]), seed=seed)


def standardise(tensors: tuple[Tensor, ...], by: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Subtract the means of the columns of `by`, and divide by their deviations."""
    pairs = zip(tensors, by, strict=True)
    return tuple((tensor - other.mean(0)) / other.std(0) for tensor, other in pairs)


def load(name: str) -> Any:
    """Call a loader of scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ModuleNotFoundError(
            f"this data set is part of scikit-learn, which cannot be imported ({error}). Install it: "
            "pip install scikit-learn"
        ) from error
    return getattr(datasets, name)()
