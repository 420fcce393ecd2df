"""A compiled step trains on the values of now, wherever forward and loss read them, or falls back."""
# ruff: noqa: E501

from __future__ import annotations

import contextvars
import gc
import importlib
import math
import os
import sys
import time
import warnings
import weakref
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, GradientClip, GradientNorms, WholeStep, ZeroGrad, on
from learner import Data, Learner

X = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = list(zip(X.split(4), X.sum(1, keepdim=True).split(4), strict=True))


def fit(step, setting, *others, n_epochs=3, data=BATCHES):
    """The weights after a fit in which `setting` becomes 0.5 in the middle."""
    make_model, loss_func, change = setting()
    torch.manual_seed(0)
    act = on("before_batch", name="act")(
        lambda learn: (learn.epoch, learn.batch_idx) == (1, 2) and change(learn)
    )
    learn = Learner(
        make_model(), Data(data), loss_func, partial(torch.optim.SGD, lr=0.1), [step, act, *others], defaults=()
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn.fit(n_epochs)
    return learn


def is_as_ordinary(setting):
    """Compare fits with and without a program; return whether the program was used in all steps."""
    ordinary, whole = fit(ZeroGrad(), setting), fit(WholeStep("eager"), setting)
    torch.testing.assert_close(whole.model.state_dict(), ordinary.model.state_dict(), rtol=1e-9, atol=1e-12)
    return whole.callbacks[WholeStep].fallback is None


class Net(nn.Module):
    """A model that scales its output by a setting, which it reads in a given way."""

    def __init__(self, read, **held):
        super().__init__()
        self.layer = nn.Linear(2, 1).double()
        vars(self).update(held)
        self.read = read

    def forward(self, x):
        return self.layer(x) * self.read(self)


def of_model(read, change, **held):
    return partial(Net, read, **held), F.mse_loss, lambda learn: change(learn.model)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale=1.0):
        self.scale = scale


class Derived(Slotted):
    """A class with the setting in a slot of its parent."""

    __slots__ = ("other",)


@dataclass(slots=True)
class Config:
    scale: float = 1.0
    inner: object = field(default_factory=Derived)


class Late(Slotted):
    """A class whose setting is a property that reads a global variable."""

    __slots__ = ()

    @property
    def now(self):
        return FACTOR


class Named(type):
    scale = 1.0


class Shared(metaclass=Named):
    pass


class ByDescriptor:
    """A descriptor that reads its owner's private table."""

    def __get__(self, owner, kind):
        return owner.__dict__["_table"][0]


class Described:
    scale = ByDescriptor()

    def __init__(self):
        self._table = [1.0]


class Dynamic:
    def __init__(self):
        self.values = {"scale": 1.0}

    def __getattr__(self, name):
        return vars(self)["values"][name]


FACTOR = 1.0
TABLE = {"scale": 1.0}
Pair = namedtuple("Pair", "scale other")
ELSEWHERE = ModuleType("elsewhere_of_a_user")
ELSEWHERE.inner = SimpleNamespace(scale=1.0)
CONTEXT = contextvars.ContextVar("scale", default=1.0)


def deep(n=9):
    found = SimpleNamespace(scale=1.0)
    for _ in range(n):
        found = SimpleNamespace(inner=found)
    return found


def deepest(found):
    while hasattr(found, "inner"):
        found = found.inner
    return found


def change_globals(value):
    globals()["FACTOR"] = value


