"""PlotSnapshots: the article's panels."""

import contextlib
from functools import partial

import pytest
import torch
from processes import run
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from callbacks import CancelFit, ZeroGrad
from callbacks.core.contract import Callback
from callbacks.inspect.prediction_plots import PlotSnapshots
from learner.learner import Learner

X = torch.linspace(0, 1, 8)
Y = 3 * X + 1


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return self.slope * x


def line_learner(*callbacks, data=(X, Y), model=None, loss=mse_loss):
    rate = partial(torch.optim.SGD, lr=0.1)
    return Learner(model or Line(), data, loss, rate, [ZeroGrad(), *callbacks], defaults=())


def points(ax, collection):
    return torch.tensor(ax.collections[collection].get_offsets().tolist())


class Fail(Callback):
    def __init__(self, step, error):
        super().__init__()
        self.step, self.error = step, error

    def before_batch(self, learn):
        if learn.global_step == self.step:
            raise self.error


def test_six_steps_make_one_figure_of_twelve_by_three_inches_with_six_panels():
    learn = line_learner(PlotSnapshots(ylim=(-100, 100)))
    learn.fit(10)
    figure = learn.callbacks.plot_snapshots.figure
    assert tuple(figure.get_size_inches()) == (12, 3)
    assert [ax.get_ylim() for ax in figure.axes] == [(-100, 100)] * 6
    rows = {ax.get_subplotspec().rowspan.start for ax in figure.axes}
    columns = [ax.get_subplotspec().colspan.start for ax in figure.axes]
    assert (rows, columns) == ({0}, [0, 1, 2, 3, 4, 5])


def test_a_panel_shows_the_batch_and_the_predictions_before_the_update():
    learn = line_learner(PlotSnapshots(2))
    model = learn.model
    learn.fit(1)
    slope_after_one_step = model.slope.item()
    learn.fit(1)
    first = learn.callbacks.plot_snapshots.figure.axes[0]
    assert torch.allclose(points(first, 0), torch.stack([X, Y], dim=1))
    assert torch.allclose(points(first, 1), torch.stack([X, slope_after_one_step * X], dim=1))


def test_predictions_are_red():
    learn = line_learner(PlotSnapshots(1))
    learn.fit(1)
    (ax,) = learn.callbacks.plot_snapshots.figure.axes
    assert ax.collections[1].get_facecolor()[0].tolist() == [1, 0, 0, 1]


def test_the_titles_show_step_and_rmse_whatever_the_loss_is():
    learn = line_learner(PlotSnapshots(2, every="2 steps"), loss=lambda p, t: (p - t).abs().sum())
    rmse = {}

    class Measure(Callback):
        def after_pred(self, learn):
            rmse[learn.global_step + 1] = (learn.preds - learn.targets).square().mean().sqrt().item()

    learn.fit(5, callbacks=[Measure()])
    titles = [ax.get_title() for ax in learn.callbacks.plot_snapshots.figure.axes]
    assert titles == [f"step {step}\nRMSE {rmse[step]:.4g}" for step in (2, 4)]


def test_epochs_show_their_last_training_batch_not_the_validation():
    batches = [(X[:4], Y[:4]), (X[4:], Y[4:])]
    learn = line_learner(PlotSnapshots(2, every="1 epoch"), data=(batches, [(X, Y)]))
    learn.fit(3)
    axes = learn.callbacks.plot_snapshots.figure.axes
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["step 2", "step 4"]
    assert torch.allclose(points(axes[0], 0), torch.stack([X[4:], Y[4:]], dim=1))


def test_inputs_of_shape_n_by_1_are_drawn_as_well():
    data = (X[:, None], Y[:, None])
    learn = line_learner(PlotSnapshots(1), data=data, model=nn.Linear(1, 1))
    learn.fit(1)
    (ax,) = learn.callbacks.plot_snapshots.figure.axes
    assert torch.allclose(points(ax, 0), torch.stack([X, Y], dim=1))


def test_seven_panels_are_drawn_in_two_rows():
    learn = line_learner(PlotSnapshots(7))
    learn.fit(7)
    figure = learn.callbacks.plot_snapshots.figure
    assert tuple(figure.get_size_inches()) == (12, 6)
    assert figure.axes[6].get_subplotspec().rowspan.start == 1


def test_the_picture_is_written_in_folders_that_are_made(tmp_path):
    path = tmp_path / "run 1" / "bilder" / "schritte.png"
    line_learner(PlotSnapshots(2, path=path)).fit(3)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("error", [CancelFit(), RuntimeError("broken")])
