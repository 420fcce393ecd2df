"""Draw the report of a run for the docs, in light and in dark: `python docs/screens.py`. Needs Chromium."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from browser import Browser
from PIL import Image

from learner.cli.commands import main as learner

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"


def main() -> None:
    """Run the recipe of the digits, and photograph the top of its report."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(ROOT / "examples", "examples")
        learner(["run", "examples/digits.yaml"])
        learner(["report", "runs/digits-1"])
        photograph(Path("runs/digits-1/report.html").resolve())


def photograph(page: Path) -> None:
    """Write `report.png` and `report_dark.png` to `docs/pictures`."""
    with Browser() as browser:
        for scheme, name in {"light": "report.png", "dark": "report_dark.png"}.items():
            browser.show(1280, scheme, 1440)
            browser.open(page.as_uri())
            browser.screenshot(PICTURES / name)
            Image.open(PICTURES / name).quantize(256).save(PICTURES / name, optimize=True)  # half the size


if __name__ == "__main__":
    main()