SETTINGS = {
    "a slot": lambda: of_model(lambda m: m.c.scale, lambda m: setattr(m.c, "scale", 0.5), c=Slotted()),
    "a slot of the parent": lambda: of_model(lambda m: m.c.scale, lambda m: setattr(m.c, "scale", 0.5), c=Derived()),
    "a slot that is filled late": lambda: of_model(
        lambda m: getattr(m.c, "other", 1.0), lambda m: setattr(m.c, "other", 0.5), c=Derived()
    ),
    "a slot in a slot": lambda: of_model(
        lambda m: m.c.inner.scale, lambda m: setattr(m.c.inner, "scale", 0.5), c=Config()
    ),
    "deep nesting": lambda: of_model(
        lambda m: deepest(m.c).scale, lambda m: setattr(deepest(m.c), "scale", 0.5), c=deep()
    ),
    "a property over a global": lambda: of_model(lambda m: m.c.now, lambda m: change_globals(0.5), c=Late()),
    "a dict of 500": lambda: of_model(
        lambda m: m.c[400], lambda m: m.c.update({400: 0.5}), c=dict.fromkeys(range(500), 1.0)
    ),
    "a list of 500": lambda: of_model(lambda m: m.c[400], lambda m: m.c.__setitem__(400, 0.5), c=[1.0] * 500),
    "a dict in a list in an object": lambda: of_model(
        lambda m: m.c.rows[0]["x"], lambda m: m.c.rows[0].update(x=0.5), c=SimpleNamespace(rows=[{"x": 1.0}])
    ),
    "a deque that turns": lambda: of_model(lambda m: m.c[0], lambda m: m.c.rotate(), c=deque([1.0, 0.5])),
    "a set": lambda: of_model(lambda m: max(m.c), lambda m: (m.c.clear(), m.c.add(0.5)), c={1.0}),
    "a named tuple": lambda: of_model(lambda m: m.c.scale, lambda m: setattr(m, "c", Pair(0.5, 0)), c=Pair(1.0, 0)),
    "a class beside the model": lambda: of_model(lambda m: m.c.scale, lambda m: setattr(Named, "scale", 0.5), c=Shared),
    "a descriptor": lambda: of_model(lambda m: m.c.scale, lambda m: m.c._table.__setitem__(0, 0.5), c=Described()),
    "attributes by __getattr__": lambda: of_model(
        lambda m: m.c.scale, lambda m: m.c.values.update(scale=0.5), c=Dynamic()
    ),
    "vars of an object": lambda: of_model(
        lambda m: sum(vars(m.c).values()), lambda m: setattr(m.c, "scale", 0.5), c=SimpleNamespace(scale=1.0)
    ),
    "all attributes replaced": lambda: of_model(
        lambda m: m.c.scale, lambda m: setattr(m.c, "__dict__", {"scale": 0.5}), c=Plain()
    ),
    "an attribute of a function": lambda: of_model(lambda m: m.c.scale, lambda m: setattr(m.c, "scale", 0.5), c=note()),
    "an attribute of a weight": lambda: of_model(
        lambda m: m.c.scale, lambda m: setattr(m.c, "scale", 0.5), c=tagged()
    ),
    "a module beside the model": lambda: of_model(
        lambda m: m.c[0].p, lambda m: setattr(m.c[0], "p", 0.5), c=[nn.Dropout(1.0)]
    ),
    "an attribute of another module": lambda: of_model(
        lambda m: ELSEWHERE.inner.scale, lambda m: setattr(ELSEWHERE.inner, "scale", 0.5)
    ),
    "a module that is imported within": lambda: of_model(imported, lambda m: setattr(ELSEWHERE.inner, "scale", 0.5)),
    "a table among the globals": lambda: of_model(lambda m: TABLE["scale"], lambda m: TABLE.update(scale=0.5)),
    "a context variable": lambda: of_model(lambda m: CONTEXT.get(), lambda m: CONTEXT.set(0.5)),
    "the sign of a zero": lambda: of_model(
        lambda m: math.copysign(1.0, m.c), lambda m: setattr(m, "c", -0.0), c=0.0
    ),
    "the sign of a zero in a tuple": lambda: of_model(
        lambda m: math.copysign(1.0, m.c[0][1]), lambda m: setattr(m, "c", [(0.5, -0.0)]), c=[(0.5, 0.0)]
    ),
    "a default that is mutable": lambda: of_model(by_default, lambda m: by_default.__defaults__[0].__setitem__(0, 0.5)),
    "globals()": lambda: of_model(lambda m: globals()["FACTOR"], lambda m: change_globals(0.5)),
    "the memory of a tensor": lambda: of_model(
        lambda m: m.c, lambda m: setattr(m.c, "data", torch.full((1,), 0.5)), c=torch.ones(1)
    ),
    "the size of a tensor": lambda: of_model(
        lambda m: 1.0 / len(m.c), lambda m: m.c.set_(torch.ones(2)), c=torch.ones(1)
    ),
    "the class of an object": lambda: of_model(
        lambda m: m.c.give(), lambda m: setattr(m.c, "__class__", GivesHalf), c=GivesOne()
    ),
    "a function of torch that is replaced": lambda: of_model(
        lambda m: torch.square(torch.ones(1)), lambda m: setattr(torch, "square", lambda x: 0.5 * x)
    ),
    "a relative import": lambda: of_model(PACKAGE.name, lambda m: setattr(PACKAGE.settings, "scale", 0.5)),
    "a relative import of a module": lambda: of_model(
        PACKAGE.module, lambda m: setattr(PACKAGE.settings, "scale", 0.5)
    ),
    "a setting of torch": lambda: of_model(
        lambda m: 0.5 if torch.are_deterministic_algorithms_enabled() else 1.0,
        lambda m: torch.use_deterministic_algorithms(True),
    ),
    "defaults that are replaced": lambda: of_model(by_default, lambda m: setattr(by_default, "__defaults__", ([0.5],))),
}  # fmt: skip


