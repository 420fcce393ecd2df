"""Items per second from a disk: the bare loader, a hand-written loop, and a learner over the same loader.

Run: python benchmarks/data_rate.py [rounds] [items] [rows, such as Files webdataset; all if none]

The program writes the data first: pictures of 3 x 64 x 64 bytes, compressed with zlib in a file each, as
JPEG files are; the same pictures in one file that NumPy maps; and the compressed ones end to end in one
file, which an iterable data set reads as a stream. Each is decoded, cropped and flipped at random, and
batched by 64, without workers and with two. The model is one linear layer, so that the data sets the pace.

The libraries for streams that are installed read the compressed pictures in the same way: torchdata from the
files, webdataset, litdata and MosaicML Streaming from shards in their own format, which the program writes.

In each round the loader is read alone, by a loop by hand with forward, loss, backward, step and zero_grad,
and by a learner that does the same. The table has medians: items per second of the bare loader, the time of
the loop by hand compared with it, the time of the learner compared with the loop by hand, and the range of
the middle half. The last two columns are items per second, and the learner's time, of the processor with
worker processes that have ended: other work on the machine affects them less. Then `learn.cost()` prints the
share of a step in which the loop waits for data, and what to do.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    default_collate,
    get_worker_info,
)

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


def decoded(content: bytes, number: int) -> Item:
    """A compressed picture."""
    return augmented(np.frombuffer(zlib.decompress(content), np.uint8), number)


class Files(Dataset[Item]):
    """A compressed file per picture."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob("*.z"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Item:
        return decoded(self.paths[number].read_bytes(), number)


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
                    yield decoded(content, number)
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


def of_torch(kind: Callable[[Path], Any], folder: Path, n_workers: int) -> Any:
    data = kind(folder)
    shuffle = None if isinstance(data, IterableDataset) else True
    return DataLoader(data, BATCH_SIZE, shuffle=shuffle, num_workers=n_workers)


# The libraries


def of_torchdata(folder: Path, n_workers: int) -> Any:
    stateful = import_module("torchdata.stateful_dataloader")
    return stateful.StatefulDataLoader(Files(folder), BATCH_SIZE, shuffle=True, num_workers=n_workers)


def of_nodes(folder: Path, n_workers: int) -> Any:
    nodes = import_module("torchdata.nodes")
    data = Files(folder)
    numbers = nodes.Batcher(nodes.SamplerWrapper(RandomSampler(data)), BATCH_SIZE)
    make = partial(batch_of, data)
    if not n_workers:
        return nodes.Loader(nodes.Mapper(numbers, make))
    return nodes.Loader(nodes.ParallelMapper(numbers, make, num_workers=n_workers, method="process"))


