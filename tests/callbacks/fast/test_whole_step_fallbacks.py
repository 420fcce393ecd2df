"""Steps that cannot be a program: the ordinary step is taken, and a warning says why."""

from __future__ import annotations

import time
import warnings
from collections import deque
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from compiled_steps import (
    MOMENTUM,
    N_EPOCHS,
    as_ordinary_with,
    assert_as_ordinary,
    assert_close,
    assert_falls_back,
    by_hand,
    doubles,
    learner_of,
    net,
)
from tiny import line_batches
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from callbacks import ActivationCheckpointing, Callback, LearnerWarning, WholeStep, ZeroGrad
from learner import Data, Learner


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
def test_what_counts_its_calls_in_a_class_or_closure_falls_back_and_counts_them_once(kind, make_loss, reason):
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


class LSTMs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class ByNumPy(nn.Linear):
    def forward(self, x):
        return super().forward(torch.from_numpy(x.numpy()))


@dataclass
class Predicted:
    preds: torch.Tensor
    loss: torch.Tensor


class Predicting(nn.Linear):
    def forward(self, x):
        preds = super().forward(x)
        return Predicted(preds, preds.square().mean())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            lambda: Branching(1, 1),
            r"torch.where, which.*test_whole_step_fallbacks\.py:\d+ `return",
        ),
        (lambda: Drawing(1, 1), r"random numbers with Python.*test_whole_step_fallbacks\.py:\d+ `return"),
    ],
)
def test_a_fall_back_reports_the_line_and_a_fix(kind, reason):
    assert_falls_back(reason, model=kind(), data=line_batches(2))


@pytest.mark.parametrize("kind", [LSTMs, lambda: ByNumPy(1, 1)])
def test_an_lstm_and_a_way_through_numpy_are_a_program_too(kind):
    def seeded():
        torch.manual_seed(0)
        return kind().double()

    assert_as_ordinary(model=seeded, data=doubles(2))


def partly_compiled():
    torch.manual_seed(0)
    return nn.Sequential(torch.compile(nn.Linear(1, 1).double(), backend="eager"))


def test_a_part_may_be_compiled_already():
    assert_as_ordinary(model=partly_compiled)


class DynamicCache:
    """An output with a loss, as models of Hugging Face return it."""


class Caching(nn.Linear):
    def forward(self, x):
        return super().forward(x), DynamicCache()


def test_a_cache_in_the_output_is_reported():
    learn = learner_of(model=Caching(1, 1).double(), loss_func=lambda preds, y: F.mse_loss(preds[0], y))
    with pytest.warns(LearnerWarning, match=r"DynamicCache.*use_cache = False"):
        learn.fit(1)


def test_layers_that_are_computed_again_are_named():
    assert_falls_back("ActivationCheckpointing computes layers again", ActivationCheckpointing("0"))


def test_an_output_of_a_dataclass_is_taken_apart_once_it_is_registered():
    data = [{"x": each} for each, _ in line_batches(2)]
    learn = learner_of(model=Predicting(1, 1), data=data, loss_func=None)
    with pytest.warns(LearnerWarning, match=r"torch.export.register_dataclass\("):
        learn.fit(1)
    torch.export.register_dataclass(Predicted)
    learn.fit(1)
    assert learn.callbacks[WholeStep].fallback is None


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("InvalidCxxCompiler: No working C++ compiler", "or clang, or name it in the variable CXX"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "TORCHINDUCTOR_CACHE_DIR"),
        ("OSError: [Errno 28] No space left on device", "TORCHINDUCTOR_CACHE_DIR"),
    ],
)
def test_what_the_compiler_needs_of_the_machine_is_reported(message, fix):
    def failing(graph, inputs):
        raise RuntimeError(message)

    assert_falls_back(fix, step=WholeStep(failing))


class Branching(nn.Linear):
    def forward(self, input):  # noqa: A002
        return super().forward(input if input.sum() > 1 else input * 2)


class Counting(nn.Linear):
    n = 0

    def forward(self, input):  # noqa: A002
        self.n += 1
        return super().forward(input) * self.n


class Remembering(nn.Linear):
    def forward(self, input):  # noqa: A002
        self.last = super().forward(input)
        return self.last


