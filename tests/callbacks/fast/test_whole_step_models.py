"""Models that a compiled step takes as they are, and those for which it falls back with a hint."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from compiled_steps import (
    assert_as_ordinary,
    assert_falls_back,
    doubles,
    learner_of,
)
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import ActivationCheckpointing, LearnerWarning, WholeStep


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
            r"torch.where, which.*test_whole_step_models\.py:\d+ `return",
        ),
        (lambda: Drawing(1, 1), r"random numbers with Python.*test_whole_step_models\.py:\d+ `return"),
    ],
)
def test_a_fall_back_reports_the_line_and_a_fix(kind, reason):
    assert_falls_back(reason, model=kind(), data=line_batches(2))


@pytest.mark.parametrize("kind", [LSTMs, lambda: ByNumPy(1, 1)])
def test_an_lstm_and_a_detour_through_numpy_are_compiled_too(kind):
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
    assert_falls_back("ActivationCheckpointing recomputes layers", ActivationCheckpointing("0"))


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
        ("InvalidCxxCompiler: No working C++ compiler", "or clang, or set the variable CXX"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "TORCHINDUCTOR_CACHE_DIR"),
        ("OSError: [Errno 28] No space left on device", "TORCHINDUCTOR_CACHE_DIR"),
    ],
)
def test_missing_requirements_of_the_compiler_are_reported(message, fix):
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
        (Branching, "what is computed, or a size, depends on the value of a tensor"),
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
