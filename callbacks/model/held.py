"""Attributes that a callback shows and one of its parts holds."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class Held(Generic[T]):
    """An attribute that is read from a part of the object, and set there; with its docstring.

    After `best = Held[float | None]("_best", "value", "The best value so far.")` it is `self._best.value`.
    """

    def __init__(self, part: str, name: str, doc: str):
        self.part, self.name, self.__doc__ = part, name, doc

    @overload
    def __get__(self, owner: None, kind: Any = None) -> Held[T]: ...
    @overload
    def __get__(self, owner: object, kind: Any = None) -> T: ...
    def __get__(self, owner: object | None, kind: Any = None) -> Held[T] | T:
        return self if owner is None else getattr(getattr(owner, self.part), self.name)

    def __set__(self, owner: object, value: T) -> None:
        setattr(getattr(owner, self.part), self.name, value)


def holder_of(name: str, item: Any) -> Any:
    """The object with this attribute: the item, or one of our objects that it holds, as `Best`."""
    held = [each for each in vars(item).values() if type(each).__module__.startswith("callbacks.")]
    return next((each for each in (item, *held) if hasattr(each, name)), None)
