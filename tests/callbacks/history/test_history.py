"""History: what was measured, as data and as a table."""

import csv
import math
import re
import warnings
from functools import partial

import pytest
import torch
from fits.histories import BATCH, history_of, made
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import History, Metrics, Order, Recorder, ZeroGrad, on
from learner.learner import Learner


def test_the_table_has_a_header_and_one_row_per_epoch_in_columns():
    history = history_of({"loss": 0.25}, {"loss": 12.5, "late": 1e-9})
    assert repr(history) == (
        "epoch     loss  seconds   late\n    0   0.2500   0.5000       \n    1  12.5000   0.5000  1e-09"
    )


def test_of_a_long_history_the_table_shows_both_ends():
    history = history_of(*({"a": 1} for _ in range(1000)))
    numbers = [line.split()[0] for line in repr(history).splitlines()]
    assert numbers == ["epoch", *map(str, range(15)), "...", *map(str, range(985, 1000))]
    assert history._repr_html_().count("<tr>") == 32


def test_the_rows_of_many_epochs_share_the_strings_of_their_names():
    history = history_of(*({"_".join(["train", "loss"]): 1.0} for _ in range(3)))
    history.add_validation(1, {"_".join(["train", "loss"]): 1.0})
    names = [name for row in (*history.rows, *history.validations) for name in row if name == "train_loss"]
    assert len(names) == 4
    assert len({id(name) for name in names}) == 1


def test_the_table_shows_why_a_fit_was_stopped():
    history = history_of({"a": 1}, {"a": 2})
    history.stops.append((1, "a < b"))
    assert repr(history).splitlines()[-1] == "stopped in epoch 1: a < b"
    assert "<p>stopped in epoch 1: a &lt; b</p>" in history._repr_html_()


def test_the_notebooks_table_has_the_best_losses_and_metrics_in_bold():
    history = history_of(
        {"valid_loss": 3.0, "valid_accuracy": 0.5, "odd": 1.0},
        {"valid_loss": 1.0, "valid_accuracy": 0.25, "odd": 2.0},
        {"valid_loss": math.nan, "valid_accuracy": 0.125, "odd": 3.0},
    )
    assert re.findall("<b>(.*?)</b>", history._repr_html_()) == ["0.5000", "1.0000"]


def test_names_and_values_in_the_notebooks_table_are_escaped():
    table = history_of({"<script>": "<b>"})._repr_html_()
    assert "<script>" not in table
    assert "<b>" not in table


def test_before_the_first_epoch_there_is_no_table():
    assert repr(History()) == "History: no epochs yet"
    assert History()._repr_html_() == "<p>History: no epochs yet</p>"


def test_the_csv_file_holds_all_rows_with_all_their_digits(tmp_path):
    history = history_of({"a": 1 / 3}, {"a": 2 / 3, "late": 1})
    path = history.to_csv(str(tmp_path / "history.csv"))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["a"]) for row in rows] == [1 / 3, 2 / 3]
    assert [row["late"] for row in rows] == ["", "1"]
    assert b"\r" not in path.read_bytes()


def test_best_uses_the_direction_of_each_loss_and_metric_and_ignores_nan():
    history = history_of(
        {"valid_loss": math.nan, "valid_accuracy": 0.5, "odd": 1},
        {"valid_loss": 2.0, "valid_accuracy": 0.75, "odd": 2},
        {"valid_loss": 1.0, "valid_accuracy": 0.25, "odd": None},
    )
    assert history.best("valid_loss")["epoch"] == 2
    assert history.best("valid_accuracy")["epoch"] == 1
    assert history.best("odd", "max")["epoch"] == 1
    with pytest.raises(
        ValueError, match="pass the direction in which it is better, mode='min' or mode='max'"
    ):
        history.best("odd")
    with pytest.raises(ValueError, match="no epoch has a value of it"):
        history_of({"valid_loss": math.nan}).best("valid_loss")


def test_best_uses_the_direction_that_a_metric_declares_also_after_a_restore():
    class Hits:
        higher_is_better = True
        values = (0.1, 0.3, 0.2)

        def reset(self):
            pass

        def update(self, preds, targets):
            pass

        def compute(self):
            return self.values[0]

    hits = Hits()
    sgd = partial(torch.optim.SGD, lr=0.1)
    data, callbacks = ([BATCH], [BATCH]), [ZeroGrad(), Metrics(hits), Recorder()]
    learn = Learner(nn.Linear(1, 1), data, mse_loss, sgd, callbacks, defaults=())
    for _ in range(3):
        learn.fit(1)
        hits.values = hits.values[1:]
    other = History()
    other.load_state_dict(learn.history.state_dict())
    for history in (learn.history, other):
        assert history.best("valid_hits")["epoch"] == 1
    assert "<b>0.3000</b>" in other._repr_html_()


