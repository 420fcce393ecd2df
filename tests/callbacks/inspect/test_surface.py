"""The path on the loss surface, compared with the loss, PCA of scikit-learn, and the paper's definition."""

from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import EMA, LossSurface, Metrics, Recorder, ZeroGrad, on
from callbacks.inspect.planes import normalised
from learner import Learner
from learner.data.datasets import article


class Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.randn(3))

    def forward(self, time):
        a, b, c = self.params
        return a * (time**2) + (b * time) + c


def fitted(n_epochs: int = 10, **options) -> tuple[Learner, LossSurface]:
    """A fit of the article."""
    torch.manual_seed(2021)
    data, surface = article(), LossSurface(**options)
    optimizer = partial(torch.optim.SGD, lr=1e-5)
    learn = Learner(Quadratic(), data, F.mse_loss, optimizer, [surface, ZeroGrad()], defaults=())
    learn.fit(n_epochs)
    return learn, surface


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))


def test_the_path_is_that_of_a_loop_by_hand():
    _, surface = fitted(3)
    torch.manual_seed(2021)
    time, speed = article()
    model = Quadratic()
    path = [model.params.detach().clone()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(model(time), speed).backward()
        optimizer.step()
        path.append(model.params.detach().clone())
    assert surface.steps == [0, 1, 2, 3]
    assert torch.equal(surface.path, torch.stack(path))


def test_the_map_of_two_parameters_is_the_loss_computed_by_hand():
    learn, surface = fitted(every="3 steps")
    assert surface.steps == [0, 3, 6, 9]
    found = surface.evaluate(learn, ("params[1]", "params[0]"), n=5, margin=0.5)
    time, speed = (each.double() for each in next(iter(learn.data.train)))
    c = surface.path[-1, 2].double()
    for k, a in enumerate(found.y):
        for j, b in enumerate(found.x):
            expected = (a * time**2 + b * time + c - speed).square().mean()
            assert found.loss[k, j].item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(found.path, surface.path.double()[:, [1, 0]])
    width = found.path[:, 0].max() - found.path[:, 0].min()
    assert found.x[0].item() == pytest.approx((found.path[:, 0].min() - 0.5 * width).item())
    assert found.x[-1].item() == pytest.approx((found.path[:, 0].max() + 0.5 * width).item())


def test_the_principal_directions_are_those_of_scikit_learn(make_learner):
    decomposition = pytest.importorskip("sklearn.decomposition")
    surface = LossSurface()
    learn = make_learner(model=make_network(), callbacks=[surface])
    learn.fit(4)
    found = surface.evaluate(learn, n=2)
    path = surface.path.double().numpy()
    pca = decomposition.PCA(2).fit(path)
    expected = (path - path[-1]) @ pca.components_.T
    assert found.path.abs().numpy() == pytest.approx(abs(expected), abs=1e-6)
    assert f"({100 * pca.explained_variance_ratio_[0]:.3g} % of the variance)" in found.labels[0]


def test_each_point_has_the_loss_of_the_model_with_these_weights_over_all_batches(make_learner):
    surface = LossSurface()
    learn = make_learner(model=make_network(), callbacks=[surface], n_batches=2)
    learn.fit(4)
    found = surface.evaluate(learn, ("0.weight[3, 0]", "2.bias[0]"), n=3)
    weights = {name: each.detach().clone() for name, each in learn.model.named_parameters()}
    weights["0.weight"][3, 0], weights["2.bias"][0] = found.x[2], found.y[0]
    call = partial(torch.func.functional_call, learn.model, weights)
    losses = torch.stack([F.mse_loss(call(inputs), targets) for inputs, targets in line_batches(2)])
    assert found.loss[0, 2].item() == pytest.approx(losses.mean().item(), rel=1e-5)


def test_random_directions_are_as_long_as_each_filter():
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 3, 2, 2), torch.randn(4)
    found = normalised(torch.randn(2, 4, 3, 2, 2), weight).reshape(2, 4, -1)
    assert torch.allclose(found.norm(dim=2), weight.flatten(1).norm(dim=1).expand(2, 4))
    assert not normalised(torch.randn(2, 4), bias).any()


def test_the_seed_decides_the_random_directions(make_learner):
    surface = LossSurface()
    learn = make_learner(model=make_network(), callbacks=[surface])
    learn.fit(1)
    one, same, other = (surface.evaluate(learn, "random", n=2, seed=seed).loss for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_drawing_leaves_no_trace_also_within_a_fit_and_beside_averages():
    def run(draws: bool) -> Learner:
        torch.manual_seed(0)
        surface = LossSurface()

        @on("after_epoch")
        def draw(learn):
            if draws and learn.epoch == 1:
                surface.plot(learn, n=3)
            torch.rand(1)

        data = (torch.rand(12, 1), torch.rand(12, 1))
        model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = partial(torch.optim.Adam, lr=0.1)
        learn = Learner(
            model,
            data,
            F.mse_loss,
            optimizer,
            [EMA(0.5), surface, draw],
            defaults=(ZeroGrad, Metrics, Recorder),
        )
        learn.fit(4)
        return learn

    one, other = run(draws=True), run(draws=False)
    assert str(one.snapshot()["history"]["steps"]) == str(other.snapshot()["history"]["steps"])
    assert torch.equal(one.callbacks.loss_surface.path, other.callbacks.loss_surface.path)
    assert [callback.name for callback in one.callbacks] == [callback.name for callback in other.callbacks]
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_map_is_drawn_with_the_path_on_it():
    learn, surface = fitted()
    ax = surface.plot(learn, n=4)
    assert ax.get_xlabel().startswith("principal direction 1 (100 %")
    assert len(ax.get_lines()[0].get_xdata()) == 11
    assert ax._repr_png_().startswith(b"\x89PNG")


def test_only_named_parameters_are_recorded_and_frozen_ones_are_not(make_learner):
    model = make_network()
    model[2].bias.requires_grad_(False)
    for surface, names in (
        (LossSurface("0.*"), ["0.weight", "0.bias"]),
        (LossSurface(), ["0.weight", "0.bias", "2.weight"]),
    ):
        make_learner(model=model, callbacks=[surface]).fit(1)
        assert surface.parameter_names == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"along": "sideways"}, r"'principal', 'random', or two parameters, such as \('params\[0\]'"),
        ({"along": ("params[0]", "params[0]")}, "these are the same"),
        ({"along": ("params[3]", "params[0]")}, r"shape \(3,\)\. Add an index"),
        ({"along": ("params", "params[0]")}, r"shape \(3,\)\. Add an index"),
        ({"along": ("bias[0]", "params[0]")}, "Available: params"),
        ({"along": "random"}, "no parameter has filters"),
        ({"n": 1}, "n=1"),
        ({"margin": -1}, "margin=-1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, words):
    learn, surface = fitted(2)
    with pytest.raises(ValueError, match=words):
        surface.evaluate(learn, **options)


def test_too_short_a_path_and_numbers_that_are_not_finite_are_reported():
    with pytest.raises(ValueError, match="has recorded nothing yet"):
        LossSurface().evaluate(None)
    learn, surface = fitted(1)
    with pytest.raises(ValueError, match="on one line"):
        surface.evaluate(learn)
    surface.path[1, 0] = float("nan")
    with pytest.raises(ValueError, match="at step 1 parameters are NaN"):
        surface.evaluate(learn)
