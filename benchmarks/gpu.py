"""Everything that only a GPU can show, the most important first: one table, and a JSON file.

Run: python benchmarks/gpu.py [--minutes 8] [--only steps memory] [--json gpu.json]
     python benchmarks/gpu.py --tiny

The parts run one after the other in a child process. Each has its own time limit, a share of the minutes. A
part that fails, or takes longer, is reported, and the next one starts in a new process, so that an error of
CUDA ends one part only. Each row is printed and written to the file as soon as it is measured. `--tiny` runs
all parts with tiny sizes, on a CPU too; parts that need CUDA are then listed as skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: The parts, the most important first, each with its share of the time; all of them take 8 minutes at most.
PARTS = {
    "machine": 10,
    "tests": 80,
    "steps": 95,
    "compiled": 120,
    "prefetch": 35,
    "stop_on_nan": 25,
    "memory": 25,
    "resume": 25,
    "tensors": 25,
    "lr_find": 15,
    "cost": 15,
    "predictions": 20,
}
NO_CUDA = 3  # the exit code of a child
POLL = 0.05  # seconds between two looks at the child's file
CHILD = [sys.executable, "-m", "on_gpu.parts"]

Row = dict[str, Any]


class Run:
    """Runs parts, and collects their rows.

    Args:
        names: the parts.
        seconds: for all of them.
        is_tiny: use tiny sizes?
        path: the JSON file; it is complete after each row.
        child: the command that runs parts; their names follow.
    """

    def __init__(
        self, names: list[str], seconds: float, *, is_tiny: bool, path: Path | None, child: list[str] = CHILD
    ):
        self.left, self.is_tiny, self.path, self.child = list(names), is_tiny, path, child
        self.end = time.monotonic() + seconds
        self.rows: list[Row] = []

    def run(self) -> list[Row]:
        """Run all parts, in as many processes as it takes."""
        with tempfile.TemporaryDirectory() as folder:
            number = 0
            while self.left and time.monotonic() < self.end:
                number += 1
                self._run_child(Path(folder) / f"{number}.jsonl")
        for name in self.left:
            self._add({"part": name, "status": "no time was left"})
        return self.rows

    def limit_of(self, name: str) -> float:
        """Seconds for the next part: its share of what is left."""
        left = self.end - time.monotonic()
        return left * PARTS[name] / sum(PARTS[each] for each in self.left)

    def _run_child(self, path: Path) -> None:
        """Run parts in one process until they are done, or one of them fails or takes too long."""
        path.touch()
        pairs = [f"{name}:{0.8 * self.limit_of(name):.1f}" for name in self.left]
        options = ["--tiny"] if self.is_tiny else []
        command = [*self.child, str(path), *options, *pairs]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
        with tempfile.TemporaryFile("w+") as log:
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                self._follow(child, path)
            finally:
                kill(child)
            log.seek(0)
            if has_failed(self.rows[-1]):
                self.rows[-1]["log"] = log.read()[-2000:]
                self._write()

    def _follow(self, child: subprocess.Popen[Any], path: Path) -> None:
        """Collect the rows of a child until it ends, or its current part has no time left."""
        lines = new_lines(path)
        begun, limit = time.monotonic(), self.limit_of(self.left[0])
        while self.left:
            ended = child.poll() is not None  # before the last look at the file
            for row in next(lines):
                self._add(row)
                if "status" in row:
                    self.left.remove(row["part"])
                    if not self.left:
                        return
                    begun, limit = time.monotonic(), self.limit_of(self.left[0])
            if ended:
                while self.left and child.returncode == NO_CUDA:
                    self._end("skipped: this machine has no CUDA; --tiny runs on a CPU")
                if self.left and child.returncode:
                    self._end(f"the process died with exit code {child.returncode}")
                return
            if time.monotonic() - begun > limit:
                self._end(f"stopped after {limit:.0f} s")
                return
            time.sleep(POLL)

    def _end(self, status: str) -> None:
        """End the current part."""
        self._add({"part": self.left.pop(0), "status": status})

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print(line_of(row), flush=True)
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            self.path.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")


def new_lines(path: Path) -> Iterator[list[Row]]:
    """The rows that a child has added to its file since the last look."""
    with path.open() as file:
        rest = ""
        while True:
            rest += file.read()
            *lines, rest = rest.split("\n")
            yield [json.loads(line) for line in lines]


def kill(child: subprocess.Popen[Any]) -> None:
    """End a child and the processes that it has started, such as compilers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def has_failed(row: Row) -> bool:
    """Does the row report an error, or that the time has run out?"""
    problems = ("failed", "stopped", "the process died", "no time")
    return str(row.get("status", row.get("value"))).startswith(problems)


def line_of(row: Row) -> str:
    """A row of the table."""
    if "status" in row:
        return f"| {row['part']} | *{row['status']}* | |"
    note = f" ({row['note']})" if row.get("note") else ""
    return f"| {row['part']} | {row['what']} | {row['value']}{note} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Everything that only a GPU can show.")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and end the child
    print("| part | what | result |\n|---|---|---|", flush=True)
    rows = Run(asked.only, 60 * asked.minutes, is_tiny=asked.tiny, path=asked.json).run()
    for row in rows:
        if row.get("log"):
            print(f"\n{row['part']}: {row['status']}\n{row['log']}", file=sys.stderr)
    return int(any(map(has_failed, rows)))


if __name__ == "__main__":
    sys.exit(main())