VALUES = [1.5, math.nan, math.inf, -0.0, 0, 7, -(2**63), 2**63, 2**90, True, None, "text", [1, 2.5], {"a": 1}]


def reloaded(learn, path):
    """What a file keeps of the history, written so that types and signs show."""
    learn.save(path)
    other = made()
    other.load(path)
    return repr(other.history.state_dict())


def test_a_file_keeps_each_value_of_the_history_with_its_type(tmp_path):
    learn = made()
    learn.fit(2)
    for number, value in enumerate(VALUES):
        learn.history.add_epoch({f"only_{number}": value, "each": value, "loss": number / 3}, 0.5)
        learn.history.add_validation(number, {"each": value})
    assert reloaded(learn, tmp_path / "one.pt") == repr(learn.history.state_dict())
    assert reloaded(learn, tmp_path / "two.pt") == repr(learn.history.state_dict())


def test_a_file_has_changes_of_rows_that_an_earlier_file_has(tmp_path):
    learn, path = made(), tmp_path / "one.pt"
    learn.fit(3)
    assert reloaded(learn, path) == repr(learn.history.state_dict())
    rows = learn.history.rows
    changes = [
        lambda: rows[0].update(train_loss=9.0),
        lambda: rows[1].update(mine=1),
        lambda: rows[1].pop("valid_loss"),
        lambda: rows.pop(0),
        lambda: rows.insert(0, {"epoch": 7}),
        rows.reverse,
        lambda: learn.fit(1),
        rows.clear,
        lambda: learn.fit(1),
    ]
    for change in changes:
        change()
        assert reloaded(learn, path) == repr(learn.history.state_dict())


@pytest.mark.parametrize(
    ("order", "is_late"), [(Order.MEASURE, False), (Order.REPORT, True), (Order.SAVE, True)]
)
def test_a_result_written_after_the_row_raises_one_warning(order, is_late):
    @on("after_epoch", order=order)
    def measure(learn):
        learn.results["mine"] = 1.0

    sgd = partial(torch.optim.SGD, lr=0.1)
    callbacks = [ZeroGrad(), Recorder(), measure]
    learn = Learner(nn.Linear(1, 1), ([BATCH], None), mse_loss, sgd, callbacks, defaults=())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        learn.fit(2)
    words = "learn.results['mine'] was written in after_epoch after the history had its row"
    assert [str(each.message).startswith(words) for each in warned] == [True] * is_late
    assert ("mine" in learn.history.names) is not is_late


def test_a_table_that_is_wider_than_the_screen_is_folded_into_blocks_that_fit_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    row = {f"number_{n}": n / 3 for n in range(6)}
    history = history_of(*[row] * 50)
    history.stops.append((49, "enough"))
    lines = str(history).split("\n")
    assert max(map(len, lines)) <= 40
    heads = [line.split() for line in lines if "epoch" in line and "enough" not in line]
    assert len(heads) > 1
    assert all(head[0] == "epoch" for head in heads)
    assert [name for head in heads for name in head[1:]] == [*row, "seconds"]
    assert lines.count("  ...") == len(heads)
    assert lines[-1] == "stopped in epoch 49: enough"
    monkeypatch.setenv("COLUMNS", "200")
    assert "" not in str(history).split("\n")
    monkeypatch.setenv("COLUMNS", "3")  # too narrow for anything: one column beside the epochs
    assert str(history).count("epoch") == 7 + 1


def test_rows_columns_and_slices_are_reached_by_number_name_and_range():
    history = history_of({"a": 1}, {"b": 2})
    assert history[-1] == {"epoch": 1, "b": 2, "seconds": 0.5}
    assert list(history["a"]) == [1, None]
    assert [row["epoch"] for row in history[:1]] == [0]
    assert [row["epoch"] for row in history] == [0, 1]
    with pytest.raises(KeyError, match="no column 'c'"):
        history["c"]


def test_a_second_fit_continues_where_the_first_ended():
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(
        nn.Linear(1, 1), ([BATCH] * 2, None), mse_loss, sgd, [ZeroGrad(), Recorder()], defaults=()
    )
    learn.fit(2)
    learn.fit(1)
    assert list(learn.history["epoch"]) == [0, 1, 2]
    assert len(learn.history.steps["train_loss"]) == 6


def test_best_of_a_column_that_does_not_exist_lists_those_that_there_are():
    with pytest.raises(KeyError, match=r"no column 'val_loss'. Available: .*train_loss"):
        history_of({"epoch": 0, "train_loss": 1.0}).best("val_loss")
