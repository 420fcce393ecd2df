"""Paths that a user passes to methods that read and write files, and files that replace others."""

from __future__ import annotations

import pytest
import torch
from small_files import small_files
from tiny import line_batches
from torch.nn import functional as F

import learner
from callbacks import Checkpoint, CSVLogger, PlotSnapshots
from learner import Data, Learner

TAKE_A_PATH = {
    "save": lambda learn, path: learn.save(path),
    "load": lambda learn, path: learn.load(path),
    "load_best": lambda learn, path: learn.load_best(path),
    "export": lambda learn, path: learn.export(path),
    "report": lambda learn, path: learn.report(path),
    "to_script": lambda learn, path: learn.to_script(path, n_epochs=1, model="m.py:N", data="m.py:d"),
    "get_preds": lambda learn, path: learn.get_preds(to=path),
    "to_csv": lambda learn, path: learn.history.to_csv(path),
    "open_run": lambda learn, path: learner.open_run(path),
    "Checkpoint": lambda learn, path: Checkpoint(path),
    "CSVLogger": lambda learn, path: CSVLogger(path),
    "PlotSnapshots": lambda learn, path: PlotSnapshots(path=path),
}


@pytest.fixture
def learn():
    torch.manual_seed(0)
    data = Data(line_batches(2), line_batches(1))
    return Learner(torch.nn.Linear(1, 1), data, F.mse_loss, torch.optim.SGD, defaults=())


@pytest.mark.parametrize("name", TAKE_A_PATH)
def test_what_is_not_a_path_is_refused_with_an_example(learn, name):
    for wrong in (3, b"x.pt", ""):
        with pytest.raises(TypeError, match=rf"{name}\(\w+={wrong!r}\): pass .*, such as '"):
            TAKE_A_PATH[name](learn, wrong)
    with pytest.raises(ValueError, match=r"s3:/.*this is a URL.*Pass the path of a local copy"):
        TAKE_A_PATH[name](learn, "s3://bucket/model.pt")


def test_a_tilde_is_the_home_directory(learn, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert learn.save("~/models/a.pt") == tmp_path / "models/a.pt"
    learn.load("~/models/a.pt")
    assert Checkpoint("~/runs").folder == tmp_path / "runs"
    assert CSVLogger("~x.csv").path.name == "~x.csv"


def test_a_link_to_a_file_stays_a_link_when_the_file_is_written_again(learn, tmp_path):
    writers = {
        "a.pt": learn.save,
        "b.csv": learn.history.to_csv,
        "c.npy": lambda path: learn.get_preds(to=path),
        "d.safetensors": learn.export,
        "e.html": lambda path: learn.report(path, predictions=False),
    }
    for name, write in writers.items():
        (tmp_path / "disk").mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(f"disk/{name}")
        write(tmp_path / name)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).stat().st_size


def test_loading_a_link_that_leads_nowhere_names_where_it_leads(learn, tmp_path):
    (tmp_path / "a.pt").symlink_to("gone.pt")
    with pytest.raises(ValueError, match=r"it is a link to gone\.pt, which does not exist"):
        learn.load(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["report", "to_csv"])
def test_a_full_disk_leaves_the_former_file_unchanged(learn, tmp_path, name):
    learn.history.rows = [{"epoch": n, "train_loss": 0.1234567890123} for n in range(20)]
    (tmp_path / "former").write_text("kept")
    with small_files(), pytest.raises(OSError, match="File too large"):
        TAKE_A_PATH[name](learn, tmp_path / "former")
    assert (tmp_path / "former").read_text() == "kept"
    assert [each.name for each in tmp_path.iterdir()] == ["former"]


def test_a_folder_is_refused_before_a_report_is_made(learn, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"this is a folder; pass a file in it"):
        learn.report(tmp_path)


def test_load_best_of_a_file_names_load(learn, tmp_path):
    path = learn.save(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match=r"is a file: load it with learn\.load\(path\)"):
        learn.load_best(path)


@pytest.mark.parametrize("letter", ["a", "\N{SNOWMAN}"])
def test_a_name_as_long_as_the_system_allows_is_written(learn, tmp_path, letter):
    path = tmp_path / f"{letter * (250 // len(letter.encode()))}.pt"
    learn.save(path)
    learn.save(path)
    assert list(tmp_path.iterdir()) == [path]
