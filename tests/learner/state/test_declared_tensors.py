"""Parameters that are declared in `state`, objects that are created too late, and what is not declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, Checkpoint, LearnerWarning, When
from learner import Data, Learner

INPUTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


class Crash(Callback):
    def after_step(self, learn: Any) -> None:
        if learn.global_step == 5:
            raise SystemExit


def make(kind: Any, *callbacks: Any) -> Any:
    torch.manual_seed(0)
    data = Data.from_tensors(INPUTS, INPUTS.sum(1, keepdim=True), 8, seed=0)
    maker: Any = kind if kind in (Weighted, Subclass) else Learner
    given = [*callbacks] if maker is kind else [kind(), *callbacks]
    return maker(nn.Linear(3, 1), data, F.mse_loss, torch.optim.SGD, given)


def weights_of(learn: Any) -> list[torch.Tensor]:
    owner = learn if isinstance(learn, Weighted) else learn.callbacks[Temperatures]
    return [each for group in owner.second.param_groups for each in group["params"]]


class Weighted(Learner):
    """Learns the weights of two losses with an optimizer of their own, as GradNorm does."""

    state = ("weights", "second")

    def __init__(self, *args: Any, **options: Any) -> None:
        self.weights = nn.Parameter(torch.ones(2))
        self.second = torch.optim.Adam([self.weights], lr=0.1)
        super().__init__(*args, **options)

    def compute_loss(self) -> None:
        losses = torch.stack([F.mse_loss(self.preds, self.targets), F.l1_loss(self.preds, self.targets)])
        self.loss_grad = self.weights.square() @ losses

    def step(self) -> None:
        super().step()
        self.second.step()
        self.second.zero_grad()


class Temperatures(Callback):
    """The same kind of tensors in a callback: in a list, and without `nn.Parameter`."""

    state = ("weights", "second")

    def __init__(self) -> None:
        super().__init__()
        self.weights = [torch.ones(2, requires_grad=True), nn.Parameter(torch.ones(1))]
        self.second = torch.optim.Adam(self.weights, lr=0.1)

    def after_step(self, learn: Any) -> None:
        torch.cat([(each - learn.loss).square() for each in self.weights]).sum().backward()
        self.second.step()
        self.second.zero_grad()


class Nested(Temperatures):
    """Declares a container in which the tensors are deeper."""

    state = ("second", "parts")

    def __init__(self) -> None:
        super().__init__()
        self.parts = {"all": [(self.weights[0], 0.5), {"last": self.weights[1]}]}


def in_window() -> When:
    return When(Temperatures(), until="9 epochs")


@pytest.mark.parametrize("kind", [Weighted, Temperatures, Nested, in_window])
def test_declared_parameters_resume_as_the_same_objects(kind: Any, tmp_path: Path) -> None:
    whole = make(kind)
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(kind, Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = make(kind, Checkpoint(tmp_path, "2 steps"))
    before = weights_of(resumed)
    resumed.fit(3, resume="must")
    assert all(map(torch.equal, weights_of(resumed), weights_of(whole)))
    assert all(one is other for one, other in zip(weights_of(resumed), before, strict=True))
    assert all(each.requires_grad for each in before)


def test_a_snapshot_restores_a_declared_parameter_that_was_replaced() -> None:
    learn = make(Weighted)
    kept = learn.snapshot()
    learn.weights = None
    learn.restore(kept)
    assert isinstance(learn.weights, nn.Parameter)
    assert torch.equal(learn.weights, torch.ones(2))


class Pool:
    """The last predictions, as the pool of images of a CycleGAN."""

    def __init__(self) -> None:
        self.items: list[Any] = []


class Pooled(Callback):
    """Declares the list of another object."""

    state = ("items",)

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.items = self.pool.items

    def after_step(self, learn: Any) -> None:
        self.pool.items.append(learn.preds.detach().sum())
        if len(self.pool.items) > 3:
            self.pool.items.pop(0)


def test_a_declared_list_that_another_object_holds_stays_the_same_list(tmp_path: Path) -> None:
    whole = make(Pooled)
    whole.fit(3)
    with pytest.raises(SystemExit):
        make(Pooled, Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = make(Pooled, Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    with resumed.sandbox():
        resumed.fit(1)
    found, wanted = (each.callbacks[Pooled] for each in (resumed, whole))
    assert torch.equal(torch.stack(found.pool.items), torch.stack(wanted.pool.items))
    assert found.items is found.pool.items


class Late(Callback):
    """Creates its network in the first batch, when its width is known."""

    state = ("network",)

    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module | None = None

    def after_pred(self, learn: Any) -> None:
        self.network = self.network or nn.Linear(learn.preds.shape[1], 1)


@pytest.mark.parametrize("kind", [Late, lambda: When(Late(), until="9 epochs")])
def test_a_resume_that_would_lose_a_network_that_does_not_exist_yet_is_refused(
    kind: Any, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        make(kind, Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    with pytest.raises(ValueError, match=r"state of Late\.network, which does not exist .* in __init__ or"):
        make(kind, Checkpoint(tmp_path, "2 steps")).fit(3, resume="must")
    make(kind, Checkpoint(tmp_path, "2 steps")).fit(3, resume="must", allow=("callbacks",))


class EachEpoch(Late):
    """Creates its network again in each epoch."""

    after_pred = Callback.after_pred

    def before_epoch(self, learn: Any) -> None:
        self.network = nn.Linear(1, 1)


@pytest.mark.parametrize("every", ["1 epoch", "2 steps"])
def test_a_network_that_each_epoch_creates_again_resumes(every: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        make(EachEpoch, Checkpoint(tmp_path, every), Crash()).fit(3)
    make(EachEpoch, Checkpoint(tmp_path, every)).fit(3, resume="must")


# What is not declared


class Critic(Callback):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters())


class WithoutNetwork(Critic):
    state = ("optimizer",)


class WithoutOptimizer(Critic):
    state = ("network",)


class Subclass(Learner):
    def __init__(self, *args: Any, **options: Any) -> None:
        self.weights = nn.Parameter(torch.ones(2))
        self.second = torch.optim.Adam([self.weights])
        super().__init__(*args, **options)


WRITE = r"is an optimizer whose state is not saved .* write state = "


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Critic, WRITE + r"\('network', 'optimizer'\) in the class Critic"),
        (WithoutOptimizer, WRITE + r"\('network', 'optimizer'\)"),
        (Subclass, r"Subclass\.second .* write state = \('weights', 'second'\)"),
        (WithoutNetwork, r"learn\.callbacks\.without_network\.optimizer trains 2 tensors that are not saved"),
    ],
)
def test_an_optimizer_or_its_tensors_that_are_not_saved_are_reported(
    kind: Any, words: str, tmp_path: Path
) -> None:
    with pytest.warns(LearnerWarning, match=words):
        make(kind, Checkpoint(tmp_path)).fit(1)


class SavesItself(Critic):
    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class OfTheModel(Callback):
    """Trains a part of the model, and declares the optimizer only."""

    state = ("optimizer",)

    def before_fit(self, learn: Any) -> None:
        self.optimizer = torch.optim.Adam([learn.model.bias])


class Shared(WithoutNetwork):
    """Declares the optimizer of a network that another callback declares."""

    def __init__(self, network: nn.Module) -> None:
        Callback.__init__(self)
        self.optimizer = torch.optim.Adam(network.parameters())


@pytest.mark.parametrize("kind", [Weighted, Temperatures, in_window, SavesItself, OfTheModel])
def test_an_optimizer_and_tensors_that_are_saved_are_not_reported(
    kind: Any, tmp_path: Path, recwarn: Any
) -> None:
    make(kind, Checkpoint(tmp_path)).fit(1)
    assert not [str(each.message) for each in recwarn if issubclass(each.category, LearnerWarning)]


def test_a_network_that_another_callback_declares_is_not_reported(tmp_path: Path, recwarn: Any) -> None:
    owner = WithoutOptimizer()
    owner.optimizer = None  # type: ignore[assignment]
    make(lambda: owner, Shared(owner.network), Checkpoint(tmp_path)).fit(1)
    assert not [str(each.message) for each in recwarn if issubclass(each.category, LearnerWarning)]