class GivesOne:
    def give(self):
        return 1.0


class GivesHalf:
    def give(self):
        return 0.5


def package():
    """A package of a user with settings, and two functions that import them by a relative name."""
    found = ModuleType("package_of_a_user")
    found.settings = ModuleType("package_of_a_user.settings")
    found.settings.scale = 1.0
    found.__package__, found.__path__ = found.__name__, []
    code = """
def name(m):
    from .settings import scale
    return scale
def module(m):
    from . import settings
    return settings.scale
"""
    exec(code, vars(found))
    return found


PACKAGE = package()
SQUARE = torch.square


class Plain:
    def __init__(self):
        self.scale = 1.0


def note():
    def function():
        return None

    function.scale = 1.0
    return function


def tagged():
    weight = torch.ones(1)
    weight.scale = 1.0
    return weight


def imported(model):
    import elsewhere_of_a_user as where

    return where.inner.scale


def by_default(model, scales=[1.0]):  # noqa: B006
    return scales[0]


@pytest.fixture(autouse=True)
def as_ever(monkeypatch):
    monkeypatch.setitem(sys.modules, "elsewhere_of_a_user", ELSEWHERE)
    for each in (PACKAGE, PACKAGE.settings):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    reset()
    yield
    reset()


def reset():
    change_globals(1.0)
    TABLE["scale"] = ELSEWHERE.inner.scale = Named.scale = 1.0
    by_default.__defaults__ = ([1.0],)
    os.environ["SCALE_OF_A_TEST"] = "1"
    CONTEXT.set(1.0)
    PACKAGE.settings.scale, torch.square = 1.0, SQUARE
    torch.use_deterministic_algorithms(False)


def fresh(make):
    def setting():
        reset()
        return make()

    return setting


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_changes_is_seen_wherever_it_is(name):
    is_as_ordinary(fresh(SETTINGS[name]))


