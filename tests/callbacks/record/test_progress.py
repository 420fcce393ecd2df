"""Progress: a table with a row per epoch, and a bar where someone looks."""

import io
import math
import re
import sys
from base64 import b64decode
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import nbclient
import nbformat
import pytest
import torch
from processes import start
from torch import nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

from callbacks import Callback, CancelTrain, EarlyStopping, Metrics, Progress, Recorder, ZeroGrad
from callbacks.record import progress as module
from learner.data.data import Data
from learner.learner import Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))
HEADER = "epoch  train_loss  valid_loss         lr   time"
LINE = re.compile(r" *\d+(  +[-+.\de]+)*  +\d+\.\ds")


def make(*callbacks, train=(BATCH, BATCH), valid=(BATCH,), defaults=(Metrics, Recorder, Progress)):
    sgd = partial(torch.optim.SGD, lr=1e-3)
    data = Data(train, valid)
    return Learner(nn.Linear(1, 1), data, mse_loss, sgd, [ZeroGrad(), *callbacks], defaults=defaults)


class Screen(io.StringIO):
    """A terminal that keeps all that is written."""

    def isatty(self):
        return True

    def bars(self):
        return [
            each
            for each in re.split(r"[\r\n]", self.getvalue())
            if each.startswith("epoch") and "batch" in each
        ]

    def lines(self):
        """What stands on the screen at the end."""
        return [line.split("\r")[-1] for line in self.getvalue().split("\n")]


class At(Callback):
    """Does something in the middle of a fit."""

    def __init__(self, action, n_steps=3, name=None):
        super().__init__(name=name)
        self.action, self.n_steps = action, n_steps

    def after_batch(self, learn):
        if learn.training and learn.global_step == self.n_steps:
            self.action(learn)


def fail(learn):
    raise RuntimeError("broken")


@pytest.fixture
def terminal(monkeypatch):
    """Fits on a separate screen, with a bar that is drawn as often as possible."""
    monkeypatch.setattr(module, "REFRESH", 0.0)
    return Terminal()


class Terminal:
    """Runs fits with both streams on one screen."""

    def fit(self, learn, n_epochs):
        self.screen = Screen()
        with redirect_stdout(self.screen), redirect_stderr(self.screen):
            learn.fit(n_epochs)
        return self.screen


def test_without_a_terminal_there_is_a_table_of_the_epochs_and_nothing_else(capfd):
    make().fit(3)
    out, err = capfd.readouterr()
    header, *lines, last = out.splitlines()
    assert err == ""
    assert "\r" not in out
    assert header == HEADER
    assert [line[:5] for line in lines] == ["    0", "    1", "    2"]
    assert all(LINE.fullmatch(line) for line in lines)
    assert last.startswith("best epoch: 2 (valid_loss ")


def test_a_row_has_the_results_of_the_history(capfd):
    learn = make()
    learn.fit(1)
    row = learn.history[0]
    expected = f"    0  {row['train_loss']:10.4f}  {row['valid_loss']:10.4f}     0.0010   0.0s"
    assert capfd.readouterr().out.splitlines() == [HEADER, expected]


def test_the_last_line_names_the_best_epoch_by_the_result_that_is_monitored(capfd):
    class Score(Callback):
        measures: ClassVar = {"score": "max"}

        def after_epoch(self, learn):
            learn.results["score"] = [1.0, 5.0, 2.0, math.nan][learn.epoch]

    learn = make(Score(), EarlyStopping("score", patience=9, restore_best=False))
    learn.fit(4)
    header, *_, last = capfd.readouterr().out.splitlines()
    assert "  score" in header
    assert last == "best epoch: 1 (score 5.0000)"


def test_what_a_callback_measures_has_no_column_unless_it_is_monitored(capfd):
    class Norm(Callback):
        measures: ClassVar = {"grad_norm": None}

        def after_epoch(self, learn):
            learn.results["grad_norm"] = 1.0

    learn = make(Norm())
    learn.fit(1)
    assert capfd.readouterr().out.splitlines()[0] == HEADER
    assert learn.history[0]["grad_norm"] == 1.0


def test_weights_that_are_restored_are_reported_once(capfd):
    class Worse(Callback):
        def after_train(self, learn):
            with torch.no_grad():
                learn.model.bias.add_(100 * learn.epoch)

    make(Worse(), EarlyStopping(patience=9)).fit(3)
    out = capfd.readouterr().out
    assert "the weights of epoch 0 are restored, the best by valid_loss" in out
    assert "best epoch" not in out


