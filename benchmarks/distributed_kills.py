"""Kill random ranks of runs under torchrun, and compare how they end with an uninterrupted run.

    python benchmarks/distributed_kills.py [--kills 100] [--ranks 2 4] [--minutes 6] [--seed 0] [--forked]

Each run trains a recipe in several processes under `torchrun --max-restarts=1`. At a random time one random
rank is killed with SIGKILL; torchrun starts all ranks again, and the run resumes automatically from its last
checkpoint. It prints the kill, how many steps were repeated, and the seconds until the run trained again
beside those of a first start; both include torchrun and the imports. At the end it prints how many runs have
the weights of the uninterrupted one, bit for bit, and its history. Each run must have exactly one folder.

With `--forked` the processes are forked from a server that has imported everything, and this process starts
them again in place of torchrun: a start takes a third of a second, so that many kills take minutes. Compare
seconds without this option, as those of torchrun are others.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from learner.cli.commands import main as learner

multiprocessing.set_forkserver_preload(["torch", "callbacks", "learner"])
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
    """One run under torchrun, in its own folder.

    Args:
        folder: where the recipe is; the run is kept in a new subfolder.
        name: of this run.
        n_ranks: the number of processes.
    """

    def __init__(self, folder: Path, name: str, n_ranks: int):
        self.folder, self.trace, self.n_ranks = folder / name, folder / f"{name}-trace-", n_ranks
        self.recipe, self.log = folder / "recipe.yaml", folder / f"{name}-log"
        self.begin = time.time()
        self.process: Any = self.launched()

    def launched(self) -> Any:
        """The process of `torchrun`."""
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={self.n_ranks}", "--max-restarts=1", "--monitor-interval=0.1"),
            *("-m", "learner", "run", str(self.recipe), "--runs", str(self.folder)),
        ]
        environment = {**os.environ, "TRACE": str(self.trace), "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

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
        weights = torch.load(newest(kept[0]), weights_only=True)["model"]
        with (kept[0] / "history.csv").open() as file:
            return weights, [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


class Forked(Run):
    """The same, without torchrun: a thread starts all processes again when one was killed."""

    def launched(self) -> Any:
        self.store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        self._thread = threading.Thread(target=self._supervise)
        self._thread.start()
        return self

    def _supervise(self) -> None:
        environment = {
            "TRACE": str(self.trace),
            "WORLD_SIZE": str(self.n_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RUN_ID": self.folder.name,
        }
        self.returncode: int | None = None
        for n_restarts in range(2):
            environment["TORCHELASTIC_RESTART_COUNT"] = str(n_restarts)
            call = (environment, self.log, [str(self.recipe), "--runs", str(self.folder)])
            try:
                start_processes(run_rank, call, nprocs=self.n_ranks, start_method="forkserver")
            except (ProcessExitedException, ProcessRaisedException):
                continue
            self.returncode = 0
            return
        self.returncode = 1

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        self._thread.join()
        assert self.returncode is not None
        return self.returncode


def run_rank(rank: int, environment: dict[str, str], log: Path, arguments: list[str]) -> None:
    """Run the recipe as one of several processes."""
    torch.set_num_threads(1)
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with log.open("a") as file:
        for each in (1, 2):
            os.dup2(file.fileno(), each)
    sys.exit(learner(["run", *arguments]))


def newest(folder: Path) -> Path:
    """The last checkpoint of a run."""
    return max((folder / "checkpoints").glob("step-*.pt"))


def killed(run: Run, whole: tuple[dict, list], draw: random.Random) -> dict:
    """Kill a rank of a new run, and compare its end."""
    n_ranks = run.n_ranks
    rank, step = draw.randrange(n_ranks), draw.randrange(1, N_STEPS - 1)
    run.kill(rank, step)
    at = time.time()
    weights, history = run.result()
    batches = run.batches()
    first, again = batches[0], next(each for each in batches if each[0] != batches[0][0])
    last = max(each[2] for each in batches if each[0] == first[0])
    same = all(torch.equal(each, whole[0][key]) for key, each in weights.items()) and history == whole[1]
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
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forked", action="store_true", help="start the processes without torchrun")
    options = parser.parse_args()
    kind = Forked if options.forked else Run
    draw, end, rows = random.Random(options.seed), time.time() + 60 * options.minutes, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "parts.py").write_text(PARTS)
        whole = {n: kind(folder, f"whole-{n}", n).result() for n in options.ranks}
        for number in range(options.kills):
            if time.time() > end:
                break
            n_ranks = options.ranks[number % len(options.ranks)]
            row = killed(kind(folder, f"killed-{number}", n_ranks), whole[n_ranks], draw)
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
