"""Build the wheel, look into it, install it in a clean environment, run a recipe from another folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RMSES = ["74.96194346966999", "36.43029986215973", "22.692756149058336", "19.006926227796704"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        look_into(wheel)
        use(wheel, Path(folder))
    print("the wheel is whole and works")


def build(folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    return next(folder.glob("*.whl"))


def look_into(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    packages = {folder for folder in folders if not folder.endswith(".dist-info")}
    assert packages == {"callbacks", "learner"}, f"the wheel holds {sorted(folders)}"
    for needed in (
        "callbacks/py.typed",
        "learner/py.typed",
        "learner/cli/commands.py",
        "callbacks/contract.py",
    ):
        assert needed in names, f"the wheel lacks {needed}"
    source = {str(path.relative_to(ROOT)) for each in packages for path in (ROOT / each).rglob("*.py")}
    assert source <= set(names), f"the wheel lacks {sorted(source - set(names))}"


def use(wheel: Path, folder: Path) -> None:
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    run(bin_folder / "pip", "install", wheel)
    (folder / "elsewhere").mkdir()
    run(bin_folder / "learner", "init", "mine", cwd=folder / "elsewhere")
    run(bin_folder / "python", "-m", "learner", "doctor", cwd=folder / "elsewhere")
    recipe = ROOT / "examples" / "article.yaml"
    printed = run(bin_folder / "learner", "run", recipe, cwd=folder / "elsewhere")
    missing = [rmse for rmse in RMSES if rmse not in printed]
    assert not missing, f"the recipe did not print {missing}:\n{printed}"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
