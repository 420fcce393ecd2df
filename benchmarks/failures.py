"""Failures that a run survives, and the cost of saving: `python benchmarks/failures.py [part ...]`.

Every part prints its results; the exit code is 1 if a requirement is not met. The parts are `kills`
(SIGKILL anywhere in eight trainings), `writes` (SIGKILL during a write of 200 MB), `damage` (flipped bits
and truncations), `disk` (a full disk), `payloads` (malicious files), `size` (saving 200 MB compared with
torch.save), and `interval` (a checkpoint every 50 steps of about a millisecond).
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from callbacks import (
    Callback,
    CancelStep,
    Checkpoint,
    EarlyStopping,
    LearnerProtocol,
    Metrics,
    Order,
    Recorder,
    TorchScheduler,
    ZeroGrad,
    on,
)
from learner import CheckpointError, Data, Learner, verify_resume
from learner.files import checkpoint_file

QUIET = (ZeroGrad, Metrics, Recorder)


# The eight trainings


class Augmented(Dataset):
    """Items with noise that is drawn again each time, from torch, NumPy and Python."""

    def __init__(self, n_items: int = 48):
        self.inputs = torch.rand(n_items, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(4) + random.random() + float(numpy.random.rand())
        return self.inputs[index] + 0.1 * noise, self.inputs[index].sum(0, keepdim=True)


class Accumulate(Callback):
    """Accumulates the gradients of two batches."""

    order = Order.GRADIENT

    def before_step(self, learn: Any) -> None:
        if learn.batch_idx % 2 == 0:
            raise CancelStep


class ValidateInTheMiddle(Callback):
    """Validates after each third batch."""

    def after_batch(self, learn: Any) -> None:
        if learn.training and learn.batch_idx % 3 == 0:
            learn.validate()


def learner_of(data: Data, *callbacks: Callback, momentum: float = 0.0) -> Learner:
    """A dropout model with batch norm."""
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))
    optimizer = partial(torch.optim.SGD, lr=0.02, momentum=momentum)
    return Learner(model, data, F.mse_loss, optimizer, callbacks, defaults=QUIET)


def plain_items(**options: Any) -> Data:
    """Items without noise, shuffled."""
    inputs = Augmented().inputs
    items = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
    return Data(DataLoader(items, batch_size=8, shuffle=True, **options), DataLoader(items, batch_size=16))


def augmented(**options: Any) -> Data:
    """Items with noise, shuffled."""
    return Data(
        DataLoader(Augmented(), batch_size=8, shuffle=True, **options), DataLoader(Augmented(), batch_size=16)
    )


def dropout_and_shuffling() -> Learner:
    return learner_of(plain_items())


def augmentation() -> Learner:
    return learner_of(augmented())


def two_workers() -> Learner:
    return learner_of(augmented(num_workers=2))


def in_memory() -> Learner:
    inputs = Augmented().inputs
    return learner_of(Data.from_tensors(inputs, inputs.sum(1, keepdim=True), 8, seed=0))


def accumulation() -> Learner:
    return learner_of(augmented(), Accumulate())


def schedule_with_momentum() -> Learner:
    schedule = TorchScheduler(partial(OneCycleLR, max_lr=0.05, total_steps=24), every="1 step")
    return learner_of(augmented(), schedule, momentum=0.9)


def early_stopping() -> Learner:
    return learner_of(augmented(), EarlyStopping("valid_loss", patience=1))


def validation_in_the_middle() -> Learner:
    return learner_of(augmented(), ValidateInTheMiddle())


TRAININGS: tuple[Callable[[], Learner], ...] = (
    dropout_and_shuffling,
    augmentation,
    two_workers,
    in_memory,
    accumulation,
    schedule_with_momentum,
    early_stopping,
    validation_in_the_middle,
)
EVERY = 3  # steps


def kills(n_kills: int, n_rounds: int) -> bool:
    """SIGKILL at many moments of each training."""
    print(f"SIGKILL at {n_kills} moments, a checkpoint every {EVERY} steps, and three kills in a row:")
    good = True
    for make in TRAININGS:
        report = verify_resume(make, 4, n_kills=n_kills, every=f"{EVERY} steps")
        most = max(row.n_redone for row in report.rows if len(row.cuts) == 1)
        good = good and report.ok and most <= EVERY
        n_equal = sum(row.ok for row in report.rows)
        title = make.__name__.replace("_", " ")
        print(
            f"  {title:26} {n_equal:3} of {len(report.rows)} equal; at most {most} steps repeated",
            flush=True,
        )
    return good


# Inside the write

LARGE = 50_000_000  # float32 numbers: 200 MB


def large_learner(folder: Path, n_numbers: int = LARGE) -> Learner:
    """A large model, saved after each step."""

    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(n_numbers))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * self.weight[:1]

    batch = torch.ones(1, 1), torch.ones(1, 1)
    optimizer = partial(torch.optim.SGD, lr=0.01)
    saving = Checkpoint(folder, "1 step", keep=2)
    return Learner(Large(), Data([batch] * 100), F.mse_loss, optimizer, [saving], defaults=QUIET)


def train_large(folder: str, temporary: str) -> None:
    """In a child: train and save until killed."""
    tempfile.tempdir = temporary
    large_learner(Path(folder)).fit(1, resume="auto")


def writes(n_kills: int, n_rounds: int) -> bool:
    """SIGKILL at 20 random times during a write of 200 MB."""
    good, generator = 0, random.Random(0)
    with tempfile.TemporaryDirectory() as where, tempfile.TemporaryDirectory() as temporary:
        folder = Path(where) / "run"
        steps = [0]
        for _ in range(20):
            before = {path.name for path in folder.glob("step-*.pt")}
            child = start("train_large", str(folder), temporary)
            wait_for(partial(is_writing_another, folder, before), child)
            time.sleep(generator.uniform(0, 0.4))
            child.kill()
            child.wait()
            found = large_newest(folder)
            good += found is not None and found >= steps[-1]
            steps.append(found or 0)
        left = [path for path in Path(temporary).rglob("*") if path.is_file()]  # torch makes an empty folder
        print(
            f"SIGKILL during a write of 200 MB: {good} of 20 left a complete newest file, steps {steps[1:]}"
        )
        print(f"  files left in the temporary folder: {len(left)}")
        done = start("train_large_one_more", str(folder), temporary)
        print(f"  the last one resumes: {done.wait(120) == 0}")
    return good == 20 and not left and done.returncode == 0


def is_writing_another(folder: Path, before: set[str]) -> bool:
    """Has the process written a file, and is it writing the next?"""
    new = {path.name for path in folder.glob("step-*.pt")} - before
    return bool(new) and any(folder.glob("step-*.tmp"))


def train_large_one_more(folder: str, temporary: str) -> None:
    """In a child: resume, for one more step."""
    warnings.simplefilter("ignore")

    @on("after_batch")
    def enough(learn: Any) -> None:
        learn.stop("one step more")

    large_learner(Path(folder)).fit(1, resume="must", callbacks=[enough])
    assert not list(Path(folder).glob("*.tmp"))


def large_newest(folder: Path) -> int | None:
    """The step of the newest complete file."""
    whole = [path for path in sorted(folder.glob("step-*.pt")) if checkpoint_file.damage_of(path) is None]
    return int(whole[-1].stem.removeprefix("step-")) if whole else None


def start(function: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Call a function of this file in another process."""
    code = f"import sys, failures; failures.{function}(*sys.argv[1:])"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.DEVNULL
    )


