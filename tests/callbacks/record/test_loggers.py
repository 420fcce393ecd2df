"""CSVLogger."""

import csv
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import Callback, Metrics, Order, Recorder, ZeroGrad
from callbacks.record.loggers import CSVLogger
from learner.learner import Learner

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


def make(*callbacks, defaults=(Metrics, Recorder), valid=None):
    sgd = partial(torch.optim.SGD, lr=1 / 3)
    data = ([BATCH], valid)
    return Learner(nn.Linear(1, 1), data, mse_loss, sgd, [ZeroGrad(), *callbacks], defaults=defaults)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Later(Callback):
    """A callback that adds a result from the second epoch on."""

    order = Order.MEASURE

    def after_epoch(self, learn):
        if learn.epoch >= 1:
            learn.results["valid_late"] = learn.epoch / 10


class Fail(Callback):
    def before_epoch(self, learn):
        if learn.epoch == 2:
            raise RuntimeError("broken")


def test_the_file_holds_the_rows_of_the_history_with_all_their_digits(tmp_path):
    path = tmp_path / "new folder" / "log.csv"
    learn = make(CSVLogger(path), valid=[BATCH])
    learn.fit(3)
    rows = rows_of(path)
    assert list(rows[0]) == ["epoch", "train_loss", "lr", "valid_loss", "seconds"]
    for name in ("epoch", "train_loss", "lr", "valid_loss"):
        assert [float(row[name]) for row in rows] == list(learn.history[name])


def test_a_line_is_on_disk_as_soon_as_its_epoch_has_ended(tmp_path):
    path = tmp_path / "log.csv"
    seen = []

    class Look(Callback):
        def before_epoch(self, learn):
            seen.append(len(rows_of(path)))

    make(CSVLogger(path), Look()).fit(3)
    assert seen == [0, 1, 2]


def test_an_error_leaves_the_lines_of_the_epochs_before_it(tmp_path):
    path = tmp_path / "log.csv"
    with pytest.raises(RuntimeError, match="broken"):
        make(CSVLogger(path), Fail()).fit(5)
    assert [row["epoch"] for row in rows_of(path)] == ["0", "1"]


def test_a_second_fit_continues_in_the_same_file(tmp_path):
    path = tmp_path / "log.csv"
    learn = make(CSVLogger(path))
    learn.fit(2)
    learn.fit(1)
    assert [row["epoch"] for row in rows_of(path)] == ["0", "1", "2"]


def test_a_result_that_comes_later_gets_a_column_and_nothing_is_lost(tmp_path):
    path = tmp_path / "log.csv"
    learn = make(CSVLogger(path), Later())
    learn.fit(3)
    rows = rows_of(path)
    assert [row["valid_late"] for row in rows] == ["", "0.1", "0.2"]
    assert [float(row["train_loss"]) for row in rows] == list(learn.history["train_loss"])
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_that_is_missing_leaves_an_empty_cell(tmp_path):
    path = tmp_path / "log.csv"
    learn = make(CSVLogger(path), Later())
    learn.fit(2)
    learn.fit(1)
    assert rows_of(path)[2]["valid_late"] == ""


def test_an_existing_file_is_refused_before_training_and_not_touched(tmp_path):
    path = tmp_path / "log.csv"
    make(CSVLogger(path)).fit(1)
    before = path.read_bytes()
    learn = make(CSVLogger(path))
    with pytest.raises(FileExistsError, match="append=True, or pass another path"):
        learn.fit(1)
    assert (path.read_bytes(), learn.global_step) == (before, 0)


def test_append_adds_lines_to_an_existing_file_under_one_header(tmp_path):
    path = tmp_path / "log.csv"
    make(CSVLogger(path)).fit(2)
    make(CSVLogger(path, append=True), Later()).fit(2)
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["0", "1", "0", "1"]
    assert [row["valid_late"] for row in rows] == ["", "", "", "0.1"]


def test_append_starts_a_file_if_it_is_missing_or_empty(tmp_path):
    for path in (tmp_path / "a.csv", tmp_path / "b.csv"):
        (tmp_path / "b.csv").touch()
        make(CSVLogger(path, append=True)).fit(1)
        assert len(rows_of(path)) == 1


def test_append_starts_a_new_line_after_a_torn_one(tmp_path):
    path = tmp_path / "log.csv"
    make(CSVLogger(path)).fit(2)
    path.write_text(path.read_text().rstrip("\n")[:-3])
    make(CSVLogger(path, append=True)).fit(1)
    assert [row["epoch"] for row in rows_of(path)] == ["0", "1", "0"]


def test_append_refuses_a_file_of_another_kind(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, today\n")
    with pytest.raises(ValueError, match="has no column 'epoch', but begins with 'dear diary, today'"):
        make(CSVLogger(path, append=True)).fit(1)
    assert path.read_text() == "dear diary, today\n"


def test_a_path_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "log.csv"):
        learn = make(CSVLogger(path))
        with pytest.raises(OSError, match=r"directory|exists") as caught:
            learn.fit(1)
        assert any("pass the name of a file that can be written" in note for note in caught.value.__notes__)
        assert learn.global_step == 0


def test_a_folder_deleted_during_the_fit_is_made_again(tmp_path):
    path = tmp_path / "runs" / "log.csv"

    class Delete(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                path.unlink()
                path.parent.rmdir()

    make(CSVLogger(path), Delete()).fit(3)
    assert [row["epoch"] for row in rows_of(path)] == ["1", "2"]


def test_a_relative_path_with_spaces_and_umlauts_is_fixed_when_the_fit_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Move(Callback):
        def before_epoch(self, learn):
            (tmp_path / "other").mkdir(exist_ok=True)
            monkeypatch.chdir(tmp_path / "other")

    make(CSVLogger("mein lauf/größe.csv"), Move()).fit(2)
    assert len(rows_of(tmp_path / "mein lauf" / "größe.csv")) == 2


def test_a_result_with_commas_and_lists_stays_one_cell(tmp_path):
    class Lists(Callback):
        def after_epoch(self, learn):
            learn.results["per_class"] = [0.5, 0.25]

    path = tmp_path / "log.csv"
    make(CSVLogger(path), Lists()).fit(1)
    assert rows_of(path)[0]["per_class"] == "[0.5, 0.25]"


def test_it_works_without_any_other_callback_and_numbers_the_epochs(tmp_path):
    path = tmp_path / "log.csv"
    make(CSVLogger(path), defaults=()).fit(2)
    assert [row["epoch"] for row in rows_of(path)] == ["0", "1"]


def test_an_invalid_path_is_refused_when_the_callback_is_made():
    with pytest.raises(TypeError, match="path=None"):
        CSVLogger(None)


def test_cleanup_works_without_a_fit_and_twice(tmp_path):
    callback = CSVLogger(tmp_path / "log.csv")
    learn = make(callback)
    callback.cleanup_fit(learn)
    callback.cleanup_fit(learn)
    assert list(tmp_path.iterdir()) == []


def test_it_shows_its_path_among_its_settings():
    assert re.fullmatch(r"CSVLogger\(path=\w+\('log.csv'\), append=False\)", repr(CSVLogger("log.csv")))
