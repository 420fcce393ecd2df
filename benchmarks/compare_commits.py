"""Is a commit slower than another one?

Run: python benchmarks/compare_commits.py BEFORE [AFTER] [--rounds 15] [--slower 0.03]

Both commits are checked out to temporary folders and take turns: in each round, each of them runs in a new
process, in alternating order. The table has a row per work (a step, an epoch of one batch, a prediction, a
validation, a save): the lowest processor time of the rounds in microseconds, and the median over the rounds
of the second commit's time divided by that of the first, with the 90 % interval of this median from 2,000
resamplings. The exit code is 1 if a whole interval is above 1 + `slower`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]

WORKS = """
import gc, json, tempfile, time
from functools import partial
import torch
from torch import nn
from callbacks import Progress, accuracy
from learner import Data, Learner

torch.set_num_threads(1)
torch.manual_seed(0)
inputs, targets = torch.randn(3200, 20), torch.randint(5, (3200,))


def make(n_items):
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    data = Data.from_tensors(inputs[:n_items], targets[:n_items], batch_size=32, seed=0)
    sgd = partial(torch.optim.SGD, lr=0.01)
    learn = Learner(model, data, nn.functional.cross_entropy, sgd, metrics=[accuracy])
    learn.remove_callbacks(Progress)
    learn.fit(2)
    return learn


def best(run, n_units, n_repeats):
    times = []
    for _ in range(n_repeats):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return 1e6 * min(times) / n_units


gc.disable()
long, short, folder = make(3200), make(32), tempfile.mkdtemp()
print(json.dumps({
    "a step": best(lambda: long.fit(4), 400, 6),
    "an epoch of one batch": best(lambda: short.fit(100), 100, 6),
    "a prediction of one row": best(lambda: [long.predict(inputs[:1]) for _ in range(100)], 100, 6),
    "a validation of one batch": best(lambda: [short.validate(short.data.train) for _ in range(100)], 100, 6),
    "a save": best(lambda: [short.save(folder + "/x.pt") for _ in range(10)], 10, 6),
}))
"""


def measured(folder: Path) -> dict[str, float]:
    """Microseconds of each work, in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 90 % interval of the median, from resamplings."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[100], medians[-101]


def checked_out(commit: str, folder: Path) -> Path:
    """The files of a commit, without a working tree of git."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=HOME, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slower", type=float, default=0.03)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        both = [
            checked_out(each, Path(name, str(n))) for n, each in enumerate((options.before, options.after))
        ]
        rounds = []
        for number in range(options.rounds):
            turns = [0, 1] if number % 2 else [1, 0]
            found = {turn: measured(both[turn]) for turn in turns}
            rounds.append((found[0], found[1]))
    print(
        f"{'microseconds of processor time':<32}{'before':>10}{'after':>10}{'ratio':>9}{'90 % interval':>18}"
    )
    is_slower = False
    for work in rounds[0][0]:
        ratios = [after[work] / before[work] for before, after in rounds]
        low, high = interval(ratios)
        is_slower |= low > 1 + options.slower
        before, after = (statistics.median(each[at][work] for each in rounds) for at in (0, 1))
        print(f"{work:<32}{before:10.1f}{after:10.1f}{statistics.median(ratios):9.3f}{low:12.3f} {high:.3f}")
    sys.exit(is_slower)


if __name__ == "__main__":
    main()
