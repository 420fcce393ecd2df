"""The commands `predict` and `test` on the folder of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import learner
from learner.cli.commands import main

MODELS = """
import torch
from torch import nn
from learner import Data, TensorLoader

X = torch.arange(24.0).view(8, 3)
Y = X.sum(1, keepdim=True)


def loaders(test=False):
    one = TensorLoader((X, Y), 4)
    return Data(one, TensorLoader((X[:4], Y[:4]), 4), test=one if test else None)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(1, 2, 3)

    def forward(self, x):
        return self.a(x)[:, :1, 0]


def deep():
    return Data(TensorLoader((X[:, None], Y), 4))


def alone():
    return Data(TensorLoader((X, Y), 4))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return {"both": self.a(x), "first": self.a(x)[:, 0]}


def first(preds, targets):
    return ((preds["first"] - targets[:, 0]) ** 2).mean()
"""
RECIPE = """
recipe: sums
seed: 0
data: {use: "models.py:loaders"}
model: {use: Linear, in_features: 3, out_features: 1}
loss: mse
optimizer: {use: SGD, lr: 0.0001}
callbacks: {Progress: null}
fit: {epochs: 1}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs of one recipe and of variants."""
    folder = tmp_path_factory.mktemp("predicting")
    (folder / "models.py").write_text(MODELS, encoding="utf-8")
    (folder / "sums.yaml").write_text(RECIPE, encoding="utf-8")
    variants = [
        [],
        ["data.test=true"],
        ["model={use: 'models.py:Two'}", "loss={use: 'models.py:first'}"],
        ["data={use: 'models.py:alone'}"],
        ["data={use: 'models.py:deep'}", "model={use: 'models.py:Deep'}"],
    ]
    for words in variants:
        command = ["run", str(folder / "sums.yaml"), "--runs", str(folder / "runs"), *words]
        assert main(command) == 0
    np.save(folder / "x.npy", np.arange(9.0).reshape(3, 3))
    return folder


@pytest.fixture
def here(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    capsys.readouterr()
    return place


def expected(place, run="sums-1"):
    learn = learner.open_run(place / "runs" / run)
    return learn.predict(torch.arange(9.0).reshape(3, 3))


def predict(*words, run="runs/sums-1"):
    return main(["predict", run, *map(str, words)])


@pytest.mark.parametrize("kind", ["npy", "pt", "csv", "headed", "semicolons", "columns"])
def test_files_of_every_kind_have_the_predictions_of_predict(here, kind):
    x, words = np.arange(9.0).reshape(3, 3), []
    path = here / f"{kind}.{kind if kind in ('npy', 'pt') else 'csv'}"
    if kind == "npy":
        np.save(path, x.astype("int16"))
    elif kind == "pt":
        torch.save(torch.tensor(x), path)
    elif kind == "columns":
        np.savetxt(path, x[:, [2, 0, 0, 1]], delimiter=",", header="c,skipped,a,b", comments="")
        words = ["--columns", "a,b,c"]
    else:
        delimiter = ";" if kind == "semicolons" else ","
        np.savetxt(
            path, x, delimiter=delimiter, header="" if kind == "csv" else delimiter.join("abc"), comments=""
        )
    for output in ("out.npy", "out.pt", "out.csv"):
        assert predict("--input", path, "--output", output, *words) == 0
    wanted = expected(here)
    assert torch.allclose(torch.from_numpy(np.load("out.npy")), wanted)
    assert torch.allclose(torch.load("out.pt"), wanted)
    assert np.allclose(np.loadtxt("out.csv", skiprows=1, ndmin=2), wanted[:, 0][:, None])


def test_a_row_of_a_csv_file_has_the_numbers_of_one_item_of_any_shape(here, capsys):
    np.savetxt("flat.csv", np.arange(9.0).reshape(3, 3), delimiter=",")
    assert predict("--input", "flat.csv", "--output", "flat.npy", run="runs/sums-5") == 0
    learn = learner.open_run("runs/sums-5")
    wanted = learn.predict(torch.arange(9.0).reshape(3, 1, 3))
    assert torch.allclose(torch.from_numpy(np.load("flat.npy")), wanted)
    np.savetxt("narrow.csv", np.zeros((2, 2)), delimiter=",")
    assert predict("--input", "narrow.csv", run="runs/sums-5") == 2
    assert "A row needs the 3 numbers of one item." in capsys.readouterr().err


def test_predictions_go_to_standard_output_without_other_lines(here, capsys):
    assert predict("--input", "x.npy", "--batch-size", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pred"
    assert np.allclose([float(line) for line in lines[1:]], expected(here)[:, 0])


def test_a_first_line_that_pandas_may_have_written_as_a_header_is_reported(here, capsys):
    (here / "numbered.csv").write_text("0,1,2\n3,4,5\n")
    assert predict("--input", "numbered.csv") == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3
    assert "numbered.csv: line 1 (0, 1, 2, ...) counts as an item; remove it if it is a header" in output.err


def test_an_error_of_the_model_is_reported_without_a_traceback(here, capsys, monkeypatch):
    def fail(self, x):
        raise IndexError("index out of range")

    np.save("some.npy", np.zeros((2, 3)))
    monkeypatch.setattr(nn.Linear, "forward", fail)
    assert predict("--input", "some.npy") == 2
    error = capsys.readouterr().err
    assert "the model cannot take these inputs: IndexError: index out of range" in error
    assert "Traceback" not in error


def test_one_item_is_a_file_of_one_row(here):
    np.save("one.npy", np.arange(3.0))
    assert predict("--input", "one.npy", "--output", "one_out.npy") == 0
    assert np.load("one_out.npy").shape == (1, 1)


def test_several_outputs_are_written_by_name_or_selected(here, capsys):
    assert predict("--input", "x.npy", "--output", "two.npy", run="runs/sums-3") == 0
    assert np.load("two.both.npy").shape == (3, 2)
    assert predict("--input", "x.npy", run="runs/sums-3") == 2
    assert "--keep NAME" in capsys.readouterr().err
    assert predict("--input", "x.npy", "--keep", "first", run="runs/sums-3") == 0


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("wide.csv", "1,2\n3,4\n", "wide.csv has 2 columns, but the model was trained on 3 per item"),
        ("word.csv", "a,b,c\n1,2,3\n1,x,3\n", "word.csv, line 3, column 'b': 'x' is not a number"),
        ("hole.csv", "1,2,3\n1,,3\n", "line 2, column 2: an empty cell is not a number"),
        ("first.csv", "1,x,3\n1,2,3\n", "line 1, column 2: 'x' is not a number, but most other cells are"),
        ("gap.csv", ",2,3\n1,2,3\n", "line 1, column 1: an empty cell is not a number"),
        ("short.csv", "1,2,3\n\n1,2\n", "line 3: 2 cells, but the first line has 3"),
        ("empty.csv", "", "empty.csv is empty"),
        ("head.csv", "a,b,c\n", "head.csv has a header and no rows"),
        ("text.csv", b"\xff\xfe\x00", "is not text in UTF-8"),
        ("bad.npy", b"no array", "bad.npy is damaged or contains other objects"),
        ("deep.npy", np.zeros((2, 3, 3)), "has the shape (2, 3, 3), but the model was trained on batches"),
        ("objects.npy", np.array(["a", None], dtype=object), "only arrays of numbers, saved with np.save"),
        ("words.npy", np.array([["a", "b", "c"]]), "words.npy contains"),
        ("code.pt", torch.nn.Linear(3, 1), "only tensors, saved with torch.save"),
        ("dict.pt", {"x": torch.zeros(2, 3)}, "the model takes inputs by position"),
        ("two.pt", [torch.zeros(2, 3), torch.zeros(2, 3)], "has 2 inputs, but the model takes 1"),
        ("none.npy", np.zeros((0, 3)), "none.npy has no items"),
        ("x.json", "{}", "inputs are read from files that end in .csv, .npy, .pt"),
    ],
)
def test_an_input_file_that_does_not_fit_is_refused(here, capsys, name, contents, words):
    if isinstance(contents, np.ndarray):
        np.save(name, contents, allow_pickle=True)
    elif name.endswith(".pt"):
        torch.save(contents, name)
    else:
        (here / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    assert predict("--input", name, "--output", "none_out.npy") == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (here / "none_out.npy").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "none.csv"], "there is no such file"),
        (["--input", "x.npy", "--output", "x.json"], "end in .npy, .csv, .pt"),
        (["--input", "x.npy", "--batch-size", "0"], "pass 1 or more"),
        (["--input", "x.npy", "--columns", "a"], "selects columns of a CSV file"),
        (["--input", "x.npy", "--keep", "logits"], "has no part 'logits'"),
        (["--input", "x.npy", "--output", "x.npy"], "this is the input file, which is not overwritten"),
        (["--input", "x.npy", "--output", "folder.csv"], "--output folder.csv: this is a folder"),
        (["--input", "x.npy", "--output", "models.py/y.npy"], "models.py is a file, not a folder"),
        (["--input", "x.npy", "--weights", "last"], "argument --weights: invalid choice: 'last'"),
        ([], "required: --input"),
    ],
)
def test_wrong_options_are_refused(here, capsys, words, message):
    (here / "folder.csv").mkdir(exist_ok=True)
    assert predict(*words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(here, capsys):
    assert predict("--input", "x.npy", run="runs") == 2
    assert main(["test", "runs/none"]) == 2
    assert "is not a run's folder" in capsys.readouterr().err


def test_test_measures_the_test_data_or_else_the_validation_data(here, capsys):
    assert main(["test", "runs/sums-2"]) == 0
    assert capsys.readouterr().out.split()[0] == "test_loss"
    assert main(["test", "runs/sums-2", "--valid"]) == 0
    assert capsys.readouterr().out.split()[0] == "valid_loss"
    assert main(["test", "runs/sums-1"]) == 0
    printed = capsys.readouterr()
    assert "so the validation data is used" in printed.err
    learn = learner.open_run("runs/sums-1")
    assert float(printed.out.split()[1]) == pytest.approx(learn.validate()["valid_loss"], rel=1e-3)
    assert main(["test", "runs/sums-4"]) == 2
    assert "neither test nor validation data" in capsys.readouterr().err
