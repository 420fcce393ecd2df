"""Steps that cannot be compiled: the ordinary step is taken, and a warning gives the reason."""

from __future__ import annotations

import logging
import warnings
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from compiled_steps import (
    MOMENTUM,
    N_EPOCHS,
    as_ordinary_with,
    assert_close,
    assert_falls_back,
    by_hand,
    doubles,
    learner_of,
)
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from callbacks import LearnerWarning, WholeStep, ZeroGrad


def test_shapes_that_change_are_reported_once_and_take_the_ordinary_step():
    batches = [pair for size in (4, 3, 5, 4, 6) for pair in doubles(1, size)]
    learn = learner_of(data=batches, step=WholeStep("eager", n_programs=2))
    with pytest.warns(LearnerWarning, match="Pad batches") as reported:
        learn.fit(N_EPOCHS)
    assert len(reported) == 1
    assert "batch 2 of epoch 0 is float64[5, 1], float64[5, 1]" in str(reported[0].message)
    model, optimizer = by_hand(MOMENTUM, batches=batches)
    assert_close(learn.model.state_dict(), model.state_dict())
    assert_close(learn.optimizer.state_dict(), optimizer.state_dict())


def test_a_list_that_the_forward_pass_changes_falls_back():
    class Listing(nn.Linear):
        def __init__(self):
            super().__init__(1, 1, dtype=torch.float64)
            self.seen = {"n": 0}

        def forward(self, input):  # noqa: A002
            self.seen["n"] += 1
            return super().forward(input) * self.seen["n"]

    torch.manual_seed(0)
    assert_falls_back("changes model.seen", model=Listing())


@pytest.mark.parametrize("holder", [list, dict, deque])
def test_what_the_forward_pass_appends_is_there_once_per_step_with_its_values(holder):
    class Adding(nn.Linear):
        def __init__(self):
            super().__init__(1, 1, dtype=torch.float64)
            self.seen = holder()

        def forward(self, input):  # noqa: A002
            found = super().forward(input)
            self.seen.update({len(self.seen): found}) if holder is dict else self.seen.append(found)
            return found

    torch.manual_seed(0)
    learn = assert_falls_back("the model returns or keeps", model=Adding())
    seen = list(learn.model.seen.values() if holder is dict else learn.model.seen)
    assert {type(each) for each in seen} == {torch.Tensor}
    assert len(seen) == learn.global_step


def test_a_compile_that_fails_falls_back_once_with_the_reason():
    n_tries = []

    def failing(graph, inputs):
        n_tries.append(1)
        raise RuntimeError("no compiler here")

    assert_falls_back("no compiler here", step=WholeStep(failing))
    assert len(n_tries) == 1


def test_code_that_fails_falls_back():
    def failing(graph, inputs):
        return lambda *args: 1 / 0

    assert_falls_back("ZeroDivisionError", step=WholeStep(failing))


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Embedding(5, 1, sparse=True).double()

    def forward(self, x):
        return self.layer(x.long().abs().clamp(max=4)).squeeze(1)


def scripted():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return nn.Sequential(torch.jit.script(nn.Linear(1, 1).double()))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(Sparse, "a gradient or another tensor is sparse"), (scripted, "torch.jit.script")],
)
def test_sparse_gradients_and_torch_script_fall_back(make, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        learn = learner_of(model=make(), optimizer=partial(SGD, lr=0.1))
        with pytest.warns(LearnerWarning, match=reason):
            learn.fit(1)
        ordinary = learner_of(model=make(), optimizer=partial(SGD, lr=0.1), step=ZeroGrad())
        ordinary.fit(1)
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())


class ByArray(nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(1, 1, dtype=torch.float64)
        self.scale = np.ones(1)

    def forward(self, x):
        return super().forward(x) * float(self.scale[0])


def test_a_model_may_read_a_numpy_array():
    learn = as_ordinary_with(lambda learn: learn.model.scale.fill(0.5), make_model=ByArray)
    assert learn.callbacks[WholeStep].fallback is None


class OwnDraws(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.randn(x.shape, generator=GENERATOR).to(x))


GENERATOR = torch.Generator()


def test_a_step_that_differs_each_time_is_not_an_error_of_the_compiler():
    learn = learner_of(model=OwnDraws(1, 1).double())
    with pytest.warns(LearnerWarning, match=r"test_whole_step_fallbacks.*generator=GENERATOR"):
        learn.fit(1)


class Logs(nn.Linear):
    def forward(self, x):
        logging.getLogger("of a model").debug("called")
        return super().forward(x)


def test_the_reason_names_the_line_of_the_user_and_not_one_of_pythons_library():
    learn = learner_of(model=Logs(1, 1).double())
    with pytest.warns(LearnerWarning, match=r"because test_whole_step_fallbacks.*getLogger"):
        learn.fit(1)


class Tally(torch.autograd.Function):
    n_calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        Tally.n_calls += 1
        return grads[0] * (1.0 if Tally.n_calls % 2 else 0.5)


class Tallying(nn.Linear):
    def forward(self, x):
        return Tally.apply(super().forward(x))


def closed_over():
    n_calls = 0

    def loss_func(preds, targets):
        nonlocal n_calls
        n_calls += 1
        return F.mse_loss(preds, targets) * (1.0 if n_calls % 2 else 0.5)

    return loss_func


@pytest.mark.parametrize(
    ("kind", "make_loss", "reason"),
    [
        (Tallying, lambda: F.mse_loss, "Tally.n_calls += 1"),
        (nn.Linear, closed_over, "changes loss_func.__closure__"),
    ],
)
def test_code_that_counts_its_calls_in_a_class_or_closure_falls_back_and_counts_them_once(
    kind, make_loss, reason
):
    models = []
    for step in (WholeStep("eager"), ZeroGrad()):
        Tally.n_calls = 0
        torch.manual_seed(0)
        learn = learner_of(step=step, model=kind(1, 1).double(), loss_func=make_loss())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learn.fit(1)
        models.append(learn.model.state_dict())
        if isinstance(step, WholeStep):
            assert [reason in str(each.message) for each in caught] == [True]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
