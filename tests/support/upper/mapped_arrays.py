"""Arrays in files, and batches of them."""

from __future__ import annotations

import numpy as np
import torch

N, SIZE = 1000, 12


def on_disk(folder, array, name="items.npy"):
    np.save(folder / name, array)
    return np.load(folder / name, mmap_mode="r")


def numbers(batches):
    return torch.cat([batch[0][:, 0] for batch in batches]).div(4).long()


A = torch.ones(4)
