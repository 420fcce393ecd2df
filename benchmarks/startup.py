"""The time to start: seconds of whole processes that run in turn.

Run: python benchmarks/startup.py [rounds]

First `learner run examples/article.yaml`, from process start to exit, compared with a plain script that
takes the same steps and draws the same figure; figures and printed numbers are compared first. Then the time
that `import learner` adds to `import torch`, and the time that other installed frameworks add. A ratio
compares with the first process of the round; the table shows medians over rounds. Other work on the machine
affects processor time less than clock time.
"""

from __future__ import annotations

import filecmp
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
OTHERS = {
    "accelerate": "accelerate",
    "fastai": "fastai.learner",
    "ignite": "ignite.engine",
    "keras": "keras",
    "lightning": "lightning.pytorch",
    "poutyne": "poutyne",
    "skorch": "skorch",
    "transformers": "transformers.trainer",
}
Seconds = tuple[float, float]


def imports() -> dict[str, list[str]]:
    """The program that imports only torch, then those that also import a framework."""
    found = {"learner": "learner", **{each: name for each, name in OTHERS.items() if find_spec(each)}}
    programs = {"import torch": [PYTHON, "-c", "import torch"]}
    for name in found.values():
        programs[f"import torch, {name}"] = [PYTHON, "-c", f"import torch, {name}"]
    return programs


def article() -> dict[str, list[str]]:
    """The plain script, and the recipe."""
    return {
        "plain script": [PYTHON, str(HOME / "benchmarks" / "article_plain.py")],
        "learner run examples/article.yaml": [
            PYTHON, "-m", "learner", "run", str(HOME / "examples" / "article.yaml"),
        ],
    }  # fmt: skip


def check_article() -> None:
    """Check that both print the same ten numbers and write the same figure."""
    with tempfile.TemporaryDirectory() as folder:
        printed = [seconds(program, folder)[2].splitlines()[:10] for program in article().values()]
        pictures = sorted(Path(folder).rglob("*.png"))
        same = len(pictures) == 2 and filecmp.cmp(*pictures, shallow=False)
        print(f"same numbers: {printed[0] == printed[1]}; same picture: {same}")


def seconds(program: list[str], folder: str) -> tuple[float, float, str]:
    """Clock time, processor time, and the output."""
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    environment["KERAS_BACKEND"] = "torch"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as for a user
    used, start = used_by_children(), time.perf_counter()
    done = subprocess.run(
        program, check=True, env=environment, cwd=folder, capture_output=True, encoding="utf-8"
    )
    return time.perf_counter() - start, used_by_children() - used, done.stdout


def used_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(programs: dict[str, list[str]], rounds: int) -> None:
    taken: dict[str, list[Seconds]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):  # the first round fills the bytecode and file caches
            for name, program in programs.items():
                taken[name].append(seconds(program, folder)[:2])
    taken = {name: values[1:] for name, values in taken.items()}
    first = next(iter(taken.values()))
    print(f"\n{'':<42}{'clock':>9}{'ratio':>7}{'processor':>12}{'ratio':>7}{'added':>9}")
    for name, values in taken.items():
        pairs = list(zip(values, first, strict=True))
        line = f"{name:<42}"
        for kind, width in ((0, 9), (1, 12)):
            middle = statistics.median(each[kind] for each in values) * 1e3
            ratio = statistics.median(one[kind] / other[kind] for one, other in pairs)
            line += f"{f'{middle:.0f} ms':>{width}}{ratio:>7.3f}"
        added = statistics.median(one[1] - other[1] for one, other in pairs) * 1e3
        print(f"{line}{f'{added:.0f} ms':>9}")


def main(rounds: int) -> None:
    print(f"{rounds} rounds")
    check_article()
    measure(article(), rounds)
    measure(imports(), rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
