"""Environments that disturb an import or a run: hidden packages, spawned workers, odd folder names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import CSVLogger, Metrics, PlotSnapshots, Recorder, ZeroGrad
from learner import Data, Learner

ROOT = Path(__file__).parents[1]


def run(code: str, folder: Path, *, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=60)


def test_a_users_file_that_hides_callbacks_is_named_with_the_fix(tmp_path):
    (tmp_path / "callbacks.py").write_text("class Mine: pass\n")
    done = run("import learner", tmp_path)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"finds {tmp_path}/callbacks.py" in done.stderr
    assert "rename it" in done.stderr


def test_broken_optional_packages_do_not_break_the_import(tmp_path):
    for broken in ("torchvision", "torchmetrics", "sklearn", "pandas", "IPython"):
        (tmp_path / f"{broken}.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')\n"
        )
    done = run("import learner, callbacks; print('imported')", tmp_path)
    assert done.stdout == "imported\n", done.stderr


def test_a_script_without_a_main_guard_that_spawns_workers_gets_a_hint(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "from learner import Data, Learner\n"
        "items = TensorDataset(torch.rand(8, 1), torch.rand(8, 1))\n"
        "loader = DataLoader(items, 4, num_workers=1, multiprocessing_context='spawn')\n"
        "model = nn.Linear(1, 1)\n"
        "Learner(model, Data(loader), nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1)).fit(1)\n"
    )
    script = processes.run("train.py", cwd=tmp_path)
    assert script.returncode == 1
    assert 'if __name__ == "__main__":' in script.stderr


@pytest.mark.parametrize("folder", ["with space", "ünïcödé", "a" * 200])
def test_files_are_written_whatever_the_name_of_the_folder(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    logger, panels = CSVLogger("log.csv"), PlotSnapshots(n=1, path="steps.png")

    def batches():
        os.chdir(tmp_path / "elsewhere")  # a relative path means what it meant when the fit began
        yield from line_batches(1)

    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learn = Learner(
        model, Data(batches), F.mse_loss, optimizer, [logger, panels], defaults=(ZeroGrad, Metrics, Recorder)
    )
    learn.fit(1)
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["log.csv", "steps.png"]
    assert learn.history.to_csv(tmp_path / folder / "history.csv").exists()
