"""A step that reads values that no guard can compare falls back, or is right."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import weakref
from contextlib import ExitStack
from functools import lru_cache, partial
from types import ModuleType

import numpy as np
import pytest
import torch
from changed_settings import Plain, Slotted, fit, is_as_ordinary, of_model
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import WholeStep, ZeroGrad

FACTOR = 1.0
ELSEWHERE = ModuleType("elsewhere_of_a_user")


def reset():
    change_factor(1.0)
    ELSEWHERE.scale = 1.0
    os.environ["SCALE_OF_A_TEST"] = "1"


def change_factor(value):
    global FACTOR
    FACTOR = value


@pytest.fixture(autouse=True)
def as_ever(monkeypatch):
    monkeypatch.setitem(sys.modules, ELSEWHERE.__name__, ELSEWHERE)
    monkeypatch.setenv("SCALE_OF_A_TEST", "1")
    reset()


@lru_cache
def cached():
    return FACTOR


UNWATCHED = {
    "a number read from a tensor": lambda: of_model(
        lambda m: m.c[0].item(), lambda m: m.c[0].fill_(0.5), c=[torch.tensor(1.0)]
    ),
    "numbers of a tensor as a list": lambda: of_model(
        lambda m: m.c[0].tolist()[0], lambda m: m.c[0].fill_(0.5), c=[torch.ones(1)]
    ),
    "a module by its name": lambda: of_model(
        lambda m: importlib.import_module("elsewhere_of_a_user").scale,
        lambda m: setattr(ELSEWHERE, "scale", 0.5),
    ),
    "the table of modules": lambda: of_model(
        lambda m: sys.modules["elsewhere_of_a_user"].scale,
        lambda m: setattr(ELSEWHERE, "scale", 0.5),
    ),
    "a clock": lambda: of_model(lambda m: 1.0 + 0.0 * time.time(), lambda m: None),
    "the environment": lambda: of_model(
        lambda m: float(os.environ["SCALE_OF_A_TEST"]), lambda m: os.environ.update(SCALE_OF_A_TEST="0.5")
    ),
    "the environment, by a function": lambda: of_model(
        lambda m: float(os.getenv("SCALE_OF_A_TEST")), lambda m: os.environ.update(SCALE_OF_A_TEST="0.5")
    ),
    "a weak reference": lambda: of_model(
        lambda m: m.c().scale,
        lambda m: setattr(m.kept, "scale", 0.5),
        **dict(zip(("c", "kept"), weak(), strict=True)),
    ),
    "an array": lambda: of_model(lambda m: float(m.c[0]), lambda m: m.c.fill(0.5), c=np.ones(1)),
    "an array in an object": lambda: of_model(
        lambda m: float(m.c.scale[0]), lambda m: m.c.scale.fill(0.5), c=Slotted(np.ones(1))
    ),
    "a cached function": lambda: of_model(
        lambda m: cached(), lambda m: (cached.cache_clear(), change_factor(0.5)), c=cached.cache_clear()
    ),
    "an iterator": lambda: of_model(lambda m: next(m.c), lambda m: None, c=iter([1.0, 0.5] * 50)),
    "a list that is too long to compare": lambda: of_model(
        lambda m: m.c[9000], lambda m: m.c.__setitem__(9000, 0.5), c=[1.0] * 10_000
    ),
}


FALLS_BACK = ("a clock", "a cached function", "an iterator")  # the others may, with some version of torch


def weak():
    kept = Plain()
    return weakref.ref(kept), kept


@pytest.mark.parametrize("name", UNWATCHED)
def test_what_changes_outside_of_python_objects_is_seen_or_falls_back(name):
    def setting():
        reset()
        return UNWATCHED[name]()

    has_program = is_as_ordinary(setting)
    assert not (has_program and name in FALLS_BACK)


N_COLLECTED = 0


def count_collections(phase, info):
    global N_COLLECTED
    N_COLLECTED += 1


def test_what_garbage_collection_calls_is_not_code_of_the_step():
    thresholds = gc.get_threshold()
    gc.callbacks.append(count_collections)
    gc.set_threshold(1)  # collect all the time
    try:
        assert is_as_ordinary(
            lambda: (partial(nn.Linear, 2, 1, dtype=torch.double), F.mse_loss, lambda learn: None)
        )
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(count_collections)
    assert gc.isenabled()
    assert N_COLLECTED


def test_a_fit_under_a_profiler_of_python_has_a_program():
    before = sys.getprofile()
    sys.setprofile(lambda *_: None)
    try:
        assert is_as_ordinary(lambda: of_model(lambda m: 1.0, lambda m: None))
    finally:
        sys.setprofile(before)


def test_a_large_table_that_the_step_does_not_read_causes_no_fallback():
    vocabulary = {str(n): n for n in range(10_000)}
    assert is_as_ordinary(
        lambda: of_model(lambda m: 1.0, lambda m: None, vocabulary=vocabulary, lock=weak()[0])
    )


@pytest.mark.parametrize("register", ["forward_pre_hook", "forward_hook", "full_backward_hook"])
def test_hooks_on_all_modules_fall_back(register):
    handles = []

    def hook(module, *args):
        return (
            0.5 * args[1]
            if register == "forward_hook"
            else tuple(None if each is None else 0.5 * each for each in args[0])
        )

    def setting():
        while handles:
            handles.pop().remove()
        add = getattr(nn.modules.module, f"register_module_{register}")
        return of_model(lambda m: 1.0, lambda m: handles.append(add(hook)))

    try:
        assert not is_as_ordinary(setting)
    finally:
        while handles:
            handles.pop().remove()


class Scaling(TorchDispatchMode):
    """Halves what tanh computes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return 0.5 * found if func is torch.ops.aten.tanh.default else found


