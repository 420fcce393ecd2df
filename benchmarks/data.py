"""What an epoch over tensors in memory costs by `TensorLoader`, and by `DataLoader(TensorDataset(...))`.

Run: python benchmarks/data.py [rounds]

60,000 items of 784 float32 and a class number, in shuffled batches of 64, on one thread and without a model.
Every round goes through each loader once, in turn; the ratio is the median over rounds of both times of one.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from learner import Data

N_ITEMS, N_FEATURES, BATCH_SIZE = 60_000, 784, 64
LIMIT = 0.25  #: at most this part of DataLoader's time


def seconds(loader: Iterable[Any]) -> float:
    begun = time.perf_counter()
    n_items = sum(len(targets) for _, targets in loader)
    assert n_items == N_ITEMS
    return time.perf_counter() - begun


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    inputs, targets = torch.rand(N_ITEMS, N_FEATURES), torch.randint(10, (N_ITEMS,))
    loaders = {
        "DataLoader": DataLoader(TensorDataset(inputs, targets), BATCH_SIZE, shuffle=True),
        "TensorLoader": Data.from_tensors(inputs, targets, BATCH_SIZE, valid=None).train,
    }
    taken = [{name: seconds(loader) for name, loader in loaders.items()} for _ in range(rounds)]
    for name in loaders:
        print(f"{name:<16}{statistics.median(each[name] for each in taken) * 1e3:>8.0f} ms an epoch")
    ratio = statistics.median(each["TensorLoader"] / each["DataLoader"] for each in taken)
    print(f"ratio           {ratio:>8.3f} (median of {rounds} rounds; at most {LIMIT})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
