"""What is wrong with a plug-in's class, found when it is defined: misspelt events, wrong signatures, wrong "
"`state`."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from numbers import Number
from typing import Any

# Hooks of other frameworks, where their moment has a name of its own here.
OTHER_WORDS = {
    "on_fit_start": "before_fit",
    "on_train_start": "before_fit",
    "on_train_begin": "before_fit",
    "on_fit_end": "after_fit",
    "on_train_end": "after_fit",
    "on_epoch_begin": "before_epoch",
    "on_epoch_start": "before_epoch",
    "on_train_epoch_start": "before_epoch",
    "on_train_epoch_end": "after_epoch",
    "on_epoch_end": "after_epoch",
    "on_batch_begin": "before_batch",
    "on_train_batch_begin": "before_batch",
    "on_train_batch_start": "before_batch",
    "on_step_begin": "before_batch",
    "on_batch_end": "after_batch",
    "on_train_batch_end": "after_batch",
    "on_step_end": "after_batch",
    "on_before_backward": "before_backward",
    "on_after_backward": "after_backward",
    "on_backward_end": "after_backward",
    "on_grad_computed": "after_backward",
    "on_before_optimizer_step": "before_step",
    "on_pre_optimizer_step": "before_step",
    "on_optimizer_step": "after_step",
    "on_before_zero_grad": "zero_grad",
    "on_validation_start": "before_validate",
    "on_validation_end": "after_validate",
    "on_test_begin": "before_validate",
    "on_test_end": "after_validate",
    "on_exception": "cleanup_fit",
    "teardown": "cleanup_fit",
    "before_valid": "before_validate",
    "after_valid": "after_validate",
    "after_predict": "after_pred",
    "cleanup": "cleanup_fit",
    "get_loss": "compute_loss",
}
EVENT_PREFIXES = ("before_", "after_", "cleanup_", "on_")
# Measured on the events and operations: one letter missing, doubled or swapped scores 0.86 and more, while
# `stop`, `best` or `reset` score under 0.75 with any of them.
CLOSE = 0.85


def check_class(cls: type, base: type, events: tuple[str, ...], operations: tuple[str, ...]) -> None:
    """Refuse a plug-in class of which a hook would never be called, or could not be.

    Raises:
        TypeError: names the class, the method, and the word that was probably meant.
    """
    for name, member in vars(cls).items():
        if name in events or name in operations:
            check_hook(member, name, owner=cls.__name__, n_arguments=2)
        elif callable(member) and not name.startswith("_") and not hasattr(base, name):
            check_name(name, cls.__name__, events + operations)
    for attribute in ("state", "needs"):
        value = getattr(cls, attribute)
        if not isinstance(value, (tuple, list, property)):
            shown = f"({value!r},)" if isinstance(value, str) else "a tuple"
            raise TypeError(
                f"{cls.__name__}.{attribute} = {value!r}: write it as a tuple, {attribute} = {shown}."
            )


def check_hook(hook: Any, name: str, *, owner: str, n_arguments: int) -> None:
    """Refuse a hook that cannot be called with the learner and nothing else, or that is a coroutine or "
    "generator."""
    line = f"def {name}({'self, ' if n_arguments == 2 else ''}learn)"
    if not callable(hook) or isinstance(hook, type):
        raise TypeError(f"{owner}.{name} is {hook!r}, but {name} is a moment of the loop: write {line}.")
    if any(
        test(hook)
        for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    ):
        raise TypeError(
            f"{owner}.{name} is async or has a yield in it, so its body would never run. Write it as a "
            f"plain {line}."
        )
    try:
        signature = inspect.signature(hook)
    except ValueError:  # a builtin that does not tell its signature
        return
    try:
        signature.bind(*[None] * n_arguments)
    except TypeError as error:
        raise TypeError(
            f"{owner}.{name}{signature} cannot be called by the loop ({error}): write {line}. The learner "
            f"has everything "
            f"else: learn.batch, learn.loss, learn.epoch. If it is a helper of your own, call it _{name}."
        ) from None


def check_name(name: str, owner: str, known: tuple[str, ...]) -> None:
    """Refuse a public method that looks like an event or operation, but is none."""
    close = get_close_matches(name, known, n=1, cutoff=CLOSE)
    if not (close or name in OTHER_WORDS or name.startswith(EVENT_PREFIXES)):
        return
    meant = OTHER_WORDS.get(name) or (close or get_close_matches(name, known, n=1, cutoff=0))[0]
    raise TypeError(
        f"{owner}.{name} would never be called: there is no event of that name. Did you mean {meant}? "
        f"If it is a helper of your own, call it _{name}. The events are: {', '.join(known)}."
    )


def check_event(name: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is no event or operation."""
    if name not in known:
        meant = OTHER_WORDS.get(name) or get_close_matches(str(name), known, n=1, cutoff=0)[0]
        raise TypeError(
            f"on({name!r}): there is no such event. Did you mean {meant!r}? The events are: "
            f"{', '.join(known)}."
        )


def is_plain(value: Any) -> bool:
    """Is this a setting that reads well in one line?"""
    if isinstance(value, (tuple, list)):
        return len(value) <= 4 and all(is_plain(item) for item in value)
    return value is None or isinstance(value, (str, Number))
