from matplotlib.figure import Figure

from callbacks.history.drawing import new_axes

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
