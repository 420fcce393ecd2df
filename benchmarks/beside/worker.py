"""A process that trains with one framework, on request: `python benchmarks/beside/worker.py with_fastai`.

Its first line describes it: `{"version": ..., "variants": [...]}` or `{"missing": ...}`. Then it answers
each line `[table, work, variant, scale]` on standard input with a line that contains seconds per step,
steps and final loss. The framework's own output is discarded.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import resource
import sys
import tempfile
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any


def main(module_name: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers)

    import torch

    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp(prefix="beside_"))  # for files that a framework writes by itself
    try:
        peer = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001  # an installed framework may fail in any way
        answer(missing=f"{type(error).__name__}: {error}".splitlines()[0])
        return
    answer(version=version(peer.PACKAGE), variants=list(peer.VARIANTS), megabytes=peak())
    for line in sys.stdin:
        try:
            answer(**train(peer.VARIANTS, *json.loads(line)))
        except NotImplementedError:  # the framework has no such feature
            answer(error="")
        except Exception:  # noqa: BLE001  # reported to the caller; the other rows continue
            answer(error=traceback.format_exc())


def train(variants: dict[str, Any], table: str, name: str, variant: str, scale: float) -> dict[str, Any]:
    from works import TABLES, plain, step_seconds

    work = replace(TABLES[table](scale)[name], notes=[])
    model = (plain if variant == "plain loop" else variants[variant])(work)
    return {
        "seconds": step_seconds(work.notes),
        "steps": len(work.notes),
        "loss": work.final_loss(model),
        "weights": [parameter.sum().item() for parameter in model.parameters()],
        "megabytes": peak(),
    }


def version(package: str) -> str:
    return importlib.metadata.version(package) if package else ""


def peak() -> float:
    """The peak memory of this process in megabytes; the system reports kB, macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1])
