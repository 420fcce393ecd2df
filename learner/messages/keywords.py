"""Errors for unknown keywords, with the one that was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from callbacks.core.foreign_names import ARGUMENT_WORDS
from callbacks.core.missing_names import Arguments
from callbacks.core.settings import check_given

P = ParamSpec("P")
R = TypeVar("R")


def suggest_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Raise an error for an unknown keyword, with the one that was probably meant, or for a wrong choice."""
    return refusing(function, ())


def suggest_keywords_beside(*others: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The same for a function that passes any other keywords to another function."""
    return lambda function: refusing(function, others)


def refusing(function: Callable[P, R], others: tuple[str, ...]) -> Callable[P, R]:
    """The function, with an error for too many arguments, or an unknown keyword that is not of the others."""
    found = inspect.signature(function).parameters.values()
    taken = Arguments([each for each in found if each.name not in OWNERS], others)
    n_owners = sum(each.name in OWNERS for each in found)
    title = function.__qualname__.split(".")[0] if function.__name__ == "__init__" else function.__name__

    def hint(name: str) -> str:
        return hint_for(name, taken.own, title)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        taken.check(title, len(args) - n_owners, kwargs, hint, POSITION_HINTS.get(title, ""))
        check_given(title, function, args, kwargs)
        return function(*args, **kwargs)

    return checked


def takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    """Can a function be called with these arguments? True if it has no known signature."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return isinstance(error, ValueError)
    return True


def hint_for(name: str, own: list[str], title: str) -> str:
    """What to write instead of an unknown keyword, if it is not another argument; empty if not known."""
    if (title, name) in HINTS:
        return HINTS[title, name]
    if any(other in own for other in ARGUMENT_WORDS.get(name, ())):
        return ""
    if name in RATE_KEYWORDS:
        return RATE_HINT
    if name in DECAY_KEYWORDS:
        return "Weight decay belongs to the optimizer, as in partial(torch.optim.AdamW, weight_decay=0.01)."
    return ""


OWNERS = ("self", "cls", "learn")
POSITION_HINTS = {
    "predict": "Several inputs are a tuple: learn.predict((first, second)).",
    "from_tensors": "Several inputs are a tuple: Data.from_tensors((first, second), targets).",
}
RATE_KEYWORDS = ("lr", "lr_max", "max_lr", "learning_rate")
DECAY_KEYWORDS = ("wd", "weight_decay")
RATE_HINT = (
    "The rate belongs to the optimizer, as in optimizer=partial(torch.optim.Adam, lr=1e-3), or to a "
    "schedule, as in learn.fit_one_cycle(5, 1e-3)."
)

# Hints for settings without an argument, by the function's name and the keyword.
DEVICE = "A device is set by a callback: callbacks=[DevicePlacement('cuda')]."
EPOCHS = "The number of epochs is an argument of the fit, as in learn.fit(10)."
SCHEDULE = "A schedule is a callback, as TorchScheduler(...), or a method, as learn.fit_one_cycle(...)."
SEED = (
    "The order is drawn from torch's random state: write torch.manual_seed(0) before, or pass "
    "generator=torch.Generator().manual_seed(0)."
)
HINTS = {
    ("Learner", "device"): DEVICE,
    **{("Learner", name): EPOCHS for name in ("epochs", "n_epochs", "num_epochs", "max_epochs")},
    ("Learner", "batch_size"): "Batches are made by the data, as in Data.from_tensors(..., batch_size=64).",
    ("Learner", "scheduler"): SCHEDULE,
    ("Learner", "lr_scheduler"): SCHEDULE,
    ("Learner", "wd_bn_bias"): "Use decay_norms=False.",
    ("Learner", "seed"): "Seed torch before the model is made, with torch.manual_seed(0).",
    ("load", "strict"): "For a part of the weights: learn.model.load_state_dict(state, strict=False).",
    ("load", "with_opt"): "The optimizer is loaded too; for only the weights, pass only='model'.",
    ("save", "with_opt"): "The optimizer is saved too; for only the weights, call learn.export('model.pt').",
    ("predict", "batch_size"): "For batches of many items call learn.get_preds(loader).",
    ("lr_find", "show_plot"): "To draw the losses, call learn.lr_find().plot().",
    ("lr_find", "suggest_funcs"): "The result has all of them: .valley, .slide, .minimum and .steep.",
    ("plot_confusion_matrix", "figsize"): "Pass axes of that size: ax=plt.subplots(figsize=(8, 8))[1].",
    ("plot_top_losses", "classes"): "Pass them earlier: Interpretation(learn, classes=[...]).",
    ("from_tensors", "n_inputs"): "Several inputs are a tuple: Data.from_tensors((first, second), targets).",
    ("from_tensors", "num_workers"): "Tensors are batched by index, without workers.",
    ("from_datasets", "seed"): SEED,
}
