"""The bar and the table of Progress in notebooks."""

import sys
from base64 import b64decode
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
from ground.kept_screens import HEADER, Screen, make

from callbacks import Metrics, Progress, Recorder
from callbacks.record import progress as module


class Outputs:
    """An imitation of `IPython.display` that keeps each output with all versions that it has shown."""

    def __init__(self):
        self.shown = []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        versions = [data]
        self.shown.append(versions)
        return SimpleNamespace(update=lambda data, raw: versions.append(data))


@pytest.fixture
def notebook(monkeypatch):
    """The outputs of a notebook."""
    outputs = Outputs()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=outputs, version_info=(9, 0)))
    monkeypatch.setitem(sys.modules, "IPython.display", outputs)
    monkeypatch.setattr(module, "REFRESH", 0.0)
    monkeypatch.setattr(module, "can_show_a_bar", lambda: True)
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr("callbacks.record.bar.in_notebook", lambda: True)
    monkeypatch.setattr(Screen, "isatty", lambda self: False)
    return outputs


def test_a_notebook_gets_a_bar_that_is_replaced_and_ends_empty(notebook):
    with redirect_stdout(Screen()) as out, redirect_stderr(Screen()) as err:
        make().fit(2)
        assert sys.stdout is out
    assert err.getvalue() == ""
    (bars,) = [versions for versions in notebook.shown if "text/html" not in versions[0]]
    lines = [data["text/plain"] for data in bars]
    assert lines[0].startswith("epoch 0/2 train |")
    assert any("valid" in line and "batch/s" in line for line in lines)
    assert not any("\r" in line for line in lines)
    assert lines[-1] == ""


def test_a_notebook_has_one_table_that_grows_and_marks_the_best_epoch(notebook):
    with redirect_stdout(Screen()) as out, redirect_stderr(Screen()):
        make().fit(3)
    assert out.getvalue().splitlines()[0].startswith("best epoch: 2 ")
    (tables,) = [versions for versions in notebook.shown if "text/html" in versions[0]]
    assert [data["text/html"].count("<tr>") for data in tables] == [2, 3, 4]
    assert "<td><b>2</b></td>" in tables[-1]["text/html"]
    assert tables[-1]["text/plain"].splitlines()[0] == HEADER


def test_a_notebook_has_curves_below_the_table_on_request(notebook):
    with redirect_stdout(Screen()), redirect_stderr(Screen()):
        make(Progress(plot=True), defaults=(Metrics, Recorder)).fit(3)
    (pictures,) = [versions for versions in notebook.shown if "image/png" in versions[0]]
    assert b64decode(pictures[-1]["image/png"]).startswith(b"\x89PNG")


def test_in_a_real_notebook_a_fit_leaves_one_table_and_a_cost_none():
    setup = """
import torch
from functools import partial
from learner.learner import Learner
x = torch.ones(4, 1)
data = ([(x, x)] * 4, [(x, x)])
sgd = partial(torch.optim.SGD, lr=0.1)
learn = Learner(torch.nn.Linear(1, 1), data, torch.nn.functional.mse_loss, sgd)
history = learn.fit(2)
"""
    cells = [nbformat.v4.new_code_cell(code) for code in (setup, "cost = learn.cost(20)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    fit, cost = (
        [each["data"] for each in cell["outputs"] if each["output_type"] == "display_data"]
        for cell in notebook["cells"]
    )
    assert len([data for data in fit if "text/html" in data]) == 1
    assert all(data == {"text/plain": ""} for data in fit if "text/html" not in data)
    assert cost == []
