"""Whether a smaller or a larger number is better."""

# pyright: strict

from __future__ import annotations

from typing import Literal

Direction = Literal["min", "max"]


def guess_direction(name: str) -> Direction | None:
    """The better direction of a column whose metric does not declare one, guessed from common names."""
    ending = name.removeprefix("train_").removeprefix("valid_")
    if ending in ("loss", "mse", "rmse", "mae"):
        return "min"
    return "max" if ending in ("accuracy", "r2") else None
