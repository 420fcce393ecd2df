"""A compiled step uses the present values, wherever the forward pass reads them."""
# ruff: noqa: E501

from __future__ import annotations

import contextvars
import math
import os
import sys
from collections import ChainMap, OrderedDict, deque, namedtuple
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest
import torch
from changed_settings import Plain, Slotted, is_as_ordinary, of_model
from torch import nn


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
ORDERED = OrderedDict(a=1.0, b=0.5)
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
    "an attribute that was missing": lambda: of_model(caught, lambda m: setattr(m.c, "late", 0.5), c=Plain()),
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
    "the order of keys": lambda: of_model(
        lambda m: {"a": 1.0, "b": 0.5}[list(m.c)[-1]], lambda m: m.c.update(a=m.c.pop("a")), c={"a": 0, "b": 0}
    ),
    "the order of keys among the globals": lambda: of_model(
        lambda m: next(iter(ORDERED.values())), lambda m: ORDERED.move_to_end("a")
    ),
    "a key that was missing": lambda: of_model(
        lambda m: m.c["a"], lambda m: m.c.maps[0].update(a=0.5), c=ChainMap({}, {"a": 1.0})
    ),
    "a variable of the environment that was missing": lambda: of_model(
        lambda m: 0.5 if "SETTING_OF_A_TEST" in os.environ else 1.0,
        lambda m: os.environ.update(SETTING_OF_A_TEST="1"),
    ),
    "an attribute that was missing in vars": lambda: of_model(
        lambda m: 1.0 / len(vars(m.c)), lambda m: setattr(m.c, "other", 0), c=Plain()
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
    CONTEXT.set(1.0)
    ORDERED.move_to_end("b")
    os.environ.pop("SETTING_OF_A_TEST", None)
    PACKAGE.settings.scale, torch.square = 1.0, SQUARE
    torch.use_deterministic_algorithms(False)


def fresh(make):
    def setting():
        reset()
        return make()

    return setting


def caught(model):
    try:
        return model.c.late
    except AttributeError:
        return 1.0


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_changes_is_seen_wherever_it_is(name):
    is_as_ordinary(fresh(SETTINGS[name]))


def test_the_sign_of_a_zero_gets_its_own_program():
    def setting():
        return of_model(lambda m: torch.copysign(torch.ones(1), torch.tensor(m.c)), change_sign, c=0.0)

    def change_sign(model):
        model.c = -0.0

    assert is_as_ordinary(setting)
