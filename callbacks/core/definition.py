"""Check the class of a callback when it is defined: misspelt events, wrong signatures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from numbers import Number
from pathlib import PurePath
from types import CodeType
from typing import Any

from callbacks.core.every import Every
from callbacks.core.foreign_names import EVENT_WORDS
from callbacks.core.missing_names import Arguments

# Measured on the events and operations: one letter missing, doubled or swapped scores 0.86 and more, while
# helpers such as `cleanup_files` or `best_so_far` score under 0.84. Short words are not compared: `steps` and
# `placed` would be as close to `step` and `place` as a misspelling.
CLOSE = 0.85
SHORT = 6


def check_class(cls: type, base: type, events: tuple[str, ...], operations: tuple[str, ...]) -> None:
    """Raise an error for a class with a hook that would never be called, or cannot be."""
    known = events + operations
    mixins = [each for each in cls.__mro__ if not issubclass(each, base) and not issubclass(base, each)]
    for owner in (cls, *mixins):  # its other bases were checked when they were defined
        for name, member in vars(owner).items():
            if name in known:
                check_hook(bound(member, cls), name, owner=cls.__name__)
                check_not_hidden(cls, owner, base, name)
            elif is_method(member) and not name.startswith("_") and not hasattr(base, name):
                check_name(name, cls.__name__, known)
        check_spelling(cls, owner, base, operations)
    check_attributes(cls, base, operations)


def check_attributes(cls: Any, base: Any, operations: tuple[str, ...]) -> None:
    """Raise an error for an attribute that is not declared in the form of the contract."""
    for attribute, (is_right, form) in forms_of(base, operations).items():
        value = inspect.getattr_static(cls, attribute)
        if not is_right(getattr(cls, attribute)) and not hasattr(type(value), "__get__"):  # as of a property
            raise TypeError(f"{cls.__name__}.{attribute} = {value!r}: write it as {form}.")
        if inspect.isroutine(value):
            raise TypeError(f"{cls.__name__}.{attribute} is a method; it must be {form}.")
    if isinstance(cls.state, (tuple, list)) and cls.load_state_dict is base.load_state_dict:
        check_assignable(cls)


def forms_of(base: Any, operations: tuple[str, ...]) -> dict[str, tuple[Callable[[Any], bool], str]]:
    """The attributes of the contract, each with a test of its value, and its form in words."""
    phases = type(base.order)
    are_operations = f"a tuple of operations, of {', '.join(operations)}"

    def is_operations(value: Any) -> bool:
        return is_tuple_of(str, value) and set(value) <= set(operations)

    return {
        "order": (lambda value: isinstance(value, phases), "a phase, as order = Order.MEASURE"),
        "name": (lambda value: isinstance(value, str), "a string"),
        "state": (partial(is_tuple_of, str), "a tuple of attributes' names, as state = ('best', 'wait')"),
        "measures": (maps_to_directions, "a dict to 'min', 'max' or None, as {'valid_score': 'max'}"),
        "monitors": (partial(is_tuple_of, str), "a tuple of results' names, as ('valid_loss',)"),
        "direction": (lambda value: value in ("min", "max", None), "'min', 'max' or None"),
        "writes_to": (partial(is_tuple_of, str), "a tuple of attributes' names, as ('path',)"),
        "needs": (partial(is_tuple_of, type), "a tuple of callback classes, as needs = (Recorder,)"),
        "sets_hyperparameters": (partial(is_tuple_of, str), "a tuple of names, as ('lr', 'momentum')"),
        "sets_from": (lambda value: isinstance(value, (str, type(None))), "None or a string: '5 epochs'"),
        "surrounds": (is_operations, are_operations),
        "yields": (is_operations, are_operations),
        **{name: (is_switch, "True or False") for name, value in vars(base).items() if is_switch(value)},
    }


def check_spelling(cls: type, owner: type, base: Any, operations: tuple[str, ...]) -> None:
    """Raise an error for an attribute that probably misspells one of the contract, and has no effect.

    Its name is similar, it has the same form, and no method of the class uses it: a user's own attribute is
    used, or is empty in a base class.
    """
    forms = forms_of(base, operations)
    for name, value in vars(owner).items():
        if name.startswith("_") or is_method(value) or hasattr(type(value), "__get__"):
            continue
        if inspect.isroutine(getattr(base, name, None)) and not callable(value):
            raise TypeError(
                f"{cls.__name__}.{name} = {value!r}: {name} is a method of Callback. Did you mean "
                f"{meant_attribute(name, forms) or 'another name'}?"
            )
        meant = meant_attribute(name, forms)
        if meant is None or hasattr(base, name) or name in names_used_by(cls):
            continue
        if forms[meant][0](value) and (value or isinstance(value, bool)):
            raise TypeError(
                f"{cls.__name__}.{name} has no effect, because Callback has no such attribute. Did you "
                f"mean {meant}? If it is an attribute of your own, call it _{name}."
            )


def meant_attribute(name: str, forms: Iterable[str]) -> str | None:
    """The attribute of the contract that a name is like."""
    return next(iter(get_close_matches(name.lower(), forms, n=1, cutoff=CLOSE)), None)


def names_used_by(cls: type) -> set[str]:
    """The names, and the strings as `getattr` takes them, in the methods of a class and its bases."""
    members = [member for each in cls.__mro__ if each is not object for member in vars(each).values()]
    found: set[str] = set()
    codes: list[Any] = [code for member in members for code in codes_of(member)]
    while codes:
        code = codes.pop()
        found |= {*code.co_names, *(each for each in code.co_consts if isinstance(each, str))}
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
    return found


def codes_of(member: Any) -> list[CodeType]:
    """The code of a method or a property."""
    parts = (member.fget, member.fset) if isinstance(member, property) else (member,)
    functions = [inspect.unwrap(getattr(part, "__func__", part)) for part in parts if part is not None]
    return [function.__code__ for function in functions if inspect.isfunction(function)]


def check_assignable(cls: Any) -> None:
    """Raise an error for state that could be saved, but not loaded."""
    for name in cls.state:
        member = inspect.getattr_static(cls, name, None)
        if isinstance(member, property) and member.fset is None:
            raise TypeError(
                f"{cls.__name__}.state lists {name!r}, a property without a setter, so it could be saved "
                f"but not loaded. Add @{name}.setter, or list the attributes that it is computed from."
            )


def is_tuple_of(kind: type, value: Any) -> bool:
    """Is it a tuple or list of such items only?"""
    return isinstance(value, (tuple, list)) and all(isinstance(item, kind) for item in value)


def is_switch(value: Any) -> bool:
    """Is it True or False?"""
    return isinstance(value, bool)


def maps_to_directions(value: Any) -> bool:
    """Does it map to directions?"""
    return isinstance(value, Mapping) and all(better in ("min", "max", None) for better in value.values())


def is_method(member: Any) -> bool:
    """Is it called, rather than a nested class or a property?"""
    return isinstance(member, (staticmethod, classmethod)) or (
        callable(member) and not isinstance(member, type)
    )


def bound(member: Any, cls: type) -> Any:
    """A class's attribute as an instance would give it, without making an instance."""
    bind: Any = getattr(member, "__get__", None)  # a builtin has none
    return bind(object(), cls) if inspect.isroutine(member) and bind else member


