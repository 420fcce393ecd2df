"""Kill random ranks of runs under torchrun, and compare how they end with an uninterrupted run.

    python benchmarks/distributed_kills.py [--kills 100] [--ranks 2 4] [--minutes 6] [--seed 0]

Each run trains a recipe in several processes under `torchrun --max-restarts=1`. At a random time one random
rank is killed with SIGKILL; torchrun starts all ranks again, and the run resumes by itself from its last
checkpoint. It prints the kill, how many steps were repeated, and the seconds until the run trained again
beside those of a first start; both include torchrun and the imports. At the end it prints how many runs have
the weights of the uninterrupted one, bit for bit, and its history. Each run must have exactly one folder.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch import equal
from torch import load as torch_load

EVERY = 5  # steps between checkpoints
N_STEPS = 60
RECIPE = f"""\
seed: 0
data: {{use: "parts.py:points"}}
model: {{use: "parts.py:Net"}}
loss: mse
optimizer: {{use: Adam, lr: 1e-2}}
callbacks:
  Checkpoint: {{folder: checkpoints, every: {EVERY} steps, keep: 2}}
  Trace: {{use: "parts.py:Trace"}}
fit: {{epochs: 6}}
"""
PARTS = """\
import os
import time

import torch
from torch import nn

from callbacks import Callback
from learner import Data


def points():
    x = torch.randn(100, 4)
    return Data.from_tensors(x, x.sum(1, keepdim=True), 8, valid=0.2)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))


class Trace(Callback):
    \"\"\"Writes the process, the time and the step of each batch.\"\"\"

    on_every_rank = True

    def before_batch(self, learn):
        if learn.training:
            with open(os.environ["TRACE"] + os.environ["RANK"], "a") as file:
                file.write(f"{os.getpid()} {time.time()} {learn.global_step}\\n")
            time.sleep(0.03)
"""


class Run:
    """One run under torchrun, in a folder of its own.

    Args:
        folder: where the recipe is; the run is kept in a new subfolder.
        name: of this run.
        n_ranks: the number of processes.
    """

    def __init__(self, folder: Path, name: str, n_ranks: int):
        self.folder, self.trace, self.n_ranks = folder / name, folder / f"{name}-trace-", n_ranks
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"),
            *("--max-restarts=1", "--monitor-interval=0.1", "-m", "learner", "run"),
            *(str(folder / "recipe.yaml"), "--runs", str(self.folder)),
        ]
        self.log = folder / f"{name}-log"
        environment = {**os.environ, "TRACE": str(self.trace), "OMP_NUM_THREADS": "1"}
        self.begin = time.time()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def batches(self, rank: int = 0) -> list[tuple[int, float, int]]:
        """The process, the time and the step of each batch of a rank that has begun."""
        path = Path(f"{self.trace}{rank}")
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [line.split() for line in lines if line.count(" ") == 2]
        return [(int(process), float(seconds), int(step)) for process, seconds, step in rows]

    def kill(self, rank: int, step: int) -> None:
        """Kill a rank as soon as it has begun the batch of a step."""
        while not any(each[2] >= step for each in self.batches(rank)):
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended before step {step}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.005)
        os.kill(self.batches(rank)[-1][0], signal.SIGKILL)

    def result(self) -> tuple[dict, list]:
        """The weights and the history, when the run has ended."""
        if self.process.wait() != 0:
            raise RuntimeError(f"exit code {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
        kept = list(self.folder.iterdir())
        assert len(kept) == 1, kept
        weights = torch_load(newest(kept[0]), weights_only=True)["model"]
        with (kept[0] / "history.csv").open() as file:
            return weights, [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def newest(folder: Path) -> Path:
    """The last checkpoint of a run."""
    return max((folder / "checkpoints").glob("step-*.pt"))


def killed(folder: Path, name: str, n_ranks: int, whole: tuple[dict, list], draw: random.Random) -> dict:
    """Kill a rank of a new run, and compare its end."""
    run = Run(folder, name, n_ranks)
    rank, step = draw.randrange(n_ranks), draw.randrange(1, N_STEPS - 1)
    run.kill(rank, step)
    at = time.time()
    weights, history = run.result()
    batches = run.batches()
    first, again = batches[0], next(each for each in batches if each[0] != batches[0][0])
    last = max(each[2] for each in batches if each[0] == first[0])
    same = all(equal(each, whole[0][key]) for key, each in weights.items()) and history == whole[1]
    return {
        "same": same,
        "repeated": last + 1 - again[2],
        "back": again[1] - at,
        "start": first[1] - run.begin,
        "words": f"{n_ranks} ranks, rank {rank} killed in step {step:2}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after these")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, end, rows = random.Random(options.seed), time.time() + 60 * options.minutes, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "parts.py").write_text(PARTS)
        whole = {n: Run(folder, f"whole-{n}", n).result() for n in options.ranks}
        for number in range(options.kills):
            if time.time() > end:
                break
            n_ranks = options.ranks[number % len(options.ranks)]
            row = killed(folder, f"killed-{number}", n_ranks, whole[n_ranks], draw)
            rows.append(row)
            print(
                f"{row['words']}: {'the same bits' if row['same'] else 'OTHER BITS'}, "
                f"{row['repeated']} steps repeated, back after {row['back']:.1f} s "
                f"(a start: {row['start']:.1f} s)",
                flush=True,
            )
    n_same = sum(row["same"] for row in rows)
    print(
        f"{n_same} of {len(rows)} killed runs ended with the bits of the uninterrupted run; at most "
        f"{max(row['repeated'] for row in rows)} steps repeated (a checkpoint each {EVERY}); back after "
        f"{max(row['back'] / row['start'] for row in rows):.1f} times a start, at most"
    )
    sys.exit(n_same != len(rows))


if __name__ == "__main__":
    main()