class Halving(TorchFunctionMode):
    """Halves what `tanh` returns."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return 0.5 * found if func is torch.tanh else found


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Halving, "TorchFunctionMode"),
        (lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: 0.5 * x, lambda x: x), "saved tensors"),
        (Scaling, "TorchDispatchMode"),
    ],
)
def test_a_mode_of_torch_that_is_entered_during_a_fit_falls_back(make, reason):
    def setting():
        return of_model(lambda m: torch.tanh(m.layer.bias), lambda m: held.enter_context(make()))

    ends = []
    for step in (ZeroGrad(), WholeStep("aot_eager")):  # whose programs do not call torch's functions
        with ExitStack() as held:
            ends.append(fit(step, setting))
    torch.testing.assert_close(ends[1].model.state_dict(), ends[0].model.state_dict(), rtol=1e-9, atol=1e-12)
    assert reason in ends[1].callbacks[WholeStep].fallback


def test_a_default_device_is_a_part_of_the_program():
    with torch.device("cpu"):
        assert is_as_ordinary(lambda: of_model(lambda m: torch.ones(1), lambda m: None))


@pytest.mark.filterwarnings("ignore:Anomaly")
@pytest.mark.parametrize("step", [ZeroGrad(), WholeStep("eager")])
def test_an_anomaly_is_found_as_with_the_ordinary_step(step):
    def setting():
        return of_model(lambda m: (m.layer.bias * m.c).sqrt(), lambda m: m.c.fill_(0), c=torch.ones(1))

    with torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="returned nan"):
        fit(step, setting)


def compiled_otherwise(model):
    return 0.5 if torch.compiler.is_compiling() else 1.0


def counted_unless_compiled(model):
    if not torch.compiler.is_compiling():
        model.c += 1
    return 1.0 if model.c < 6 else 0.5


def drawn(model):
    return 1.0 + 0.0 * torch.from_numpy(np.random.randn(1))


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (compiled_otherwise, "is_compiling"),
        (counted_unless_compiled, "is_compiling"),
        (drawn, "random numbers with numpy"),
    ],
)
def test_numbers_of_numpy_and_questions_about_the_compiler_fall_back(read, reason):
    whole = fit(WholeStep("eager"), lambda: of_model(read, lambda m: None, c=0))
    ordinary = fit(ZeroGrad(), lambda: of_model(read, lambda m: None, c=0))
    assert reason in whole.callbacks[WholeStep].fallback
    torch.testing.assert_close(whole.model.state_dict(), ordinary.model.state_dict(), rtol=1e-9, atol=1e-12)
