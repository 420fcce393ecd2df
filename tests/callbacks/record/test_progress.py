"""Progress: a table with a row per epoch, and a bar in a terminal."""

import math
import re
from typing import ClassVar

import pytest
import torch
from ground.kept_screens import BATCH, HEADER, LINE, At, fail, make

from callbacks import Callback, EarlyStopping, Progress
from callbacks.record import progress


class Clock:
    """A clock that only the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


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
    assert "restored the weights of epoch 0, the best by valid_loss" in out
    assert "best epoch" not in out


def test_of_hundreds_of_quick_epochs_the_first_have_a_line_then_one_per_second_and_the_last(capfd, clock):
    class Hundredth(Callback):
        def after_train(self, learn):
            clock.now += 0.01

    make(Hundredth(), train=[BATCH], valid=None).fit(500)
    lines = capfd.readouterr().out.splitlines()
    numbers = [int(line.split()[0]) for line in lines if LINE.fullmatch(line)]
    assert lines[-2].split() == ["..."]
    assert numbers[:20] == list(range(20))
    assert len(numbers) == 20 + 4 + 1  # the last of the first twenty is printed after 0.2 of 5 seconds
    assert numbers[-1] == 499


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
