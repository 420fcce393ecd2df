"""`learner runs`: a table of the runs, the best first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.cli.commands import main
from learner.files.run_files import write_facts


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in an empty folder with a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def make_run(name: str, losses: list[float], **facts) -> None:
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("recipe: planted\n")
    if losses:
        rows = [f"{epoch},{loss},0.1" for epoch, loss in enumerate(losses)]
        (folder / "history.csv").write_text("\n".join(["epoch,valid_loss,seconds", *rows]))
    write_facts(folder, {"format": 1, "status": "finished", "code": {"models.py": "secret"}, **facts})


def test_runs_are_listed_with_the_best_first_in_eighty_columns(capsys):
    make_run("a-1", [3.0, 2.0, 2.5])
    make_run("a-2", [3.0, 1.0], status="failed")
    make_run("b-1", [])
    make_run("a-very-long-name-of-a-recipe-with-details-1", [4.0])
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["a-2", "failed", "2"],
        ["a-1", "finished", "3"],
        ["...recipe-with-details-1", "finished", "1"],
    ]
    assert "valid_loss 1.0000" in lines[1]


def test_runs_as_data_have_no_code(capsys):
    make_run("a-1", [3.0])
    assert main(["runs", "runs", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)[0]["status"] == "finished"
    assert "secret" not in out


def test_a_folder_without_runs_is_refused(capsys):
    assert main(["runs", "nowhere"]) == 2
    assert "has no runs" in capsys.readouterr().err


def test_a_run_without_a_recorder_is_listed_with_its_epochs(capsys):
    Path("line.yaml").write_text(
        "data: article\n"
        "model: {use: 'models.py:Line'}\n"
        "loss: mse\n"
        "optimizer: {use: SGD, lr: 1e-5}\n"
        "defaults: []\n"
        "callbacks: {ZeroGrad: {}}\n"
        "fit: {epochs: 3}\n"
    )
    Path("models.py").write_text(
        "import torch\n"
        "class Line(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.slope = torch.nn.Parameter(torch.ones(1))\n"
        "    def forward(self, time):\n"
        "        return self.slope * time\n"
    )
    assert main(["run", "line.yaml"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["line-1", "finished", "3"]
