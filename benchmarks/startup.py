"""What `import learner` adds to `import torch`: seconds of whole processes, in turn.

Run: python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

PROGRAMS = {"import torch": "import torch", "import torch, learner": "import torch, learner"}


def seconds(code: str) -> float:
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as a user has it: compiled once
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - begun


def main(rounds: int) -> None:
    for code in PROGRAMS.values():  # bytecode and file cache
        seconds(code)
    taken = [{name: seconds(code) for name, code in PROGRAMS.items()} for _ in range(rounds)]
    for name in PROGRAMS:
        print(f"{name:<24}{statistics.median(each[name] for each in taken) * 1e3:>8.0f} ms")
    first, second = PROGRAMS
    added = statistics.median(each[second] - each[first] for each in taken) * 1e3
    print(f"added, pair by pair     {added:>8.0f} ms (median of {rounds})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
