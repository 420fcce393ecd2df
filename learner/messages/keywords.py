"""Errors for unknown keywords, with the one that was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from callbacks.core.foreign_names import ARGUMENT_WORDS
from callbacks.core.missing_names import unknown_argument

P = ParamSpec("P")
R = TypeVar("R")


def suggest_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Raise an error for an unknown keyword, with the one that was probably meant."""
    return refusing(function, ())


def suggest_keywords_beside(*others: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The same for a function that passes any other keywords to another function."""
    return lambda function: refusing(function, others)


def refusing(function: Callable[P, R], others: tuple[str, ...]) -> Callable[P, R]:
    """The function, with an error for a keyword that is neither its own nor among the others."""
    found = inspect.signature(function).parameters.values()
    own = [
        each.name
        for each in found
        if each.name not in ("self", "cls", "learn") and each.kind != each.VAR_KEYWORD
    ]
    title = "Learner" if function.__name__ == "__init__" else function.__name__

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in own and name not in others:
                raise unknown_argument(title, name, [*own, *others], hint_for(name, own, title))
        return function(*args, **kwargs)

    return checked


def hint_for(name: str, own: list[str], title: str) -> str:
    """What to write instead of an unknown keyword, if it is not another argument; empty if not known."""
    if (title, name) in HINTS:
        return HINTS[title, name]
    if any(other in own for other in ARGUMENT_WORDS.get(name, ())):
        return ""
    if name in RATE_KEYWORDS:
        return RATE_HINT
    if name in DECAY_KEYWORDS:
        return "Weight decay is the optimizer's, as in partial(torch.optim.AdamW, weight_decay=0.01)."
    return ""


RATE_KEYWORDS = ("lr", "lr_max", "max_lr", "learning_rate")
DECAY_KEYWORDS = ("wd", "weight_decay")
RATE_HINT = (
    "The rate is the optimizer's, as in optimizer=partial(torch.optim.Adam, lr=1e-3), or that of a schedule, "
    "as in learn.fit_one_cycle(5, 1e-3)."
)

# What has no argument of its own, by the function's name and the keyword.
DEVICE = "A device is set by a callback: callbacks=[DevicePlacement('cuda')]."
SCHEDULE = "A schedule is a callback, as TorchScheduler(...), or a method, as learn.fit_one_cycle(...)."
SEED = (
    "The order is drawn from torch's random state: write torch.manual_seed(0) before, or pass "
    "generator=torch.Generator().manual_seed(0)."
)
HINTS = {
    ("Learner", "device"): DEVICE,
    ("Learner", "scheduler"): SCHEDULE,
    ("Learner", "lr_scheduler"): SCHEDULE,
    ("Learner", "wd_bn_bias"): "It is decay_norms=False.",
    ("Learner", "seed"): "Seed torch before the model is made, with torch.manual_seed(0).",
    ("lr_find", "show_plot"): "It draws if you ask: learn.lr_find().plot().",
    ("lr_find", "suggest_funcs"): "The result has all of them: .valley, .slide, .minimum and .steep.",
    ("plot_confusion_matrix", "figsize"): "Pass axes of that size: ax=plt.subplots(figsize=(8, 8))[1].",
    ("plot_top_losses", "classes"): "Name them before: Interpretation(learn, classes=[...]).",
    ("from_tensors", "n_inputs"): "Several inputs are a tuple: Data.from_tensors((first, second), targets).",
    ("from_tensors", "num_workers"): "Tensors are batched by index, without workers.",
    ("from_datasets", "seed"): SEED,
}
