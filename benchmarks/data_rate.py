"""Items per second from a disk: the bare loader, a hand-written loop, and a learner over the same loader.

Run: python benchmarks/data_rate.py [rounds] [items]

The program writes the data first: pictures of 3 x 64 x 64 bytes, compressed with zlib in a file each, as
JPEG files are; the same pictures in one file that NumPy maps; and the compressed ones end to end in one
file, which an iterable data set reads as a stream. Each is decoded, cropped and flipped at random, and
batched by 64, without workers and with two. The model is one linear layer, so that the data sets the pace.

In each round the loader is read alone, by a loop by hand with forward, loss, backward, step and zero_grad,
and by a learner that does the same. The table has medians: items per second of the bare loader, the times
of the loop by hand and of the learner compared with it, and the range of the middle half of the learner's.
Then `learn.cost()` prints the share of a step in which the loop waits for data, and what to do.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from callbacks import ZeroGrad
from learner import Data, Learner

SHAPE, BATCH_SIZE = (3, 64, 64), 64
N_BYTES = int(np.prod(SHAPE))
Item = tuple[Tensor, int]


def augmented(pixels: np.ndarray[Any, Any], number: int) -> Item:
    """A random crop, flipped half of the time."""
    top, left, flip = torch.randint(8, (3,)).tolist()
    picture = torch.tensor(pixels.reshape(SHAPE)[:, top : top + 56, left : left + 56]).float().div_(255)
    return (picture.flip(-1) if flip < 4 else picture), number % 10


class Files(Dataset[Item]):
    """A compressed file per picture."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob("*.z"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Item:
        content = zlib.decompress(self.paths[number].read_bytes())
        return augmented(np.frombuffer(content, np.uint8), number)


class Mapped(Dataset[Item]):
    """All pictures in one file, which is mapped."""

    def __init__(self, folder: Path):
        self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Item:
        return augmented(np.array(self.pictures[number]), number)


class Stream(IterableDataset[Item]):
    """Compressed pictures end to end, each after its length; each worker decodes its own share."""

    def __init__(self, folder: Path):
        self.path = folder / "pictures.stream"

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        first, n_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        with self.path.open("rb") as file:
            number = 0
            while length := int.from_bytes(file.read(4), "little"):
                content = file.read(length)
                if number % n_workers == first:
                    yield augmented(np.frombuffer(zlib.decompress(content), np.uint8), number)
                number += 1


def write(folder: Path, n_items: int) -> None:
    """Write the data; smooth pictures, so that they can be compressed."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (n_items, 3, 16, 16), np.uint8)
    pictures = small.repeat(4, axis=2).repeat(4, axis=3)
    np.save(folder / "pictures.npy", pictures)
    with (folder / "pictures.stream").open("wb") as stream:
        for number, picture in enumerate(pictures):
            content = zlib.compress(picture.tobytes())
            (folder / f"{number:06}.z").write_bytes(content)
            stream.write(len(content).to_bytes(4, "little") + content)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 56 * 56, 10))


def alone(loader: Any) -> None:
    for _ in loader:
        pass


def by_hand(network: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> None:
    for inputs, targets in loader:
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def compare(name: str, loader: Any, n_items: int, n_rounds: int) -> Learner:
    """Print a row, and return the learner."""
    network = model()
    sgd = partial(torch.optim.SGD, lr=0.01)
    learn = Learner(model(), Data(loader), F.cross_entropy, sgd, defaults=(ZeroGrad,))
    runs = [
        partial(alone, loader),
        partial(by_hand, network, sgd(network.parameters()), loader),
        partial(learn.fit, 1),
    ]
    times = [[seconds(run) for run in runs] for _ in range(n_rounds + 1)][1:]
    bare = statistics.median(each[0] for each in times)
    hand = statistics.median(each[1] / each[0] for each in times)
    ours = [each[2] / each[1] for each in times]
    low, middle, high = statistics.quantiles(ours, n=4) if n_rounds > 1 else ours * 3
    print(f"{name:<24}{n_items / bare:12.0f}{hand:12.3f}{middle:12.3f}{low:12.3f} {high:.3f}", flush=True)
    return learn


def main() -> None:
    n_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    n_items = int(sys.argv[2]) if len(sys.argv) > 2 else 4000
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {n_items} items, {n_rounds} rounds")
    print(f"{'':<24}{'items per s':>12}{'by hand':>12}{'learner':>12}{'middle half':>18}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, n_items)
        last = None
        for kind in (Files, Mapped, Stream):
            for n_workers in (0, 2):
                data = kind(folder)
                shuffle = None if isinstance(data, IterableDataset) else True
                loader: Any = DataLoader(data, BATCH_SIZE, shuffle=shuffle, num_workers=n_workers)
                learn = compare(f"{kind.__name__}, {n_workers} workers", loader, n_items, n_rounds)
                last = last or learn
        assert last is not None
        cost = last.cost(40)
    print(f"\nFiles, 0 workers: {cost.remedy}")


if __name__ == "__main__":
    main()