def batch_of(data: Dataset[Item], numbers: list[int]) -> Any:
    return default_collate([data[number] for number in numbers])


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The compressed pictures for the shards of a library."""
    for number, path in enumerate(sorted(folder.glob("*.z"))):
        yield {"z": path.read_bytes(), "cls": number}


def collated(items: list[dict[str, Any]]) -> Any:
    """A batch of such records."""
    return default_collate([decoded(each["z"], int(each["cls"])) for each in items])


def of_webdataset(folder: Path, n_workers: int) -> Any:
    webdataset, target = import_module("webdataset"), folder / "webdataset"
    if not target.exists():
        target.mkdir()
        with webdataset.ShardWriter(f"{target}/%04d.tar", maxcount=250, verbose=0) as writer:
            for record in records(folder):
                writer.write({"__key__": f"{record['cls']:06}", **record})
    shards = sorted(map(str, target.glob("*.tar")))
    data = webdataset.WebDataset(shards, shardshuffle=100, seed=0).decode()
    return webdataset.WebLoader(data, batch_size=BATCH_SIZE, collate_fn=collated, num_workers=n_workers)


def of_litdata(folder: Path, n_workers: int) -> Any:
    litdata, target = import_module("litdata"), str(folder / "litdata")
    if not Path(target).exists():
        writer = import_module("litdata.streaming.cache").Cache(target, chunk_bytes="1MB")
        for number, record in enumerate(records(folder)):
            writer[number] = record
        writer.done()
        writer.merge()
    data = litdata.StreamingDataset(target, shuffle=True)
    options = {"batch_size": BATCH_SIZE, "collate_fn": collated, "num_workers": n_workers}
    return litdata.StreamingDataLoader(data, **options)


def of_mosaic(folder: Path, n_workers: int) -> Any:
    streaming, target = import_module("streaming"), str(folder / "mosaic")
    if not Path(target).exists():
        with streaming.MDSWriter(
            out=target, columns={"z": "bytes", "cls": "int"}, size_limit=1 << 20
        ) as writer:
            for record in records(folder):
                writer.write(record)
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=target, batch_size=BATCH_SIZE, shuffle=True)
    options = {"batch_size": BATCH_SIZE, "collate_fn": collated, "num_workers": n_workers}
    return streaming.StreamingDataLoader(data, **options)


LOADERS: dict[str, Callable[[Path, int], Any]] = {
    **{kind.__name__: partial(of_torch, kind) for kind in (Files, Mapped, Stream)},
    "torchdata": of_torchdata,
    "torchdata.nodes": of_nodes,
    "webdataset": of_webdataset,
    "litdata": of_litdata,
    "streaming": of_mosaic,
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 56 * 56, 10))


def read(loader: Any) -> None:
    for _ in loader:
        pass


def by_hand(network: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> None:
    for inputs, targets in loader:
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """On the clock, and of the processor, with those of worker processes that have ended."""
    begun, used = time.perf_counter(), processor_time()
    run()
    return time.perf_counter() - begun, processor_time() - used


def processor_time() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def compare(name: str, loader: Any, n_items: int, n_rounds: int) -> Learner:
    """Print a row, and return the learner."""
    network = model()
    sgd = partial(torch.optim.SGD, lr=0.01)
    learn = Learner(model(), Data(loader), F.cross_entropy, sgd, defaults=(ZeroGrad,))
    runs = [
        partial(read, loader),
        partial(by_hand, network, sgd(network.parameters()), loader),
        partial(learn.fit, 1),
    ]
    times = [[seconds(run) for run in runs] for _ in range(n_rounds + 1)][1:]
    bare, used = (n_items / statistics.median(alone[n] for alone, _, _ in times) for n in (0, 1))
    by_loop = statistics.median(hand[0] / alone[0] for alone, hand, _ in times)
    clock, processor = ([ours[n] / hand[n] for _, hand, ours in times] for n in (0, 1))
    low, middle, high = statistics.quantiles(clock, n=4) if n_rounds > 1 else clock * 3
    clocked = f"{bare:12.0f}{by_loop:10.3f}{middle:10.3f}{low:10.3f} {high:.3f}"
    print(f"{name:<28}{clocked}{used:12.0f}{statistics.median(processor):10.3f}", flush=True)
    return learn


def main(n_rounds: int, n_items: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {n_items} items, {n_rounds} rounds")
    titles = f"{'items per s':>12}{'by hand':>10}{'learner':>10}{'middle half':>15}"
    print(f"{'':<28}{titles}{'processor':>12}{'learner':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, n_items)
        last = None
        for title in names or LOADERS:
            for n_workers in (0, 2):
                try:
                    loader = LOADERS[title](folder, n_workers)
                except ModuleNotFoundError as error:
                    print(f"{title}: skipped, {error}")
                    break
                learn = compare(f"{title}, {n_workers} workers", loader, n_items, n_rounds)
                last = last or (title, learn)
        if last is not None:
            print(f"\n{last[0]}, 0 workers: {last[1].cost(40).remedy}")


if __name__ == "__main__":
    n_rounds, n_items = map(int, [*sys.argv[1:3], *("10", "4000")[len(sys.argv[1:3]) :]])
    main(n_rounds, n_items, sys.argv[3:])
