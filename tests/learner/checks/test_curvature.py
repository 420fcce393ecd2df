"""The largest curvature and the largest stable step agree with dense Hessians and plain descent."""

from __future__ import annotations

import pytest
import torch
from examined import OnceDifferentiable
from torch import Tensor, nn
from torch.nn import functional as F

from learner.examination.curvature import largest_curvature, largest_stable_rate, twice_differentiable


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def article_time() -> Tensor:
    return torch.arange(0, 20).float()


def test_the_article_s_curvature_is_the_largest_eigenvalue_of_its_analytic_hessian():
    t = article_time()
    features = torch.stack([t**2, t, torch.ones(20)], 1).double()
    hessian = 2 * features.T @ features / 20
    weights = parameter(1.0, -2.0, 3.0)
    loss = F.mse_loss(weights[0] * t**2 + weights[1] * t + weights[2], torch.rand(20))
    assert largest_curvature(loss, [weights]) == pytest.approx(
        float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-4
    )


def test_the_curvature_of_a_network_is_the_largest_eigenvalue_of_its_dense_hessian():
    torch.manual_seed(0)
    inputs, targets = torch.randn(16, 3).double(), torch.randn(16, 1).double()
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    flat = torch.cat([each.detach().flatten() for each in model.parameters()])

    def loss_at(vector: Tensor) -> Tensor:
        parts, start = {}, 0
        for name, each in model.named_parameters():
            parts[name] = vector[start : start + each.numel()].view_as(each)
            start += each.numel()
        return F.mse_loss(torch.func.functional_call(model, parts, (inputs,)), targets)

    dense = torch.autograd.functional.hessian(loss_at, flat)
    expected = float(torch.linalg.eigvalsh(dense)[-1])
    found = largest_curvature(F.mse_loss(model(inputs), targets), list(model.parameters()))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("curvatures", "largest"),
    [((3.0, -1.0), 3.0), ((1.0, -3.0), 1.0), ((-1.0, -3.0), -1.0), ((0.0, 0.0), 0.0)],
)
def test_downward_curvature_does_not_hide_the_largest(curvatures, largest):
    weights = parameter(0.3, 0.4)
    loss = (torch.tensor(curvatures) * weights**2).sum() / 2
    assert largest_curvature(loss, [weights]) == pytest.approx(largest, abs=1e-3)


def test_a_linear_loss_and_an_unused_parameter_have_no_curvature():
    weights, unused = parameter(1.0, 2.0), parameter(1.0)
    assert largest_curvature(weights.sum(), [weights, unused]) == 0
    assert largest_curvature(weights.square().sum(), [weights, unused]) == pytest.approx(2)


def test_the_power_iteration_leaves_the_random_state_and_the_gradients_alone():
    weights, state = parameter(1.0), torch.get_rng_state()
    largest_curvature(weights.square().sum(), [weights])
    assert torch.equal(torch.get_rng_state(), state)
    assert weights.grad is None


def test_attention_has_a_curvature():
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(1, 2, 3, 4))
    with twice_differentiable():
        loss = F.scaled_dot_product_attention(weights, weights, weights).square().mean()
    assert largest_curvature(loss, [weights]) > 0


def test_a_function_without_a_second_derivative_is_refused_and_not_reported_as_flat():
    weights = parameter(1.0)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        largest_curvature(OnceDifferentiable.apply(weights).square().sum(), [weights])


def height_after_steps(n_steps: int, curvatures=(1.0, 50.0), **settings) -> float:
    weights = parameter(1.0, 1.0)
    optimizer = torch.optim.SGD([weights], **settings)
    for _ in range(n_steps):
        optimizer.zero_grad()
        ((torch.tensor(curvatures) * weights**2).sum() / 2).backward()
        optimizer.step()
    return float(weights.detach().abs().max())


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}, {"weight_decay": 7.0}],
    ids=["plain", "momentum", "nesterov", "weight decay"],
)
def test_steps_just_below_the_largest_stable_rate_converge_and_just_above_diverge(settings):
    bound = largest_stable_rate(torch.optim.SGD([parameter(1.0)], lr=1, **settings), curvature=50.0)
    assert bound is not None
    assert height_after_steps(2000, lr=0.98 * bound, **settings) < 1
    assert not height_after_steps(2000, lr=1.02 * bound, **settings) < 100  # or NaN


def test_no_rate_is_reported_if_it_is_unknown():
    weights = parameter(1.0)
    assert largest_stable_rate(torch.optim.Adam([weights]), 1.0) is None
    assert largest_stable_rate(torch.optim.SGD([weights], lr=1), -1.0) is None
    assert largest_stable_rate(torch.optim.SGD([weights], lr=1, momentum=0.9, dampening=0.5), 1.0) is None
    groups = [{"params": [weights]}, {"params": [parameter(2.0)], "momentum": 0.9}]
    assert largest_stable_rate(torch.optim.SGD(groups, lr=1), 1.0) is None