def test_a_fit_that_ends_early_still_leaves_its_panels_and_file(tmp_path, error):
    path = tmp_path / "steps.png"
    learn = line_learner(PlotSnapshots(path=path), Fail(2, error))
    with contextlib.suppress(RuntimeError):
        learn.fit(10)
    figure = learn.callbacks.plot_snapshots.figure
    assert len(figure.axes) == 2
    assert tuple(figure.get_size_inches()) == (4, 3)
    assert path.exists()


def test_a_fit_without_a_step_draws_and_writes_nothing(tmp_path):
    path = tmp_path / "steps.png"
    learn = line_learner(PlotSnapshots(path=path), Fail(0, CancelFit()))
    learn.fit(10)
    assert learn.callbacks.plot_snapshots.figure is None
    assert not path.exists()


def test_a_second_fit_begins_a_new_picture():
    learn = line_learner(PlotSnapshots(3))
    learn.fit(3)
    first = learn.callbacks.plot_snapshots.figure
    learn.fit(2)
    second = learn.callbacks.plot_snapshots.figure
    assert len(first.axes) == 3
    assert [ax.get_title().split("\n")[0] for ax in second.axes] == ["step 4", "step 5"]


def test_inputs_of_several_numbers_are_refused_before_the_first_update_with_a_fix():
    learn = line_learner(PlotSnapshots(), data=(torch.randn(8, 3), torch.randn(8, 1)), model=nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"found inputs of shape \(8, 3\).*PlotSnapshots\(draw=draw\)"):
        learn.fit(1)
    assert learn.global_step == 0


def test_a_users_own_function_draws_any_other_model():
    seen = []

    def draw(ax, learn):
        seen.append(learn.preds.shape)
        ax.imshow(learn.preds.detach().numpy())

    data = (torch.randn(8, 5), torch.arange(8) % 3)
    callback = PlotSnapshots(2, draw=draw)
    learn = line_learner(callback, data=data, model=nn.Linear(5, 3), loss=cross_entropy)
    learn.fit(4)
    assert seen == [(8, 3), (8, 3)]
    assert [len(ax.images) for ax in callback.figure.axes] == [1, 1]
    assert callback.figure.axes[0].get_title().startswith("step 1, loss ")


def test_a_hundred_thousand_points_are_thinned():
    x = torch.rand(100_001)
    callback = PlotSnapshots(1)
    line_learner(callback, data=(x, x)).fit(1)
    assert 1000 < len(callback.figure.axes[0].collections[0].get_offsets()) <= 2000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 2.5}, r"n=2\.5"),
        ({"ylim": (100, -100)}, r"ylim=\(100, -100\)"),
        ({"ylim": "ab"}, "ylim='ab'"),
        ({"ylim": 100}, "ylim=100"),
        ({"every": "6 panels"}, "every='6 panels'"),
    ],
)
def test_impossible_settings_are_refused_when_the_callback_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        PlotSnapshots(**settings)


def test_a_drawing_that_is_not_a_function_is_refused():
    with pytest.raises(TypeError, match="pass a function"):
        PlotSnapshots(draw="red")


@pytest.mark.parametrize("name", ["steps.txt", "steps", "."])
def test_a_path_to_which_no_picture_can_be_written_is_refused_before_training(tmp_path, name):
    learn = line_learner(PlotSnapshots(path=tmp_path / name))
    with pytest.raises(ValueError, match=r"the file name must end in one of: .*png"):
        learn.fit(1)
    assert learn.global_step == 0


def test_cleanup_works_without_a_fit_and_twice(tmp_path):
    callback = PlotSnapshots(1, path=tmp_path / "steps.png")
    learn = line_learner(callback)
    callback.cleanup_fit(learn)
    learn.fit(1)
    callback.cleanup_fit(learn)
    assert callback.figure is not None


def test_a_notebook_shows_the_picture_and_nothing_before_there_is_one():
    callback = PlotSnapshots(1)
    assert callback._repr_png_() is None
    line_learner(callback).fit(1)
    assert callback._repr_png_()[:4] == b"\x89PNG"


def test_no_window_system_and_no_pyplot_is_needed():
    code = """
import sys, torch
from functools import partial
from callbacks import ZeroGrad
from callbacks.inspect.prediction_plots import PlotSnapshots
from learner.learner import Learner
x = torch.arange(4.0)[:, None]
model = torch.nn.Linear(1, 1)
sgd = partial(torch.optim.SGD, lr=0.01)
learn = Learner(model, (x, x), torch.nn.functional.mse_loss, sgd, [ZeroGrad(), PlotSnapshots()], defaults=())
learn.fit(6)
assert len(learn.callbacks.plot_snapshots.figure.axes) == 6
assert "matplotlib.pyplot" not in sys.modules
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
