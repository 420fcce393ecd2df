"""Check with pyright that the type of each public name is known, also to other type checkers."""

from __future__ import annotations

import json
import subprocess
import sys

#: The lowest share of public names whose type is written down. Pyright infers the others, and another type
#: checker may infer them differently. Raise a share whenever you can.
FLOORS = {"callbacks": 0.80, "learner": 0.87}


def main() -> int:
    """Print a line for each package; 1 if one has names of unknown type, or is below its floor."""
    failed = False
    for package, floor in FLOORS.items():
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--ignoreexternal"]
        done = subprocess.run(
            [*command, "--outputjson", "--verifytypes", package], capture_output=True, text=True, check=False
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