class Drawing(nn.Linear):
    def forward(self, input):  # noqa: A002
        import random

        return super().forward(input) * random.random() ** 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "the value of a tensor decides what is computed"),
        (Counting, "changes an attribute of model"),
        (Remembering, "the model returns or keeps"),
        (Drawing, "random numbers with Python"),
    ],
)
def test_a_model_that_is_not_a_graph_of_tensors_falls_back(kind, reason):
    learn = assert_falls_back(reason, model=kind(1, 1).double())
    assert not any(type(each).__name__ == "FakeTensor" for each in vars(learn.model).values())


def test_a_users_error_is_the_one_of_the_ordinary_step():
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        learner_of(data=[(torch.rand(4, 3).double(), torch.rand(4, 1).double())]).fit(1)
    assert "WholeStep:" not in str(caught.value)


class Halved(Callback):
    """Override how the model is run."""

    def forward(self, learn):
        learn.preds = 0.5 * learn.model(*learn.inputs)


def test_beside_a_callback_that_overrides_forward_it_falls_back():
    ordinary = learner_of(Halved(), step=ZeroGrad())
    ordinary.fit(N_EPOCHS)
    learn = learner_of(Halved())
    with pytest.warns(LearnerWarning, match="because Halved overrides forward"):
        learn.fit(N_EPOCHS)
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())


def test_beside_a_callback_that_comes_in_mid_fit_and_overrides_forward_it_falls_back():
    learn = as_ordinary_with(lambda learn: learn.add_callbacks(Halved()), make_model=net)
    assert learn.callbacks[WholeStep].fallback == "Halved overrides forward"


class Scaled(Learner):
    def forward(self):
        super().forward()
        self.preds = 0.5 * self.preds


class Doubled(Learner):
    def compute_loss(self):
        super().compute_loss()
        self.loss_grad = 2 * self.loss_grad


class Clipped(Learner):
    def backward(self):
        super().backward()
        for each in self.model.parameters():
            each.grad.clamp_(-0.01, 0.01)


@pytest.mark.parametrize(
    ("kind", "name"), [(Scaled, "forward"), (Doubled, "compute_loss"), (Clipped, "backward")]
)
def test_in_a_subclass_of_the_learner_that_overrides_an_operation_it_falls_back(kind, name):
    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        torch.manual_seed(1)
        learn = kind(net(), Data(doubles()), F.mse_loss, MOMENTUM, [step], defaults=())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learn.fit(1)
        ends.append(learn.model.state_dict())
    assert learn.callbacks[WholeStep].fallback == f"{kind.__name__} overrides {name}"
    assert [f"{kind.__name__} overrides {name}" in str(each.message) for each in caught] == [True]
    assert_close(*ends)


def timed_fits(monkeypatch, extra):
    """Fits with a clock that moves by 1 whenever it is read, and by `extra` where the program runs."""
    now = [0.0]

    def read():
        now[0] += 1
        return now[0]

    def backend(graph, inputs):
        def call(*args):
            now[0] += extra
            return graph(*args)

        return call

    monkeypatch.setattr(time, "perf_counter", read)
    ordinary = learner_of(step=ZeroGrad(), data=doubles(20))
    ordinary.fit(1)
    learn = learner_of(step=WholeStep(backend), data=doubles(20))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(1)
    assert_close(learn.model.state_dict(), ordinary.model.state_dict())
    return learn, [str(each.message) for each in caught]


def test_a_program_that_is_slower_than_the_ordinary_step_is_left_once_with_the_reason(monkeypatch):
    learn, messages = timed_fits(monkeypatch, extra=0.5)
    assert len(messages) == 1
    assert "the program is slower: it takes 1.50 times as long as the ordinary step" in messages[0]
    assert learn.callbacks[WholeStep].fallback is not None


@pytest.mark.parametrize("extra", [0.0, 0.05])
def test_a_program_that_is_hardly_slower_is_used(monkeypatch, extra):
    learn, messages = timed_fits(monkeypatch, extra)
    assert not messages
    assert learn.callbacks[WholeStep].fallback is None


def test_where_several_processes_train_together_it_falls_back():
    class Together(Callback):
        distributed = True

    assert_falls_back("several processes train together", Together())
