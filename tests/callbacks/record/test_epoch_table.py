"""The table of a fit: which columns it has, and that a row fits the screen."""

import pytest

from callbacks.record.epoch_table import EpochTable, duration

NAMES = ["train_loss", "valid_loss", "valid_accuracy", "valid_f1", "train_accuracy", "lr", "score"]
RESULTS = {name: number / 10 for number, name in enumerate(NAMES)}


def columns(table, results=RESULTS):
    return table.lines(0, results, 1.0)[0].split()[1:-1]


def test_without_a_limit_all_numbers_have_a_column():
    assert columns(EpochTable(1, None)) == [*NAMES[:5], "score", "lr"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_no_line_is_wider_than_the_screen(width):
    table = EpochTable(10**6, width)
    lines = [*table.lines(0, RESULTS, 1.0), *table.lines(999_999, dict.fromkeys(RESULTS, -1.234e-5), 9e4)]
    assert max(map(len, lines)) <= width


def test_where_room_is_short_losses_come_before_metrics_and_these_before_the_rate():
    assert columns(EpochTable(1, 40)) == ["train_loss", "valid_loss"]
    assert columns(EpochTable(1, 56)) == ["train_loss", "valid_loss", "valid_accuracy"]
    table = EpochTable(1, 80)
    assert columns(table) == ["train_loss", "valid_loss", "valid_accuracy", "valid_f1"]
    assert table.left_out == ["train_accuracy", "lr", "score"]


def test_a_monitored_result_comes_first_of_all():
    assert columns(EpochTable(1, 28, monitored=["score"])) == ["score"]


def test_results_aside_have_a_column_only_if_they_are_monitored():
    assert "score" not in columns(EpochTable(1, None, aside=["score"]))
    assert "score" in columns(EpochTable(1, None, aside=["score"], monitored=["score"]))


def test_lists_and_settings_of_single_groups_have_no_column():
    results = {
        "a": 0.5,
        "per_class": [0.1, 0.2],
        "n": 7,
        "lr_0": 0.1,
        "momentum_10": 0.9,
        "weight_decay_1": 0.0,
    }
    assert EpochTable(100, None).lines(3, results, 75) == [
        "epoch          a          n   time",
        "    3     0.5000          7   1:15",
    ]


def test_a_new_column_brings_a_new_header_and_a_missing_result_leaves_a_gap():
    table = EpochTable(3, None)
    table.lines(0, {"train_loss": 1.0}, 0)
    assert table.lines(1, {"train_loss": 1.0, "valid_loss": 2.0}, 0) == [
        "epoch  train_loss  valid_loss   time",
        "    1      1.0000      2.0000   0.0s",
    ]
    assert table.lines(2, {"train_loss": 1.0}, 0) == ["    2      1.0000               0.0s"]


def test_epochs_without_a_row_are_shown_as_dots():
    table = EpochTable(9, None)
    table.lines(0, {}, 0)
    assert table.lines(8, {}, 0) == ["  ...", "    8   0.0s"]


def test_names_are_escaped_and_a_long_table_keeps_its_ends():
    table = EpochTable(1000, None)
    for epoch in range(1000):
        table.lines(epoch, {"<b>": 1.0}, 0)
    page = table.html(best_epoch=999)
    assert "&lt;b&gt;" in page
    assert "<td>0</td>" in page
    assert "&hellip;" in page
    assert page.count("<tr>") == 33
    assert "<td><b>999</b></td>" in page


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0s"), (59.94, "59.9s"), (60, "1:00"), (3599, "59:59"), (7283, "2:01:23")]
)
def test_times_are_short(seconds, shown):
    assert duration(seconds) == shown
