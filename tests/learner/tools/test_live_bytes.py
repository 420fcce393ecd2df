"""The counted bytes of tensors equal those that the allocator reports to torch's profiler."""

from __future__ import annotations

import pytest
import torch
from accounting import peak_by_profiler
from torch import nn
from torch.nn import functional as F

from learner.tools.live_bytes import LiveBytes, OverLimit

MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(96, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 10)),
    "encoder": lambda: nn.Sequential(
        nn.Unflatten(1, (6, 16)),
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        nn.Flatten(),
        nn.Linear(96, 10),
    ),
    "batch norm, in place": lambda: nn.Sequential(
        nn.Linear(96, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, 10)
    ),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, n_steps: int) -> None:
    for _ in range(n_steps):
        inputs, targets = torch.rand(256, 96), torch.randint(10, (256,))
        preds = model(inputs)
        loss = F.cross_entropy(preds, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_peak_of_a_training_step_equals_that_of_the_allocator(make, optimizer):
    model = make()
    steps = optimizer(model.parameters())
    train(model, steps, 1)
    reference = peak_by_profiler(lambda: train(model, steps, 2))
    with LiveBytes() as gauge:
        train(model, steps, 2)
    assert gauge.peak == pytest.approx(reference, rel=0.005)
    assert gauge.now < 0.01 * gauge.peak


def test_views_and_existing_tensors_do_not_count():
    before = torch.rand(1000)
    with LiveBytes() as gauge:
        views = before[10:], before.view(10, 100).T
        before.add_(1)
        assert gauge.now == gauge.peak == 0
        new = views[0] + 1
        assert gauge.now == new.nbytes
        parts = new[:5], new.view(-1, 10)
        assert gauge.now == new.nbytes
        del new, parts
        assert gauge.now == 0
    assert gauge.peak == 990 * 4


def test_held_tensors_count_from_the_start_and_shared_memory_counts_once():
    weights = nn.Parameter(torch.rand(100))
    with LiveBytes([weights, weights.data]) as gauge:
        assert gauge.now == 400
        weights * 2
        assert gauge.peak == 800
        assert gauge.now == 400


def test_a_graph_holds_its_tensors_until_it_is_freed():
    weights = nn.Parameter(torch.rand(100))
    with LiveBytes() as gauge:
        loss = (weights * 2).exp().sum()
        assert gauge.now == 400 + 4  # the output of exp, and the sum
        loss.backward()
        assert gauge.now == 400 + 4  # the gradient, in place of the output


def test_an_operation_beyond_the_limit_is_refused_and_its_result_freed():
    with LiveBytes(limit=500) as gauge:
        kept = torch.ones(100)
        with pytest.raises(OverLimit, match="use 800 bytes of 500") as caught:
            kept + 1
        assert caught.value.held == 800
        del caught
        assert gauge.now == 400


def test_tensors_without_bytes_do_not_count():
    with LiveBytes(limit=1) as gauge:
        torch.ones(1000, device="meta") + 1
    assert gauge.peak == 0