class Critic(nn.Module):
    """A frozen module that the loss is computed by; alpha fades it in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.alpha = nn.Linear(1, 1).double().requires_grad_(False), 0.0

    def forward(self, preds, targets):
        off = preds - targets
        return (off - self.alpha * self.layer(off)).square().mean()


CRITIC = Critic()


class Held:
    def __init__(self, critic):
        self.critic = critic

    def loss(self, preds, targets):
        return self.critic(preds, targets)


def around(critic, *, passed=()):
    def loss_func(preds, targets, critic=critic):
        return critic(preds, targets)

    return loss_func


def closed(critic):
    return lambda preds, targets: critic(preds, targets)


def counted(critic):
    n_calls = 0

    def loss_func(preds, targets):
        nonlocal n_calls
        n_calls += 1
        return critic(preds, targets) * (1 + n_calls % 2)

    return loss_func


REACHED = {
    "a closure": closed,
    "a default": around,
    "a partial": lambda critic: partial(lambda critic, preds, targets: critic(preds, targets), critic),
    "a bound method": lambda critic: critic.forward,
    "a method of an object": lambda critic: Held(critic).loss,
    "an object in a list": lambda critic: (lambda table: lambda p, t: table[0].loss(p, t))([Held(critic)]),
    "functions that call functions": lambda critic: (lambda one: lambda p, t: one(p, t))(closed(critic)),
    "a slot": lambda critic: (lambda own: lambda p, t: own.scale(p, t))(Slotted(critic)),
    "the module itself": lambda critic: critic,
}


@pytest.mark.parametrize("name", REACHED)
def test_a_module_that_the_loss_reaches_is_watched(name):
    def setting():
        critic = Critic()
        return partial(nn.Linear, 2, 1, dtype=torch.float64), REACHED[name](critic), lambda _: setattr(critic, "alpha", 0.5)  # fmt: skip

    assert is_as_ordinary(setting)


def test_a_module_among_the_globals_is_watched():
    def setting():
        CRITIC.alpha = 0.0
        return Model, lambda preds, targets: CRITIC(preds, targets), lambda _: setattr(CRITIC, "alpha", 0.5)

    assert is_as_ordinary(setting)


Model = partial(nn.Linear, 2, 1, dtype=torch.float64)


def test_the_mode_and_the_weights_of_a_module_beside_the_model_are_those_of_now():
    def setting():
        critic = nn.Sequential(
            nn.Linear(1, 1).double().requires_grad_(False), nn.BatchNorm1d(1).double().eval()
        )
        critic.requires_grad_(False)

        def change(learn):
            with torch.no_grad():
                critic[0].weight.fill_(2.0)

        return Model, lambda preds, targets: critic(preds - targets).square().mean(), change

    assert is_as_ordinary(setting)


def test_a_closure_that_counts_its_calls_counts_each_step_once():
    assert not is_as_ordinary(lambda: (Model, counted(Critic()), lambda _: None))


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
        lambda m: importlib.import_module("elsewhere_of_a_user").inner.scale,
        lambda m: setattr(ELSEWHERE.inner, "scale", 0.5),
    ),
    "the table of modules": lambda: of_model(
        lambda m: sys.modules["elsewhere_of_a_user"].inner.scale,
        lambda m: setattr(ELSEWHERE.inner, "scale", 0.5),
    ),
    "a clock": lambda: of_model(lambda m: 1.0 + 0.0 * time.time(), lambda m: None),
    "the environment": lambda: of_model(
        lambda m: float(os.environ["SCALE_OF_A_TEST"]), lambda m: os.environ.update(SCALE_OF_A_TEST="0.5")
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
        lambda m: cached(), lambda m: (cached.cache_clear(), change_globals(0.5)), c=cached.cache_clear()
    ),
    "an iterator": lambda: of_model(lambda m: next(m.c), lambda m: None, c=iter([1.0, 0.5] * 50)),
    "a list that is too long to compare": lambda: of_model(
        lambda m: m.c[9000], lambda m: m.c.__setitem__(9000, 0.5), c=[1.0] * 10_000
    ),
}


def weak():
    kept = Plain()
    return weakref.ref(kept), kept


@pytest.mark.parametrize("name", UNWATCHED)
def test_what_changes_outside_of_python_objects_is_seen_or_falls_back(name):
    is_as_ordinary(fresh(UNWATCHED[name]))


@pytest.mark.parametrize("name", ["a clock", "a cached function", "an iterator"])
def test_what_cannot_be_guarded_is_a_reason_to_fall_back(name):
    assert not is_as_ordinary(fresh(UNWATCHED[name]))


def test_the_sign_of_a_zero_gets_a_program_of_its_own():
    def setting():
        return of_model(lambda m: torch.copysign(torch.ones(1), torch.tensor(m.c)), change_sign, c=0.0)

    def change_sign(model):
        model.c = -0.0

    assert is_as_ordinary(setting)


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


def test_a_large_table_that_the_step_does_not_read_causes_no_fallback():
    vocabulary = {str(n): n for n in range(10_000)}
    assert is_as_ordinary(
        lambda: of_model(lambda m: 1.0, lambda m: None, vocabulary=vocabulary, lock=weak()[0])
    )


def test_an_ordinary_loss_in_a_function_gets_a_program():
    criterion = nn.SmoothL1Loss()
    assert is_as_ordinary(
        lambda: (Model, lambda p, t: criterion(p, t) + 0.1 * F.l1_loss(p, t), lambda _: None)
    )


class Double(Callback):
    """A callback that doubles gradients in place, after the clip."""

    def before_step(self, learn):
        for each in learn.model.parameters():
            each.grad.mul_(2)


def test_a_clip_by_value_goes_together_with_a_reader_of_gradients():
    def setting():
        return Model, F.mse_loss, lambda _: None

    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        learn = fit(step, setting, GradientClip(max_value=0.01), GradientNorms())
        ends.append((learn.model.weight, learn.history.names and list(learn.history)[-1]["gradient_norm"]))
    torch.testing.assert_close(ends[0], ends[1])
    whole, ordinary = (
        fit(step, setting, GradientClip(max_value=0.01), Double())
        for step in (WholeStep("eager"), ZeroGrad())
    )
    torch.testing.assert_close(whole.model.weight, ordinary.model.weight)


class Judge(Callback):
    """A callback that owns a layer of the loss, and changes its weights before the loss reads them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1).double().requires_grad_(False)

    def loss(self, preds, targets):
        return self.layer(preds - targets).square().mean()

    def after_pred(self, learn):
        if learn.training:
            self.layer.weight.mul_(0.9)


