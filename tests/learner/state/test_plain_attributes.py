"""Tensors that modules keep in plain attributes are state, like buffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Callback, Checkpoint, EarlyStopping, LearnerWarning, RNNReset, StopOnNaN
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.05)


class Pair(NamedTuple):
    h: Tensor
    c: Tensor


class Recurrent(nn.Module):
    """A cell that carries its hidden state from batch to batch, in one of several forms."""

    def __init__(self, keep: Callable[[Tensor], Any], read: Callable[[Any], Tensor]):
        super().__init__()
        self.cell, self.out = nn.GRUCell(3, 4), nn.Linear(4, 1)
        self.keep, self.read = keep, read
        self.kept: Any = None

    def reset(self) -> None:
        self.kept = None

    def forward(self, inputs: Tensor) -> Tensor:
        h = self.cell(inputs, None if self.kept is None else self.read(self.kept))
        self.kept = self.keep(h.detach())
        return self.out(h)


class Running(nn.Module):
    """Outputs minus their running mean, which starts as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mean = nn.Linear(3, 1), 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.layer(inputs)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * out.mean()  # with its graph
            out = out - self.mean
            self.mean = self.mean.detach()
            return out
        return out - self.mean


class Attached(nn.Module):
    """A count created with the first batch, in a module of torch, and an alias of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.row = self.layer.weight.detach()[0]

    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self.layer, "count"):
            self.layer.count = torch.zeros(1)
        if self.training:
            self.layer.count += 1
        return self.layer(inputs) / self.layer.count + 0 * self.row.sum()


FORMS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "a tensor": (lambda h: h, lambda kept: kept),
    "a tuple": (lambda h: (h, h + 1), lambda kept: kept[1] - 1),
    "a list of tuples": (lambda h: [(h, None), ()], lambda kept: kept[0][0]),
    "a dict": (lambda h: {"h": h, "n": 1}, lambda kept: kept["h"]),
    "a deque": (lambda h: deque([h], maxlen=3), lambda kept: kept[0]),
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(Recurrent, *form) for name, form in FORMS.items()},
    "a running mean": Running,
    "what comes with a batch": Attached,
}


class Crash(Callback):
    def after_step(self, learn: Any) -> None:
        if learn.global_step == 7:
            raise SystemExit


def make(model: Callable[[], nn.Module], *callbacks: Any, **options: Any) -> Learner:
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(5)]
    made = model()
    reset = [RNNReset()] if isinstance(made, Recurrent) else []
    return Learner(made, Data(batches), F.mse_loss, SGD, [*reset, *callbacks], **options)


def kept_of(learn: Learner) -> Any:
    return getattr(learn.model, "kept", getattr(learn.model, "mean", getattr(learn.model, "layer", None)))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_run_killed_during_an_epoch_ends_with_the_same_bits(model: Any, tmp_path: Path) -> None:
    whole = make(model)
    whole.fit(2)
    with pytest.raises(SystemExit):
        make(model, Checkpoint(tmp_path, "3 steps"), Crash()).fit(2)
    resumed = make(model, Checkpoint(tmp_path, "3 steps"))
    resumed.fit(2, resume="must")
    states = [each.model.state_dict() for each in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("n_epochs", [0, 1])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_sandbox_leaves_no_trace_in_predictions(model: Any, n_epochs: int) -> None:
    learn, twin = make(model), make(model)
    learn.fit(n_epochs)
    twin.fit(n_epochs)
    with learn.sandbox():
        learn.fit(1)
    learn.fit(1)
    twin.fit(1)
    inputs = torch.ones(4, 3)
    assert torch.equal(learn.predict(inputs), twin.predict(inputs))


def test_a_search_for_a_rate_does_not_change_predictions() -> None:
    learn = make(Running)
    before = learn.predict(torch.ones(1, 3))
    learn.lr_find(n_steps=10)
    assert torch.equal(learn.predict(torch.ones(1, 3)), before)
    assert learn.model.mean == 0.0


def test_a_snapshot_stays_usable_and_holds_no_graph() -> None:
    class Graph(Running):
        def forward(self, inputs: Tensor) -> Tensor:
            out = super().forward(inputs)
            self.last = out  # with its graph, like models that keep a part of the loss
            return out

    learn = make(Graph)
    learn.fit(1)
    snapshot, mean = learn.snapshot(), learn.model.mean.clone()
    for _ in range(2):
        learn.fit(1)
        learn.restore(snapshot)
        assert torch.equal(learn.model.mean, mean)
        assert learn.model.last.grad_fn is None
        learn.model.mean += 1


def test_a_tensor_in_two_places_stays_one_tensor() -> None:
    learn = make(Running)
    learn.model.mean = learn.model.layer.shared = torch.ones(1)
    learn.restore(learn.snapshot())
    assert learn.model.mean is learn.model.layer.shared


def test_a_trained_tensor_in_a_plain_attribute_stays_the_one_that_the_optimizer_holds() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(3, 1), torch.ones(1, requires_grad=True)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs) * self.scale

    learn = make(Plain)
    scale = learn.model.scale
    learn.optimizer = SGD([*learn.model.parameters(), scale])
    with learn.sandbox():
        learn.fit(1)
        assert scale.item() != 1
    assert learn.model.scale is scale
    assert scale.item() == 1


def test_an_alias_of_a_weight_stays_an_alias() -> None:
    learn = make(Attached)
    learn.fit(1)
    learn.restore(learn.snapshot())
    assert learn.model.row.data_ptr() == learn.model.layer.weight.data_ptr()
    assert "row" not in learn.snapshot()["plain"]


def test_the_best_weights_are_restored_with_the_attributes_of_that_epoch() -> None:
    seen: list[tuple[float, float]] = []

    class Look(Callback):
        def after_epoch(self, learn: Any) -> None:
            seen.append((learn.results["valid_loss"], float(learn.model.mean)))

    learn = make(Running, Look(), EarlyStopping(patience=9))
    learn.optimizer.param_groups[0]["lr"] = 0.7
    learn.data = Data(learn.data.train, [(torch.ones(4, 3), torch.zeros(4, 1))])
    learn.fit(5)
    assert seen.index(min(seen)) != 4
    assert float(learn.model.mean) == min(seen)[1]


def test_what_a_file_cannot_hold_is_reported_once_at_the_first_save(tmp_path: Path) -> None:
    model = partial(Recurrent, lambda h: Pair(h, h), lambda kept: kept.h)
    learn = make(model, Checkpoint(tmp_path, "1 step"))
    with pytest.warns(LearnerWarning, match=r"tensors in model\.kept change") as caught:
        learn.fit(2)
    assert len([each for each in caught if "model.kept" in str(each.message)]) == 1
    with learn.sandbox():
        learn.fit(1, callbacks=[])
    assert type(learn.model.kept) is Pair


def test_a_skipped_bad_batch_does_not_change_the_attributes() -> None:
    learn, twin = make(Running, StopOnNaN(skip=1)), make(Running)
    batches = list(learn.data.train)
    learn.data = Data([*batches[:2], (batches[2][0] * torch.nan, batches[2][1]), *batches[3:]])
    twin.data = Data([*batches[:2], *batches[3:]])
    with pytest.warns(LearnerWarning, match="skipped"):
        learn.fit(1)
    twin.fit(1)
    assert torch.equal(learn.model.mean, twin.model.mean)


class Stats:
    def __init__(self) -> None:
        self.mean, self.constant = torch.zeros(1), torch.ones(2)


class Holder(nn.Module):
    """Holds tensors in an object or a long list, and may replace one of them."""

    def __init__(self, stats: Any, change: Callable[[Any], None] | None):
        super().__init__()
        self.layer, self.stats, self.change = nn.Linear(3, 1), stats, change

    def forward(self, inputs: Tensor) -> Tensor:
        if self.change is not None:
            self.change(self.stats)
        return self.layer(inputs)


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "an object": (Stats, lambda stats: setattr(stats, "mean", stats.mean + 1)),
    "a long list": (lambda: [torch.zeros(1)] * 150, lambda stats: stats.__setitem__(7, torch.ones(1))),
    "a long dict": (lambda: {n: torch.zeros(n) for n in range(150)}, lambda stats: stats[7].add_(1)),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("is_changed", [True, False])
def test_an_object_that_cannot_be_saved_is_reported_only_if_its_tensors_change(
    held: str, is_changed: bool, tmp_path: Path, recwarn: Any
) -> None:
    stats, change = HELD[held]
    learn = make(lambda: Holder(stats(), change if is_changed else None), Checkpoint(tmp_path))
    learn.fit(2)
    with learn.sandbox():
        learn.fit(1)
    assert ["model.stats" in str(each.message) for each in recwarn] == [True] * is_changed
