"""A fit takes no more memory than a plain loop: it keeps no more of a batch and makes no more copies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Checkpoint, GradientClip, LeanStep, Metrics, ZeroGrad, accuracy
from learner import Data, Learner
from learner.tools.live_bytes import LiveBytes

WITHIN = 1.01  # times the plain loop

Work = tuple[Callable[[], nn.Module], int, int, int]  # model, items per batch, features, classes


def deep() -> nn.Module:
    blocks = [nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Dropout(0.1)) for _ in range(4)]
    return nn.Sequential(nn.Linear(64, 256), *blocks, nn.Linear(256, 8))


def layers(*sizes: int) -> nn.Module:
    return nn.Sequential(*(part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.GELU())))


#: A different part fills the memory in each.
WORKS: dict[str, Work] = {
    "predictions": (partial(layers, 64, 32, 512), 256, 64, 512),
    "activations": (deep, 256, 64, 8),
    "weights": (partial(layers, 64, 1024, 1024, 8), 16, 64, 8),
    "inputs": (partial(layers, 2048, 16, 8), 512, 2048, 8),
}
COMPOSITIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "bare": lambda _: {"callbacks": [ZeroGrad()], "defaults": ()},
    "defaults": lambda _: {},
    "metrics of both passes": lambda _: {"callbacks": [Metrics(accuracy, on="both")]},
    "checkpoint": lambda folder: {"callbacks": [Checkpoint(folder / "run", "1 step")]},
    "clipping": lambda _: {"callbacks": [GradientClip(1.0)]},
}


def batches(work: Work, n: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    _, n_items, n_features, n_classes = work
    generator = torch.Generator().manual_seed(0)
    for _ in range(n):
        inputs = torch.randn(n_items, n_features, generator=generator)
        yield inputs, torch.randint(n_classes, (n_items,), generator=generator)


@cache
def plain_loop(work: Work, *, validate: bool, clip: bool) -> int:
    """The peak of two epochs, which is the same each time."""
    model = work[0]()
    optimizer = torch.optim.Adam(model.parameters())
    with LiveBytes(model.parameters()) as gauge:
        for _ in range(2):
            for inputs, targets in batches(work):
                preds = model(inputs)
                loss = F.cross_entropy(preds, targets)
                loss.backward()
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                for inputs, targets in batches(work) if validate else ():
                    preds = model(inputs)
                    loss = F.cross_entropy(preds, targets)
    return gauge.peak


def by_learner(work: Work, *, validate: bool, n: int = 4, **options) -> int:
    """The same with a learner."""
    data = Data(lambda: batches(work, n), (lambda: batches(work, n)) if validate else None)
    learn = Learner(work[0](), data, F.cross_entropy, torch.optim.Adam, **options)
    with LiveBytes(learn.model.parameters()) as gauge:
        learn.fit(2)
    return gauge.peak


@pytest.mark.filterwarnings("ignore:a run that is interrupted:callbacks.LearnerWarning")
@pytest.mark.parametrize("validate", [False, True], ids=["", "with validation"])
@pytest.mark.parametrize("options", COMPOSITIONS.values(), ids=COMPOSITIONS)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_the_peak_is_that_of_a_plain_loop(work, options, validate, tmp_path):
    made = options(tmp_path)
    clip = any(isinstance(each, GradientClip) for each in made.get("callbacks", ()))
    peak = plain_loop(work, validate=validate, clip=clip)
    assert by_learner(work, validate=validate, **made) <= WITHIN * peak


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_the_peak_with_lean_steps_is_the_same(work):
    peak = plain_loop(work, validate=False, clip=False)
    learned = by_learner(work, validate=False, callbacks=[LeanStep()])
    assert learned <= WITHIN * peak


def test_more_steps_hold_no_more():
    work = WORKS["predictions"]
    few, many = (by_learner(work, validate=True, n=n, metrics=[accuracy]) for n in (4, 40))
    assert many <= few + 40 * 64  # a loss is a number


def test_a_kept_copy_would_be_seen():
    """The measure itself detects a metric that keeps predictions."""
    kept = []
    keep = lambda preds, targets: (kept.append(preds), preds.new_zeros(()))[1]  # noqa: E731
    keep.name = "keep"  # type: ignore[attr-defined]
    work = WORKS["predictions"]
    peak = plain_loop(work, validate=True, clip=False)
    assert by_learner(work, validate=True, metrics=[keep]) > 1.1 * peak


@pytest.mark.filterwarnings("ignore:a run that is interrupted:callbacks.LearnerWarning")
def test_saving_makes_no_copy(tmp_path):
    """No copy is made, whether of tensors, within torch's functions, or of Python bytes."""
    work = WORKS["weights"]
    learn = Learner(work[0](), Data(lambda: batches(work)), F.cross_entropy, torch.optim.Adam)
    learn.fit(1)
    learn.save(tmp_path / "first.pt")
    weights = sum(each.nbytes for each in learn.model.parameters())
    tracemalloc.start()
    try:
        with LiveBytes() as gauge:
            learn.save(tmp_path / "second.pt")
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert gauge.peak < 0.01 * weights
    assert traced < 0.2 * weights  # 0.3 MB of objects
    with torch.profiler.profile(profile_memory=True) as profile:
        learn.save(tmp_path / "third.pt")
    assert max(event.cpu_memory_usage for event in profile.events()) < 0.01 * weights
