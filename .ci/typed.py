"""Check with pyright that the types of public names are known, also to other type checkers."""

from __future__ import annotations

import json
import subprocess
import sys

#: The lowest share of public names with a known type, and the most names with an unknown one.
#: The other names have a type that pyright infers, but that another type checker may infer differently.
#: Raise a share and lower a number whenever you can.
LIMITS = {"callbacks": (0.80, 0), "learner": (0.86, 30)}


def main() -> int:
    """Print a line for each package; 1 if one of them is below its limits."""
    failed = False
    for package, (share, n_unknown) in LIMITS.items():
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--ignoreexternal"]
        done = subprocess.run(
            [*command, "--outputjson", "--verifytypes", package], capture_output=True, text=True, check=False
        )
        found = json.loads(done.stdout)["typeCompleteness"]
        known, unknown = found["completenessScore"], found["exportedSymbolCounts"]["withUnknownType"]
        print(f"{package}: {known:.1%} of the types are known ({share:.0%} required)")
        print(f"{package}: {unknown} names have an unknown type ({n_unknown} allowed)")
        failed |= known < share or unknown > n_unknown
    if failed:
        print("For the names: pyright --ignoreexternal --verifytypes PACKAGE", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