def test_of_hundreds_of_quick_epochs_only_the_first_and_the_last_have_a_line(capfd):
    make(train=[BATCH], valid=None).fit(500)
    lines = capfd.readouterr().out.splitlines()
    numbers = [int(line.split()[0]) for line in lines if LINE.fullmatch(line)]
    assert lines[-2].split() == ["..."]
    assert numbers[:20] == list(range(20))
    assert numbers[-1] == 499
    assert len(numbers) < 60  # one a second after the first twenty


def test_the_line_of_the_epoch_before_an_error_is_not_lost(capfd):
    learn = make(At(fail, 61), train=[BATCH])
    with pytest.raises(RuntimeError, match="broken"):
        learn.fit(100)
    assert capfd.readouterr().out.splitlines()[-1].startswith("   59 ")


def test_a_stop_prints_its_reason_on_a_separate_line(capfd):
    make(At(lambda learn: learn.stop("good enough"))).fit(9)
    lines = capfd.readouterr().out.splitlines()
    assert lines[-2] == "stopped in epoch 1: good enough"
    assert lines[-3].startswith("    1 ")


def test_a_second_fit_prints_its_own_lines(capfd):
    learn = make()
    learn.fit(2)
    learn.fit(1)
    starts = [line[:5] for line in capfd.readouterr().out.splitlines()]
    assert starts == ["epoch", "    0", "    1", "best ", "epoch", "    0"]


def test_validation_and_prediction_outside_of_a_fit_print_nothing(capfd):
    learn = make()
    learn.validate()
    learn.predict(BATCH[0])
    learn.get_preds()
    assert capfd.readouterr() == ("", "")


def test_it_works_alone_and_without_validation(capfd):
    make(valid=None, defaults=(Progress,)).fit(1)
    assert re.fullmatch(r"epoch   time\n    0   \d\.\ds\n", capfd.readouterr().out)


def test_in_a_terminal_the_bar_counts_training_and_validation_batches(terminal):
    screen = terminal.fit(make(), 2)
    shown = [re.search(r"epoch (.*?) \|.* (\d+)% ", bar).groups() for bar in screen.bars()]
    expected = [
        *[("0/2 train", percent) for percent in ("0", "17", "33")],
        *[("0/2 valid", percent) for percent in ("33", "50")],
        *[("1/2 train", percent) for percent in ("50", "67", "83")],
        *[("1/2 valid", percent) for percent in ("83", "100")],
    ]
    assert shown == expected


def test_the_bar_shows_the_loss_of_its_batch(terminal):
    losses = []

    class Keep(Callback):
        def after_batch(self, learn):
            losses.append(learn.loss.item())

    screen = terminal.fit(make(Keep()), 1)
    shown = [match.group(1) for bar in screen.bars() if (match := re.search(r"loss (\S+) *$", bar))]
    assert shown == [f"{loss:.4g}" for loss in losses]


def test_where_the_terminal_has_no_known_width_the_bar_fits_eighty_columns(terminal):
    assert {len(bar) for bar in terminal.fit(make(), 20).bars()} == {79}


def test_a_bar_over_data_of_unknown_length_counts_what_has_passed(terminal):
    screen = terminal.fit(make(train=lambda: iter([BATCH, BATCH]), valid=lambda: iter([BATCH])), 2)
    counts = [int(re.search(r"(\d+) batches", bar).group(1)) for bar in screen.bars()]
    assert counts == [0, 1, 2, 2, 3, 3, 4, 5, 5, 6]


def test_a_bar_over_data_whose_length_is_not_implemented_counts_what_has_passed(terminal):
    class NoLength:
        def __iter__(self):
            return iter([BATCH, BATCH])

        def __len__(self):
            raise NotImplementedError

    assert "batches" in terminal.fit(make(train=NoLength(), valid=None), 2).bars()[-1]


def test_a_pass_that_ends_early_does_not_shift_the_bar(terminal):
    def stop_pass(learn):
        raise CancelTrain

    screen = terminal.fit(make(At(stop_pass, n_steps=1)), 2)
    assert [re.search(r"(\d+)% ", bar).group(1) for bar in screen.bars()] == [
        *("0", "33", "50"),
        *("50", "67", "83", "83", "100"),
    ]


def test_validation_in_the_middle_of_a_fit_does_not_shift_the_bar(terminal):
    screen = terminal.fit(make(At(lambda learn: learn.validate(), n_steps=1)), 1)
    assert [re.search(r"(\d+)% ", bar).group(1) for bar in screen.bars()][-3:] == ["67", "67", "100"]


