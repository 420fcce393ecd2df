"""With a compiled step, parameters of an optimizer may be replaced or temporarily unused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from compiled_steps import (
    ADAM,
    MOMENTUM,
    N_EPOCHS,
    Settled,
    as_ordinary_with,
    assert_as_ordinary,
    assert_close,
    doubles,
    group_of,
    learner_of,
)
from tiny import title_of
from torch import nn
from torch.optim import SGD, Adam, RMSprop

from callbacks import (
    GradientAccumulation,
    GradientClip,
    WholeStep,
    ZeroGrad,
)


def test_parameters_that_share_a_gradient_do_not_share_its_tensor():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))

        def forward(self, x):
            return x + self.one + self.other

    assert_as_ordinary(lambda: GradientAccumulation(2), model=Sum)


def let_go(learn):
    learn.optimizer.state.pop(group_of(learn)["params"].pop(), None)


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
@pytest.mark.parametrize(
    "change",
    [
        lambda learn: group_of(learn)["params"].reverse(),
        lambda learn: learn.optimizer.state.pop(learn.model.layer.weight, None),
        lambda learn: learn.optimizer.state.clear(),
        let_go,
        lambda learn: setattr(learn, "optimizer", RMSprop(learn.model.parameters(), lr=0.01)),
        lambda learn: setattr(learn, "optimizer", Adam(learn.model.parameters(), lr=0.01)),
    ],
)
def test_parameters_of_the_optimizer_may_be_replaced(change, make):
    as_ordinary_with(change, optimizer=make)


@pytest.mark.parametrize("event", ["after_backward", "before_step"])
@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
@pytest.mark.parametrize(
    "change",
    [
        lambda learn: group_of(learn).update(lr=0.003),
        lambda learn: group_of(learn).update(weight_decay=0.1),
        lambda learn: learn.optimizer.load_state_dict(learn.optimizer.state_dict()),
        lambda learn: learn.optimizer.state.clear(),
        lambda learn: torch.no_grad()(learn.model.layer.weight.mul_)(0.5),
        lambda learn: setattr(learn, "optimizer", SGD(learn.model.parameters(), lr=0.01)),
    ],
)
def test_changes_between_forward_and_step_take_effect(change, make, event):
    learn = as_ordinary_with(change, event, lambda: GradientClip(0.5), optimizer=make)
    assert learn.callbacks[WholeStep].fallback is None


def test_a_zero_grad_of_the_optimizers_own_is_called():
    def change(learn):
        learn.optimizer.zero_grad = lambda: None

    as_ordinary_with(change)


@pytest.mark.parametrize("event", ["after_pred", "after_loss", "before_backward"])
def test_a_rate_that_is_changed_before_there_are_gradients_takes_effect(event):
    learn = as_ordinary_with(lambda learn: group_of(learn).update(lr=0.003), event)
    assert learn.callbacks[WholeStep].fallback is None


def test_a_count_that_is_set_for_one_parameter_stays_its_own():
    def change(learn):
        learn.optimizer.state[learn.model.layer.weight]["step"].fill_(50)

    as_ordinary_with(change, optimizer=ADAM)


@pytest.mark.parametrize("make", [MOMENTUM, ADAM], ids=title_of)
def test_groups_need_not_have_the_order_of_the_model(make):
    def grouped(model):
        a, b, c, d = model.parameters()
        return make([{"params": [d, a]}, {"params": [c], "lr": 0.003}, {"params": [b], "weight_decay": 0.1}])

    learners = [
        learner_of(step=step, model=(model := Settled()), optimizer=grouped(model))
        for step in (WholeStep("eager"), ZeroGrad())
    ]
    for learn in learners:
        learn.fit(N_EPOCHS)
    assert_close(learners[0].model.state_dict(), learners[1].model.state_dict())
    assert_close(learners[0].optimizer.state_dict(), learners[1].optimizer.state_dict())


class Bending(nn.Module):
    """A model that uses a part for large batches only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.always, self.large = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()

    def forward(self, x):
        return self.always(x) + (self.large(x) if len(x) > 3 else 0)


@pytest.mark.parametrize("sizes", [(2, 4, 2, 4, 4), (4, 2, 4, 2, 4)])
def test_parameters_that_are_used_now_and_then_are_trained(sizes):
    data = [pair for size in sizes for pair in doubles(1, size)]
    assert_as_ordinary(model=Bending, data=data)


def test_a_rate_may_be_a_tensor():
    assert_as_ordinary(optimizer=partial(Adam, lr=torch.tensor(0.01)))
