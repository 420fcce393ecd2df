"""Look through what a checkpoint file holds before any of it is made, then let torch load it."""

from __future__ import annotations

import io
from typing import IO, Any

import torch


def load(file: IO[bytes], length: int) -> Any:
    """Load the payload, the first bytes of a file, with `weights_only=True`."""
    file.seek(0)
    return torch.load(io.BytesIO(file.read(length)), map_location="cpu", weights_only=True)
