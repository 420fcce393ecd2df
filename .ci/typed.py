"""Check with pyright that the type of each public name is known, also to other type checkers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: The lowest share of public names whose type is written down. Pyright infers the others, and another type
#: checker may infer them differently. Raise a share whenever you can.
FLOORS = {"callbacks": 0.80, "learner": 0.85}


def main() -> int:
    """Print a line for each package; 1 if one has names of unknown type, or is below its floor."""
    failed = False
    search = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for package, floor in FLOORS.items():
        # It finds the installed packages by the Python on PATH: --pythonpath does not reach --verifytypes.
        command = [
            sys.executable,
            "-m",
            "pyright",
            "--ignoreexternal",
            "--outputjson",
            "--verifytypes",
            package,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **search}
        )
        found = json.loads(done.stdout)["typeCompleteness"]
        share, n_unknown = found["completenessScore"], found["exportedSymbolCounts"]["withUnknownType"]
        print(f"{package}: {share:.1%} of types written down ({floor:.0%} required), {n_unknown} unknown")
        failed |= share < floor or n_unknown > 0
    if failed:
        print("To see the names: pyright --ignoreexternal --verifytypes PACKAGE", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
