"""Statistics of layer outputs, compared with numpy in a hand-written loop."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import ActivationStats, Callback, CancelStep, LearnerWarning, Order
from callbacks.inspect.activations import histogram


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))


def by_hand(n_steps: int) -> list[list[np.ndarray]]:
    """Outputs of the three layers before each step of a plain loop."""
    model, found = make_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in (line_batches(3) * n_steps)[:n_steps]:
        outputs = [inputs]
        for layer in model:
            outputs.append(layer(outputs[-1]))
        found.append([output.detach().numpy().copy() for output in outputs[1:]])
        F.mse_loss(outputs[-1], targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return found


def fitted(make_learner, stats: ActivationStats, n_epochs: int = 2) -> ActivationStats:
    make_learner(model=make_model(), callbacks=[stats]).fit(n_epochs)
    return stats


def test_the_numbers_are_those_that_numpy_finds_in_a_loop_by_hand(make_learner):
    stats = fitted(make_learner, ActivationStats(["0", "1", "2"], n_bins=7, highest=1.5, near_zero=0.1))
    assert stats.layer_names == ["0", "1", "2"]
    assert stats.steps == [1, 2, 3, 4, 5, 6]
    for n, outputs in enumerate(by_hand(6)):
        for k, output in enumerate(outputs):
            sizes = np.abs(output)
            counts, _ = np.histogram(np.minimum(sizes, 1.5), bins=7, range=(0, 1.5))
            assert stats.means[n, k] == pytest.approx(output.mean(), rel=1e-5, abs=1e-7)
            assert stats.stds[n, k] == pytest.approx(output.std(), rel=1e-5)
            assert stats.near_zeros[n, k] == pytest.approx((sizes <= 0.1).mean())
            assert stats.histograms[n, k].numpy() == pytest.approx(counts / output.size)


def test_only_each_nth_step_is_recorded_and_hooks_are_there_for_no_longer(make_learner):
    stats, counts = ActivationStats(every="2 steps"), []

    class Count(Callback):
        order = Order.SAVE

        def before_batch(self, learn):
            counts.append(len(learn.model[0]._forward_hooks))

        def after_pred(self, learn):
            counts.append(len(learn.model[0]._forward_hooks))

    learn = make_learner(model=make_model(), callbacks=[stats, Count()], valid=False)
    learn.fit(2)
    assert stats.steps == [2, 4, 6]
    assert counts == [0, 0, 1, 0] * 3
    assert stats.means[0, 0] == pytest.approx(by_hand(6)[1][0].mean(), rel=1e-5)


def test_a_layer_that_is_not_called_is_nan_and_of_several_outputs_the_first_counts(make_learner):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.LSTM(1, 1, batch_first=True), nn.Linear(1, 1)

        def forward(self, x):
            return self.used(x.unsqueeze(1))[0][:, 0]

    stats = ActivationStats()
    make_learner(model=Model(), callbacks=[stats]).fit(1)
    assert stats.layer_names == ["used", "idle"]
    assert stats.means.isnan().tolist() == [[False, True]] * 3


def test_a_batch_whose_gradients_only_add_up_is_not_a_step(make_learner):
    class Accumulate(Callback):
        order = Order.GRADIENT

        def before_step(self, learn):
            if learn.batch_idx % 3 < 2:
                raise CancelStep

    stats = ActivationStats()
    make_learner(model=make_model(), callbacks=[stats, Accumulate()]).fit(2)
    assert stats.steps == [1, 2]


@pytest.mark.parametrize("every", ["1 step", "3 steps"])
def test_a_compiled_model_is_looked_into_all_the_same(make_learner, every):
    stats, plain = ActivationStats(every=every), ActivationStats(every=every)
    compiled = torch.compile(make_model(), backend="eager")
    fitted(make_learner, plain)
    make_learner(model=compiled, callbacks=[stats]).fit(2)
    assert stats.layer_names == ["0", "2"]
    assert stats.steps == plain.steps
    torch.testing.assert_close(stats.means, plain.means)
    n_hooks = len(compiled._orig_mod[0]._forward_hooks)
    assert n_hooks == 0


def test_layers_that_no_hook_sees_are_reported(make_learner):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer.forward(x)

    with pytest.warns(LearnerWarning, match=r"none of the layers layer was called as a module"):
        make_learner(model=Silent(), callbacks=[ActivationStats()]).fit(2)


def test_half_precision_and_nan_are_measured():
    stats = ActivationStats(n_bins=2, highest=2)
    row = stats._summary(torch.tensor([0.5, 3.0, 0.0, float("nan")], dtype=torch.bfloat16))
    assert row[:2].isnan().all()
    assert row[2:].tolist() == [0.25, 0.5, 0.25]
    assert histogram(torch.tensor([0.0, 1.0, 1.9, 2.0, 9.0]), 2, 2.0).tolist() == [1, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_bins": 1}, "n_bins=1"),
        ({"highest": 0}, "above 0"),
        ({"near_zero": float("nan")}, "near_zero=nan"),
        ({"every": "1 epoch"}, "whole number of steps"),
        ({"every": "2"}, "whole number of steps"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ActivationStats(**options)


def test_layers_that_are_not_names_are_refused(make_learner):
    with pytest.raises(TypeError, match="pass one or more names"):
        ActivationStats(nn.ReLU)
    with pytest.raises(ValueError, match="has no 'relu'"):
        make_learner(callbacks=[ActivationStats("relu")]).fit(1)


def test_the_pictures_show_what_was_recorded(make_learner):
    stats = fitted(make_learner, ActivationStats(["0", "2"], n_bins=5))
    figure = stats.plot_histograms()
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["0 Linear", "2 Linear"]
    shown = np.asarray(panels[1].images[0].get_array())
    assert shown == pytest.approx(stats.histograms[:, 1].T.clamp(min=1e-4).numpy())
    lines = stats.plot_near_zero().get_lines()
    assert [line.get_label() for line in lines] == ["0 Linear", "2 Linear"]
    assert lines[0].get_ydata() == pytest.approx(stats.near_zeros[:, 0].numpy())
    assert [ax.get_ylabel() for ax in stats.plot_layers().axes] == ["mean", "standard deviation"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_classes_of_the_layers_are_in_the_state(make_learner):
    stats, restored = fitted(make_learner, ActivationStats(["0"])), ActivationStats()
    for name in stats.state:
        setattr(restored, name, getattr(stats, name))
    assert restored.plot_near_zero().get_lines()[0].get_label() == "0 Linear"


@pytest.mark.parametrize("draw", ["plot_histograms", "plot_near_zero", "plot_layers"])
def test_drawing_before_anything_is_recorded_is_an_error(draw):
    with pytest.raises(ValueError, match="has recorded nothing yet: fit for 10 steps"):
        getattr(ActivationStats(every="10 steps"), draw)()


def test_training_is_the_same_as_without(make_learner):
    plain = make_learner(model=make_model())
    plain.fit(2)
    learn = make_learner(model=make_model(), callbacks=[ActivationStats()])
    learn.fit(2)
    pairs = zip(plain.model.parameters(), learn.model.parameters(), strict=True)
    assert all(map(partial(lambda pair: torch.equal(*pair)), pairs))