def wait_for(there: Callable[[], Any], child: subprocess.Popen[bytes]) -> None:
    """Wait until `there()` is true, or the child has ended."""
    while not there() and child.poll() is None:
        time.sleep(0.005)


# Damage and harm


@contextmanager
def small_checkpoint() -> Iterator[Path]:
    """A file of a small training."""
    with tempfile.TemporaryDirectory() as folder:
        learn = in_memory()
        learn.fit(1)
        yield learn.save(Path(folder) / "small.pt")


def is_accepted(path: Path) -> bool:
    """Does the file load?"""
    try:
        in_memory().load(path)
    except CheckpointError:
        return False
    return True


def damage(n_kills: int, n_rounds: int) -> bool:
    """400 flipped bits and 100 truncations, spread over the file."""
    with small_checkpoint() as path:
        content = path.read_bytes()
        assert is_accepted(path)
        n_flips = n_cuts = 0
        for bit in range(0, 8 * len(content), 8 * len(content) // 400 + 1):
            altered = bytearray(content)
            altered[bit // 8] ^= 1 << bit % 8
            path.write_bytes(altered)
            n_flips += is_accepted(path)
        for length in range(0, len(content), len(content) // 100 + 1):
            path.write_bytes(content[:length])
            n_cuts += is_accepted(path)
    print(f"accepted of 400 files with one flipped bit: {n_flips}, of 100 truncated files: {n_cuts}")
    return n_flips == n_cuts == 0


class Harm:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(n_kills: int, n_rounds: int) -> bool:
    """Files that create another file if their code runs."""
    with tempfile.TemporaryDirectory() as folder:
        canary, path = Path(folder) / "canary", Path(folder) / "harm.pt"
        code = f"open({str(canary)!r}, 'w').close()"
        harms = {
            "os.system": Harm(os.system, f"touch {canary}"),
            "exec": Harm(exec, code),
            "eval": Harm(eval, code),
            "subprocess": Harm(subprocess.call, ["touch", str(canary)]),
            "open": Harm(open, str(canary), "w"),
            "in torch": Harm(torch.utils._pytree.tree_map, eval, [code]),
            "pathlib": Harm(Path.touch, canary),
        }
        n_accepted = 0
        for harm in harms.values():
            torch.save({"format": 1, "model": harm}, path)
            n_accepted += is_accepted(path)
            seal(path)
            n_accepted += is_accepted(path)
            path.write_bytes(pickle.dumps({"model": harm}))
            n_accepted += is_accepted(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("archive/data.pkl", bytes(100_000_000))
        n_accepted += is_accepted(path)
        print(f"accepted of {3 * len(harms) + 1} malicious files: {n_accepted}; canary: {canary.exists()}")
        return not n_accepted and not canary.exists()


def seal(path: Path) -> None:
    """Add the checksum of a complete checkpoint to a file."""
    import zlib

    content = path.read_bytes()
    path.write_bytes(content + checkpoint_file.trailer(len(content), zlib.crc32(content)))


def train_on_a_full_disk(folder: str) -> None:
    """In a child: limit the size of files, from the seventh step on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    @on("after_step")
    def fill(learn: Any) -> None:
        if learn.global_step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    learn = in_memory()
    learn.add_callbacks(Checkpoint(folder, "1 step"))
    learn.fit(2, callbacks=[fill])


def disk(n_kills: int, n_rounds: int) -> bool:
    """A disk that is full from some step on: the existing files are complete, and the run resumes."""
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "run"
        child = start("train_on_a_full_disk", str(folder))
        child.wait(120)
        found = sorted(path.name for path in folder.iterdir() if path.suffix in (".pt", ".tmp"))
        whole, learn = in_memory(), in_memory()
        learn.add_callbacks(Checkpoint(folder, "1 step"))
        learn.fit(2, resume="must")
        whole.fit(2)
    steps = list(learn.history.steps["train_loss"]), list(whole.history.steps["train_loss"])
    good = found[-1] == "step-000000006.pt" and child.returncode == 1 and len(steps[0]) == len(steps[1])
    print(f"a full disk from step 7 on: exit code {child.returncode}, newest {found[-1]}, it resumes: {good}")
    return good


# What it costs


def size(n_kills: int, n_rounds: int) -> bool:
    """Saving 200 MB compared with torch.save, first with both flushed to disk, then without."""
    ratios: dict[str, list[float]] = {"flushed": [], "not flushed": []}
    with tempfile.TemporaryDirectory() as folder:
        state = {f"layer{n}": torch.randn(LARGE // 100) for n in range(100)}
        one, other = Path(folder) / "one.pt", Path(folder) / "other.pt"
        for _ in range(n_rounds):
            for title, found in ratios.items():
                durable = title == "flushed"
                theirs = timed(lambda: save_plainly(state, one, durable))  # noqa: B023
                ours = timed(lambda: checkpoint_file.write(other, state, durable=durable))  # noqa: B023
                found.append(ours / theirs)
    for title, found in ratios.items():
        shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(found))
        print(f"saving 200 MB, {title}: {median(found):.2f} of torch.save (rounds: {shown})")
    return median(ratios["flushed"]) <= 1.3


def save_plainly(state: dict[str, Tensor], path: Path, durable: bool) -> None:
    """Save as a plain loop does."""
    with path.open("wb") as file:
        torch.save(state, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def timed(work: Callable[[], Any]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interval(n_kills: int, n_rounds: int) -> bool:
    """What a checkpoint every 50 steps adds: steps with a save compared with those without, in one fit."""
    shares, saves, steps = [], [], []
    for _ in range(n_rounds):
        with tempfile.TemporaryDirectory() as folder:
            plain, saving = seconds_of_steps(Path(folder))
        saves.append((saving - plain) * 1e3)
        steps.append(plain * 1e3)
        shares.append(100 * (saving - plain) / (50 * plain))
    print(
        f"a checkpoint every 50 steps of {median(steps):.2f} ms: {median(shares):.1f} % more time, "
        f"{median(saves):.1f} ms per save (rounds: {', '.join(f'{share:.1f}' for share in sorted(shares))} %)"
    )
    return median(shares) < 5


N_STEPS = 1000


class Clock(Callback):
    """Records when each step starts."""

    def before_fit(self, learn: LearnerProtocol) -> None:
        self.times: list[float] = []

    def before_batch(self, learn: LearnerProtocol) -> None:
        self.times.append(time.perf_counter())


def seconds_of_steps(folder: Path) -> tuple[float, float]:
    """The median step of a small network without a save, and with one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    data = Data([(torch.randn(64, 256), torch.randint(10, (64,)))] * N_STEPS)
    optimizer, clock = partial(torch.optim.SGD, lr=0.01), Clock()
    Learner(
        model, data, F.cross_entropy, optimizer, [Checkpoint(folder, "50 steps"), clock], defaults=QUIET
    ).fit(1)
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    saving = steps[49::50]
    return median(step for at, step in enumerate(steps) if at % 50 != 49), median(saving)


PARTS = {each.__name__: each for each in (kills, writes, damage, disk, payloads, size, interval)}


def main() -> int:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="by default all")
    parser.add_argument("--kills", type=int, default=40, metavar="N", help="kills per training (40)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds of each timing (7)")
    known = parser.parse_args()
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    results = {part: PARTS[part](known.kills, known.rounds) for part in known.parts or PARTS}
    failed = [part for part, good in results.items() if not good]
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
