import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from callbacks.history.drawing import draw_histograms, draw_lines, new_axes

PNG = b"\x89PNG"


def test_a_plot_of_the_history_shows_itself_in_a_notebook(learn):
    ax = learn.fit(2).plot()
    assert ax._repr_png_().startswith(PNG)


def test_a_plot_on_axes_that_were_given_is_drawn_there(learn):
    ax = Figure().add_subplot()
    assert learn.fit(2).plot(ax=ax) is ax
    assert [line.get_label() for line in ax.get_lines()] == ["train_loss", "valid_loss"]


def test_new_axes_are_of_a_figure_of_that_size(learn):
    assert tuple(new_axes(5, 2).figure.get_size_inches()) == (5, 2)


def luminance(colour: str) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_text_can_be_read_on_white_and_on_black_behind_a_transparent_figure(learn):
    ax = learn.fit(2).plot()
    assert ax.figure.get_facecolor()[3] == ax.get_facecolor()[3] == 0
    texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_legend().get_texts()]
    for text in texts:
        own = luminance(text.get_color())
        assert (1.0 + 0.05) / (own + 0.05) >= 4.5
        assert (own + 0.05) / 0.05 >= 4.5


def test_lines_differ_in_their_markers_and_those_without_a_number_are_not_drawn():
    ax, values = new_axes(4, 3), torch.rand(10, 4)
    values[:, 2] = torch.nan
    draw_lines(ax, range(10), values, ["a", "b", "c", "d"])
    assert [line.get_label() for line in ax.get_lines()] == ["a", "b", "d"]
    assert len({line.get_marker() for line in ax.get_lines()}) == 3


def test_a_layer_without_a_number_has_no_panel_and_every_last_panel_of_a_column_has_its_steps():
    shares = torch.rand(6, 7, 5)
    shares[:, 1] = torch.nan
    names = [f"layer {n}" for n in range(7)]
    panels = [ax for ax in draw_histograms(range(6), shares, names, 10.0).axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [name for name in names if name != "layer 1"]
    lowest = [ax.xaxis.get_tick_params()["labelbottom"] for ax in panels]
    assert lowest == [False, False, True, True, True, True]
