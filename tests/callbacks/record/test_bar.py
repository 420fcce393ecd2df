"""The bar of Progress in terminals and notebooks."""

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress

import pytest
from ground.kept_screens import BATCH, HEADER, LINE, At, Screen, fail, make
from processes import start

from callbacks import Callback, CancelTrain, Progress
from callbacks.record import progress as module


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


def test_cleanup_works_without_a_fit_and_twice(capfd):
    callback = Progress()
    learn = make(callback, defaults=())
    callback.cleanup_fit(learn)
    callback.cleanup_fit(learn)
    assert capfd.readouterr() == ("", "")


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
    except OSError:  # how Linux reports that the other side is closed
        return b""