def test_the_bar_is_gone_when_the_fit_ends_and_the_lines_stay(terminal):
    lines = terminal.fit(make(), 2).lines()
    assert lines[0] == HEADER
    assert [bool(LINE.fullmatch(line)) for line in lines[1:]] == [True, True, False, False]
    assert lines[-1].strip() == ""


def test_what_others_print_is_on_a_separate_line(terminal):
    def speak(learn):
        print("a word")
        print("from", end=" ")
        print("a callback")
        print("and an error", file=sys.stderr)

    lines = terminal.fit(make(At(speak)), 2).lines()
    assert "a word" in lines
    assert "from a callback" in lines
    assert "and an error" in lines


def test_a_line_that_is_not_ended_yet_is_not_drawn_over(terminal):
    def begin(learn):
        print("waiting ", end="")

    def end(learn):
        print("is over")

    lines = terminal.fit(make(At(begin, n_steps=1), At(end, n_steps=4, name="end")), 2).lines()
    assert any(line.startswith("waiting epoch") for line in lines), "an epoch's row is not held back"
    lines = terminal.fit(make(At(begin, n_steps=3), At(end, n_steps=4, name="end")), 2).lines()
    assert "waiting is over" in lines


@pytest.mark.parametrize("action", [fail, lambda learn: learn.stop("enough"), lambda learn: None])
def test_however_the_fit_ends_the_streams_are_restored_and_the_bar_is_closed(terminal, action):
    learn = make(At(action))
    with redirect_stdout(Screen()) as out, redirect_stderr(Screen()) as err:
        with suppress(RuntimeError):
            learn.fit(2)
        assert (sys.stdout, sys.stderr) == (out, err)
    assert learn.callbacks.progress._bar is None
    assert err.bars()
    assert err.lines()[-1].strip() == ""


def test_a_stream_that_someone_else_has_put_there_in_the_fit_stays(terminal):
    other = io.StringIO()

    def replace(learn):
        sys.stdout = other

    with redirect_stdout(Screen()), redirect_stderr(Screen()):
        make(At(replace)).fit(2)
        assert sys.stdout is other


def test_cleanup_without_a_fit_and_twice_does_no_harm(capfd):
    callback = Progress()
    learn = make(callback, defaults=())
    callback.cleanup_fit(learn)
    callback.cleanup_fit(learn)
    assert capfd.readouterr() == ("", "")


class Outputs:
    """Stands for `IPython.display`: keeps each output with all that it has shown."""

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
    """The outputs of a notebook without widgets."""
    outputs = Outputs()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=outputs, version_info=(9, 0)))
    monkeypatch.setitem(sys.modules, "IPython.display", outputs)
    monkeypatch.setattr(module, "REFRESH", 0.0)
    monkeypatch.setattr(module, "can_show_a_bar", lambda: True)
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr("callbacks.record.bar.in_notebook", lambda: True)
    monkeypatch.setattr(
        "callbacks.record.bar.tqdm_class", lambda: type("Text", (tqdm,), {"monitor_interval": 0})
    )
    monkeypatch.setattr(Screen, "isatty", lambda self: False)
    return outputs


def test_a_notebook_without_widgets_gets_a_bar_that_is_replaced_and_ends_empty(notebook):
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


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_in_a_real_terminal_the_last_lines_are_the_epochs_and_no_warning_is_given():
    code = """
import time, torch, warnings
from functools import partial
from callbacks import Callback
from learner.learner import Learner
warnings.simplefilter("error")
warnings.simplefilter("ignore", ResourceWarning)  # an older torch leaves a temporary folder to the end
class Slow(Callback):
    def after_batch(self, learn):
        time.sleep(0.06)
x = torch.ones(4, 1)
sgd = partial(torch.optim.SGD, lr=0.1)
data = ([(x, x)] * 4, [(x, x)])
Learner(torch.nn.Linear(1, 1), data, torch.nn.functional.mse_loss, sgd, [Slow]).fit(2)
"""
    import os
    import pty

    parent, child = pty.openpty()
    process = start("-c", code, stdin=child, stdout=child, stderr=child)
    os.close(child)
    written = b""
    while chunk := read_or_end(parent):
        written += chunk
    os.close(parent)
    assert process.wait() == 0, written.decode()
    text = written.decode().replace("\r\n", "\n")
    assert "epoch 0/2 train |" in text
    screen = [line.split("\r")[-1] for line in text.split("\n")]
    assert [line[:6] for line in screen] == ["epoch ", "    0 ", "    1 ", "best e", "the we", ""]


def read_or_end(descriptor):
    import os

    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other side has closed
        return b""
