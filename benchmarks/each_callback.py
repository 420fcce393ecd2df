"""The time that each callback adds to a step.

Run: python benchmarks/each_callback.py [name ...] [--pairs N] [--json]

A small network (64-128-10 with batch norm, dropout and a recurrent layer, batches of 64 images) trains
with and without each callback in turn, one epoch of 25 steps at a time, in one process, on one thread. `us
per step` is the extra time of the median step. `us per fit` is the extra time of the rest of such a fit
with its validation: start, end, and work at intervals. Both are medians over the pairs of epochs. The same
training twice (`nothing`) shows the noise. Callbacks that need arguments get those of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import callbacks
from callbacks import Callback, Metrics, Recorder, ZeroGrad
from learner import Data, Learner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
contract_tests = importlib.import_module("test_every_callback")
MAKERS, CALLBACKS = contract_tests.MAKERS, contract_tests.CALLBACKS

N_STEPS = 25

#: Callbacks whose arguments in the tests are too small for a measurement.
ROOMY: dict[str, Callable[[Path], Callback]] = {
    "CutMix": lambda _: callbacks.CutMix(),
    "ShortEpoch": lambda _: callbacks.ShortEpoch(N_STEPS - 1),
    "StopAfter": lambda _: callbacks.StopAfter("1e9 steps"),
    "ValidateEvery": lambda _: callbacks.ValidateEvery("20 steps"),
    "EarlyStopping": lambda _: callbacks.EarlyStopping("train_loss", patience=10**6),
    "PlotSnapshots": lambda folder: callbacks.PlotSnapshots(
        n=2,
        every="20 steps",
        path=folder / "steps.png",
        draw=lambda ax, learn: ax.plot(learn.preds[0].detach()),
    ),
}


class Net(nn.Module):
    """Has a layer of each kind that a callback looks for."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(64, 128), nn.BatchNorm1d(128)
        self.dropout, self.rnn = nn.Dropout(0.1), nn.RNN(128, 32, batch_first=True)
        self.last = nn.Linear(32, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.norm(self.first(pictures.flatten(1)))))
        return self.last(self.rnn(hidden[:, None])[0][:, 0])

    def reset(self) -> None:
        """For `RNNReset`; there is no hidden state to reset."""


def make_learner(callback: Callback | None) -> Learner:
    """A learner with new weights, and the callback if there is one."""
    torch.manual_seed(0)
    batches = [(torch.randn(64, 1, 8, 8), torch.randint(10, (64,)))] * N_STEPS
    data = Data(Timed(batches), [(torch.randn(64, 1, 8, 8), torch.randint(10, (64,)))])
    defaults = [each for each in (ZeroGrad, Metrics, Recorder) if not isinstance(callback, each)]
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    return Learner(Net(), data, F.cross_entropy, optimizer, [callback] if callback else [], defaults=defaults)


class Timed:
    """Batches, with the time of each request."""

    def __init__(self, batches: list[Any]):
        self.batches = batches
        self.times: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.times.append(time.perf_counter())
            yield batch


def fit(learn: Learner) -> tuple[float, float]:
    """The median step of one epoch, and the fit without its steps, in microseconds."""
    assert isinstance(learn.data.train, Timed)
    learn.data.train.times.clear()
    start = time.perf_counter()
    learn.fit(1)
    whole = time.perf_counter() - start
    step = median(after - before for before, after in pairwise(learn.data.train.times))
    return step * 1e6, (whole - N_STEPS * step) * 1e6


def measure(name: str, n_pairs: int) -> dict[str, Any]:
    """What a callback adds to a step and to a fit, per pair of epochs, and the step without it."""
    make = ROOMY.get(name) or MAKERS.get(name) or (lambda _: CALLBACKS[name]())
    pairs = []
    gc.collect()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        without, with_it = make_learner(None), make_learner(None if name == "nothing" else make(Path(folder)))
        for _ in range(n_pairs + 2):  # the first two warm up
            plain, added = fit(without), fit(with_it)
            pairs.append({"plain": plain[0], "step": added[0] - plain[0], "fit": added[1] - plain[1]})
    found = {key: median(each[key] for each in pairs[2:]) for key in pairs[0]}
    return {"name": name, **found, "pairs": pairs[2:]}


def main() -> None:
    """Measure, and print the table, the most expensive last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*CALLBACKS, "nothing", []], metavar="name")
    parser.add_argument("--pairs", type=int, default=40, metavar="N")
    parser.add_argument("--json", action="store_true", help="print the figures of all pairs")
    known = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name in known.names or ["nothing", *CALLBACKS]:
        try:
            found.append(measure(name, known.pairs))
        except Exception as error:  # noqa: BLE001 - one that cannot run here must not end the table
            print(f"{name}: not measured: {type(error).__name__}: {error}", file=sys.stderr)
    found.sort(key=lambda each: each["step"])
    if known.json:
        print(json.dumps({"torch": torch.__version__, "callbacks": found}))
        return
    plain = median(each["plain"] for each in found)
    print(f"torch {torch.__version__}, 1 thread, {known.pairs} pairs of {N_STEPS} steps of {plain:.0f} us")
    print(f"{'callback':<24}{'us per step':>12}{'share':>8}{'middle half':>18}{'us per fit':>12}")
    for each in found:
        steps = sorted(pair["step"] for pair in each["pairs"])
        spread = f"{steps[len(steps) // 4]:.0f}, {steps[-1 - len(steps) // 4]:.0f}"
        print(
            f"{each['name']:<24}{each['step']:>12.1f}{each['step'] / each['plain']:>8.1%}{spread:>18}"
            f"{each['fit']:>12.0f}"
        )


if __name__ == "__main__":
    main()
