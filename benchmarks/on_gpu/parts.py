"""Runs parts in this process: `python -m on_gpu.parts FILE NAME:SECONDS ...`.

A line of JSON is written to the file for each row. A part that fails ends the process, since a device may be
unusable after an error.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from on_gpu.fits import cost, lr_find, memory, predictions, prefetch, resume, tensors
from on_gpu.steps import compiled, steps, stop_on_nan
from on_gpu.works import Row, Setting, SkippedError

HOME = Path(__file__).parents[2]
NO_CUDA = 3  # the exit code
SUMMARY = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)


def machine(setting: Setting) -> Iterator[Row]:
    """The card and the versions."""
    card = torch.cuda.get_device_name() if setting.device.type == "cuda" else "CPU"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    yield {"what": card, "value": versions}


def tests(setting: Setting) -> Iterator[Row]:
    """The tests that need CUDA; no wait of any callback is among them."""
    setting.need_cuda()
    found = (HOME / "tests").rglob("test_*.py")
    files = [str(path) for path in found if "cuda.is_available()" in path.read_text(encoding="utf-8")]
    options = ["-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-k", "cuda or gpu"]
    options += ["-W", "default::UserWarning"]  # a warning on a GPU is not an error
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=HOME, capture_output=True, encoding="utf-8")
    yield from rows_of(done.stdout + done.stderr)


def rows_of(output: str) -> Iterator[Row]:
    """The last line of pytest's output, and each test that failed."""
    lines = output.strip().splitlines()
    yield {"what": "pytest -k cuda", "value": lines[-1] if lines else "no output"}
    for name, reason in SUMMARY.findall(output):
        yield {"what": name, "value": f"failed: {reason}"}


PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    each.__name__: each
    for each in (
        machine,
        tests,
        steps,
        compiled,
        prefetch,
        stop_on_nan,
        memory,
        resume,
        tensors,
        lr_find,
        cost,
        predictions,
    )
}


def run(name: str, setting: Setting, write: Callable[[Row], None]) -> bool:
    """Run a part; False if it fails."""
    begun = setting.begun = time.perf_counter()
    status = "done"
    try:
        for row in PARTS[name](setting):
            write({"part": name, **row})
    except SkippedError as reason:
        status = str(reason)
    except Exception as error:  # noqa: BLE001 - it is reported, and the next part starts elsewhere
        traceback.print_exc()
        status = f"failed: {type(error).__name__}: {str(error).strip()[:300]}"
    write({"part": name, "status": f"{status}, {time.perf_counter() - begun:.1f} s"})
    return not status.startswith("failed")


def main(path: str, *arguments: str) -> int:
    """Run the parts that the arguments name, each with its seconds."""
    warnings.simplefilter("ignore")  # the compiler's own
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting("--tiny" in arguments, device)
    if device.type == "cpu" and not setting.is_tiny:
        return NO_CUDA
    with Path(path).open("a") as file:

        def write(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        for each in arguments:
            name, _, seconds = each.partition(":")
            if each.startswith("--"):
                continue
            setting.seconds = float(seconds)
            if not run(name, setting, write):
                os._exit(0)  # the next part starts in a new process; a broken device may not let this one end
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
