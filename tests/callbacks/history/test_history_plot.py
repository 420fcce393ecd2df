"""History: the picture of what was measured."""

import math

import pytest
from fits.histories import fitted, history_of

from callbacks import History, Recorder


def test_the_plot_draws_all_losses_over_whole_epochs():
    history = fitted()
    ax = history.plot()
    assert [line.get_label() for line in ax.lines] == ["train_loss", "valid_loss"]
    assert list(ax.lines[1].get_ydata()) == list(history["valid_loss"])
    assert list(ax.lines[1].get_xdata()) == [0, 1, 2]
    assert ax.get_xlabel() == "epoch"
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_the_plot_draws_the_columns_that_are_asked_for_one_or_several():
    history = history_of({"a": 1, "b": 2}, {"a": 3})
    (line,) = history.plot("a").lines
    assert list(line.get_ydata()) == [1, 3]
    second = history.plot(["a", "b"]).lines[1].get_ydata()
    assert (second[0], math.isnan(second[1])) == (2, True)


def test_the_plot_can_be_drawn_on_axes_that_are_given():
    ax = history_of({"a": 1}).plot("a")
    assert history_of({"b": 1}).plot("b", ax=ax) is ax
    assert [line.get_label() for line in ax.lines] == ["a", "b"]


def test_without_losses_of_epochs_the_plot_draws_the_loss_of_each_step():
    history = fitted(4, defaults=(Recorder,))
    ax = history.plot()
    assert list(ax.lines[0].get_ydata()) == list(history.steps["train_loss"])
    assert ax.get_xlabel() == "step"


def test_the_y_axis_is_logarithmic_only_on_request():
    history = history_of({"a": 1000}, {"a": 1})
    assert history.plot("a").get_yscale() == "linear"
    assert history.plot("a", yscale="log").get_yscale() == "log"
    with pytest.raises(ValueError, match=r"plot\(yscale='log10'\): choose 'linear' or 'log'"):
        history.plot(yscale="log10")


def test_losses_and_each_metric_have_a_panel_with_a_y_label():
    rows = [
        {"train_loss": 3.0, "valid_loss": 2.0, "valid_accuracy": 0.5, "night_accuracy": 0.4, "lr": 0.1},
        {"train_loss": 1.0, "valid_loss": 4.0, "valid_accuracy": 0.9, "night_accuracy": 0.7, "lr": 0.1},
    ]
    first = history_of(*rows).plot()
    panels = {ax.get_ylabel(): [line.get_label() for line in ax.lines] for ax in first.figure.axes}
    assert panels == {
        "loss": ["train_loss", "valid_loss"],
        "accuracy": ["valid_accuracy", "night_accuracy"],
    }
    assert first is first.figure.axes[0]


def test_metrics_come_before_other_numbers():
    row = {"train_loss": 3.0, "gradient_norm": 2.0, "valid_mine": 1.0, "valid_accuracy": 0.5}
    axes = history_of(row, row).plot().figure.axes
    assert [ax.get_ylabel() for ax in axes] == ["loss", "accuracy", "mine", "gradient_norm"]


def test_the_best_epoch_is_marked_and_named_in_the_title():
    history = history_of(
        {"valid_loss": 3.0}, {"valid_loss": 1.5}, {"valid_loss": math.nan}, {"valid_loss": 2.0}
    )
    ax = history.plot()
    assert ax.get_title() == "best valid_loss: 1.5 in epoch 1"
    assert ax.collections[0].get_offsets().tolist() == [[1, 1.5]]
    assert history_of({"a": 1}, {"a": 2}).plot("a").get_title() == ""  # the better direction is not known


def test_the_plot_marks_where_a_fit_was_stopped():
    history = history_of({"a": 1}, {"a": 2}, {"a": 3})
    history.stops.append((1, "enough"))
    assert list(history.plot("a").lines[-1].get_xdata()) == [1, 1]


def test_columns_that_cannot_be_drawn_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="nothing to draw yet: fit first"):
        History().plot()
    with pytest.raises(KeyError, match=r"no column 'val_loss'\. Available: epoch, a"):
        history_of({"a": 1}).plot("val_loss")
    with pytest.raises(TypeError, match=r"it contains \[1, 2\], but only numbers can be drawn"):
        history_of({"a": [1, 2]}).plot("a")


def test_one_epoch_has_one_tick():
    ax = history_of({"train_loss": 1.0}).plot()
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [0]


def test_the_legend_of_many_results_is_beside_the_panel():
    ax = history_of(*[{f"set{n}_loss": n for n in range(9)}] * 2).plot()
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 > ax.get_window_extent().x1
