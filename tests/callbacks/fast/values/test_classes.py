"""A compiled step uses the current methods and attributes of classes."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from changed_settings import is_as_ordinary, of_model


class Given:
    """A class with a setting in every form that a class can have."""

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
def test_the_current_methods_of_a_class_are_used(name, owner, monkeypatch):
    read, attribute, value = REPLACED[name]

    def setting():
        monkeypatch.undo()
        return of_model(
            read, lambda m: monkeypatch.setattr(owner, attribute, value, raising=False), c=Inheriting()
        )

    assert is_as_ordinary(setting)


class Halved:
    def method(self):
        return 0.5


def test_the_current_parents_of_a_class_are_used():
    def setting():
        class Derived(Given):
            pass

        return of_model(
            lambda m: m.c.method(), lambda m: setattr(type(m.c), "__bases__", (Halved,)), c=Derived()
        )

    assert is_as_ordinary(setting)


def test_the_current_code_of_a_method_and_order_of_an_ordered_dict_are_used(monkeypatch):
    def setting():
        monkeypatch.undo()
        first = OrderedDict(a=1.0, b=0.5)

        def change(m):
            monkeypatch.setattr(Given.method, "__code__", half.__code__)
            m.c.move_to_end("a")

        return of_model(lambda m: next(iter(m.c.values())) * m.given.method(), change, c=first, given=Given())

    assert is_as_ordinary(setting)