def check_hook(hook: Any, name: str, *, owner: str) -> None:
    """Raise an error for a hook that cannot be called with only the learner, or that would not run."""
    line = f"def {name}(learn)" if owner == "on" else f"def {name}(self, learn)"
    if not callable(hook) or isinstance(hook, type):
        raise TypeError(
            f"{owner}.{name} is {hook!r}, but the loop calls {name} as a method: write {line}, or rename "
            "the attribute."
        )
    tests = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(test(part) for test in tests for part in (hook, type(hook).__call__)):
        raise TypeError(
            f"{owner}.{name} is async or contains a yield, so its body would never run. Write it as a "
            f"plain {line}."
        )
    function = getattr(hook, "__func__", hook)  # of a method as it was written, with `self`
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature
        return
    try:
        signature.bind(*[None] * (1 if function is hook else 2))
    except TypeError as error:
        own = "" if owner == "on" else f" If it is a helper of your own, call it _{name}."
        raise TypeError(
            f"{owner}.{name}{signature} cannot be called with only the learner ({error}): write {line}. "
            f"Everything else is on the learner: learn.batch, learn.loss, learn.epoch.{own}"
        ) from None


def check_not_hidden(cls: type, owner: type, base: type, name: str) -> None:
    """Raise an error for a mixin whose hook is hidden by the empty one of the contract."""
    if owner is not cls and hasattr(base, name) and getattr(cls, name) is getattr(base, name):
        raise TypeError(
            f"{owner.__name__}.{name} would never be called, because {base.__name__} comes before "
            f"{owner.__name__}: write class {cls.__name__}({owner.__name__}, {base.__name__})."
        )


def check_name(name: str, owner: str, known: tuple[str, ...]) -> None:
    """Raise an error for a public method that looks like an event or operation, but is neither."""
    long = [word for word in known if len(word) >= SHORT]
    close = get_close_matches(name.lower(), long, n=1, cutoff=CLOSE)
    looks = name.startswith(("before_", "after_")) or (
        name.startswith("on_") and name.endswith(("_start", "_begin", "_end"))
    )
    if not (close or looks or name in EVENT_WORDS):
        return
    raise TypeError(
        f"{owner}.{name} would never be called: there is no event of that name. "
        f"Did you mean {meant_by(name, known)}? If it is a helper of your own, call it _{name}. "
        f"The events are: {', '.join(known)}."
    )


def check_event(name: Any, known: tuple[str, ...]) -> None:
    """Raise an error for a name that is not an event or operation."""
    if callable(name):
        raise TypeError('on needs the event: write @on("after_batch") above the function.')
    if name not in known:
        raise TypeError(
            f"on({name!r}): there is no such event. Did you mean {meant_by(str(name), known)!r}? "
            f"The events are: {', '.join(known)}."
        )


def meant_by(name: str, known: tuple[str, ...]) -> str:
    """The event or operation that was probably meant."""
    return EVENT_WORDS.get(name) or get_close_matches(name.lower(), known, n=1, cutoff=0)[0]


def is_plain(value: Any) -> bool:
    """Is this a setting that fits on one line?"""
    if isinstance(value, (tuple, list)):
        return len(value) <= 4 and all(is_plain(item) for item in value)
    return value is None or isinstance(value, (str, Number, PurePath, Every))


@cache
def snake_case(name: str) -> str:
    """`EarlyStopping` to `early_stopping`, `LogRMSE` to `log_rmse`, `R2` to `r2`, `MeanIoU` to `mean_iou`."""
    name = re.sub(r"IoU(?![a-z])", "Iou", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def check_arguments(cls: type, args: Sequence[Any], keywords: Iterable[str]) -> None:
    """Raise a TypeError for an argument that a class does not take, with what was probably meant."""
    if not args and not keywords:
        return
    taken = Arguments(list(inspect.signature(cls.__init__).parameters.values())[1:])  # type: ignore[misc]
    hint = f"Pass them by position, as in {cls.__name__}(first, second)."
    taken.check(cls.__name__, len(args), keywords, lambda name: hint if name == taken.star else "")