def judged(step):
    torch.manual_seed(0)
    judge = Judge()
    learn = Learner(
        nn.Linear(2, 1).double(), Data(BATCHES), judge.loss, partial(torch.optim.SGD, lr=0.1), [step, judge], defaults=()
    )  # fmt: skip
    learn.fit(2)
    return learn


def test_a_module_that_a_callback_trains_before_the_loss_reads_it_takes_the_ordinary_step():
    with pytest.warns(
        UserWarning, match=r"the loss reads Judge\.layer, which Judge may change in after_pred"
    ):
        whole = judged(WholeStep("eager"))
    assert torch.equal(whole.model.weight, judged(ZeroGrad()).model.weight)


def test_a_tensor_that_the_loss_reads_and_that_changes_before_it_is_an_error():
    scale = torch.ones((), dtype=torch.float64)
    act = on("after_pred", name="act")(lambda learn: scale.mul_(0.9))
    learn = Learner(
        nn.Linear(2, 1).double(), Data(BATCHES), lambda p, t: scale * F.mse_loss(p, t),
        partial(torch.optim.SGD, lr=0.1), [WholeStep("eager"), act], defaults=(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="has changed something that the loss reads"):
        learn.fit(1)


class TrainsCritic(Callback):
    """A callback that trains the module of the loss with the gradients of the step."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def before_fit(self, learn):
        self.optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.1)

    def after_step(self, learn):
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("reach", ["a closure", "an object in a list", "a partial"])
def test_a_module_of_the_loss_that_another_optimizer_trains_gets_its_gradients(reach):
    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        critic = Critic().requires_grad_(True)
        critic.alpha = 0.5
        setting = Model, REACHED[reach](critic), lambda _: None
        fit(step, lambda setting=setting: setting, TrainsCritic(critic))
        ends.append(critic.state_dict())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-12)


def test_a_loss_that_reads_the_learner_trains_as_the_ordinary_step():
    ends = []
    for step in (ZeroGrad(), WholeStep("eager")):
        held = []
        setting = Model, lambda p, t, held=held: F.mse_loss(p, t) * (1 + held[0].epoch), lambda _: None
        keep = on("before_fit", name="keep")(lambda learn, held=held: held.append(learn))
        ends.append(fit(step, lambda setting=setting: setting, keep).model.state_dict())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-12)


LOSSES = {"main": F.mse_loss}


def test_functions_and_layers_that_are_replaced_in_a_table_are_those_of_now():
    def setting():
        LOSSES["main"] = F.mse_loss
        layers = [nn.Linear(1, 1).double().requires_grad_(False), nn.Identity()]

        def change(learn):
            LOSSES["main"] = F.l1_loss
            layers[0] = layers[1]

        torch.manual_seed(3)
        return Model, lambda p, t: LOSSES["main"](layers[0](p), t), change

    is_as_ordinary(setting)


def test_the_default_dtype_is_that_of_now():
    def setting():
        torch.set_default_dtype(torch.float32)
        return (
            Model,
            lambda p, t: F.mse_loss(p * torch.full((1,), 1 / 3), t),
            lambda _: torch.set_default_dtype(torch.float64),
        )

    try:
        is_as_ordinary(setting)
    finally:
        torch.set_default_dtype(torch.float32)


def shrink(module):
    for each in module.parameters():
        each.data.mul_(0.9)


class Shrinks(Callback):
    """A callback that decays weights by hand in a helper, as old code does."""

    def before_step(self, learn):
        if learn.epoch == 1:
            shrink(learn.model)


@on("after_backward", name="halves")
def halves(learn):
    for each in learn.model.parameters():
        each.grad.data = each.grad * 0.5


@on("after_loss", name="doubles")
def doubles(learn):
    if learn.epoch == 1:
        learn.model[0].weight.data.mul_(2.0)


@on("after_pred", name="shrinks_early")
def shrinks_early(learn):
    shrink(learn.model)


def two_layers():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()


@pytest.mark.parametrize("callback", [Shrinks(), halves, doubles, shrinks_early])
def test_what_a_callback_writes_by_data_within_the_step_counts(callback):
    setting = two_layers, F.mse_loss, lambda _: None
    ends = [fit(step, lambda: setting, callback) for step in (ZeroGrad(), WholeStep("eager"))]
    torch.testing.assert_close(ends[1].model.state_dict(), ends[0].model.state_dict(), rtol=1e-9, atol=1e-12)
    fallback = ends[1].callbacks[WholeStep].fallback
    assert (".data" in str(fallback)) == (callback in (doubles, shrinks_early))  # before the gradients


@on("after_loss", name="looks")
def looks(learn):
    assert learn.data.train is not None


def test_a_callback_that_reads_the_data_of_the_learner_causes_no_fallback():
    whole = fit(WholeStep("eager"), lambda: (Model, F.mse_loss, lambda _: None), looks)
    assert whole.callbacks[WholeStep].fallback is None


def test_an_autocast_around_the_fit_is_a_part_of_the_program():
    def setting():
        return lambda: nn.Linear(2, 1), lambda p, t: F.mse_loss(p.double(), t), lambda _: None

    batches = [(x.float(), y) for x, y in BATCHES]
    with torch.autocast("cpu", torch.bfloat16):
        whole, ordinary = (fit(step, setting, data=batches) for step in (WholeStep("eager"), ZeroGrad()))
    assert whole.callbacks[WholeStep].fallback is None
    torch.testing.assert_close(whole.model.state_dict(), ordinary.model.state_dict())


class Given:
    """A class that has a setting in every way in which a class can."""

    scale = 1.0

    def method(self):
        return 1.0

    @property
    def computed(self):
        return 1.0

    @classmethod
    def of_class(cls):
        return 1.0

    @staticmethod
    def static():
        return 1.0


class Inheriting(Given):
    pass


def half(*_):
    return 0.5


REPLACED = {
    "a method": (lambda m: m.c.method(), "method", half),
    "a property": (lambda m: m.c.computed, "computed", property(half)),
    "a class method": (lambda m: m.c.of_class(), "of_class", classmethod(half)),
    "a static method": (lambda m: m.c.static(), "static", staticmethod(half)),
    "an attribute": (lambda m: m.c.scale, "scale", 0.5),
}


@pytest.mark.parametrize("owner", [Given, Inheriting], ids=["the class", "a class that inherits it"])
@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_on_a_class_is_that_of_now(name, owner, monkeypatch):
    read, attribute, value = REPLACED[name]

    def setting():
        monkeypatch.undo()
        return of_model(
            read, lambda m: monkeypatch.setattr(owner, attribute, value, raising=False), c=Inheriting()
        )

    assert is_as_ordinary(setting)


def test_the_code_of_a_method_and_the_order_of_an_ordered_dict_are_those_of_now(monkeypatch):
    def setting():
        monkeypatch.undo()
        first = OrderedDict(a=1.0, b=0.5)

        def change(m):
            monkeypatch.setattr(Given.method, "__code__", half.__code__)
            m.c.move_to_end("a")

        return of_model(lambda m: next(iter(m.c.values())) * m.given.method(), change, c=first, given=Given())

    assert is_as_ordinary(setting)


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
