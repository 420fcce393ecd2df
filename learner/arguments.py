"""What a learner is given, checked: each complaint names the argument, what it was, and what to pass."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")


def suggest_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse an unknown keyword with the one that was probably meant."""
    return refusing(function, ())


def suggest_keywords_beside(*others: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The same for a function of any keywords, that hands these on."""
    return lambda function: refusing(function, others)


def refusing(function: Callable[P, R], others: tuple[str, ...]) -> Callable[P, R]:
    """The function, for which a keyword that is neither its own nor among the others is an error."""
    found = inspect.signature(function).parameters.values()
    own = [each.name for each in found if each.name not in ("self", "cls") and each.kind != each.VAR_KEYWORD]
    title = "Learner" if function.__name__ == "__init__" else function.__name__

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in own and name not in others:
                raise TypeError(
                    f"{title}() has no argument {name!r}.{hint_for(name, own, title)} There are: "
                    f"{', '.join((*own, *others))}."
                )
        return function(*args, **kwargs)

    return checked


def hint_for(name: str, own: list[str], title: str) -> str:
    """What to write in place of a keyword that is none, as a part of a message; empty where unknown."""
    if (title, name) in CURES:
        return f" {CURES[title, name]}"
    meant = [other for other in OTHER_KEYWORDS.get(name, ()) if other in own]
    if not meant and name in RATE_KEYWORDS:
        return f" {RATE_HINT}"
    if name in DECAY_KEYWORDS:
        return " Weight decay is the optimizer's, as in partial(torch.optim.AdamW, weight_decay=0.01)."
    meant = meant or get_close_matches(name, own, n=1)
    return f" Did you mean {meant[0]}?" if meant else ""


#: What the methods that fit by a schedule hand on.
HANDED_ON = ("resume", "allow", "n_batches")
RATE_KEYWORDS = ("lr", "lr_max", "max_lr", "learning_rate")
DECAY_KEYWORDS = ("wd", "weight_decay")
RATE_HINT = (
    "The rate is the optimizer's, as in optimizer=partial(torch.optim.Adam, lr=1e-3), or that of a schedule, "
    "as in learn.fit_one_cycle(5, 1e-3)."
)

# What other frameworks call the same thing.
OTHER_KEYWORDS = {
    "dls": ("data",),
    "dataloaders": ("data",),
    "loss_fn": ("loss_func",),
    "criterion": ("loss_func",),
    "loss": ("loss_func",),
    "opt_func": ("optimizer",),
    "opt": ("optimizer",),
    "cbs": ("callbacks",),
    "epochs": ("n_epochs",),
    "n_epoch": ("n_epochs",),
    "max_epochs": ("n_epochs",),
    "num_epochs": ("n_epochs",),
    "lr": ("lr_max", "base_lr"),
    "max_lr": ("lr_max", "lr", "end"),
    "lr_max": ("lr", "base_lr"),
    "learning_rate": ("lr_max", "lr", "base_lr"),
    "final_div": ("div_final",),
    "div_factor": ("div",),
    "final_div_factor": ("div_final",),
    "start_lr": ("start",),
    "end_lr": ("end",),
    "num_it": ("n_steps",),
    "num_training": ("n_steps",),
    "min_lr": ("start",),
    "dl": ("loader",),
    "dataloader": ("loader",),
    "bs": ("batch_size",),
    "valid_pct": ("valid",),
    "val": ("valid",),
    "validation_split": ("valid",),
    "train_ds": ("train",),
    "valid_ds": ("valid",),
}

# What has no argument of its own, by the function's name and the keyword.
DEVICE = "A device is the plug-in's: callbacks=[DevicePlacement('cuda')]."
SCHEDULE = "A schedule is a plug-in, as TorchScheduler(...), or a method, as learn.fit_one_cycle(...)."
CURES = {
    ("Learner", "device"): DEVICE,
    ("Learner", "scheduler"): SCHEDULE,
    ("Learner", "lr_scheduler"): SCHEDULE,
    ("Learner", "wd_bn_bias"): "It is decay_norms=False.",
    ("Learner", "seed"): "Seed torch before the model is made, with torch.manual_seed(0).",
    ("from_tensors", "n_inputs"): "Several inputs are a tuple: Data.from_tensors((first, second), targets).",
    ("from_tensors", "num_workers"): "Tensors are batched by index, without workers.",
    (
        "from_datasets",
        "seed",
    ): "The order is drawn from torch's random state: write torch.manual_seed(0) before, "
    "or pass generator=torch.Generator().manual_seed(0).",
}


def check_model(model: Any) -> nn.Module:
    """A model, not its class.

    Raises:
        TypeError: it is no `nn.Module`.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type):
        raise TypeError(f"model is the class {model.__name__}: pass an instance, {model.__name__}(...).")
    raise TypeError(
        f"model is {model!r} ({type(model).__name__}): pass an nn.Module, as torch.nn.Linear(3, 1)."
    )


def check_loss_func(loss_func: Any) -> Any:
    """Something that can be called with preds and targets, or None.

    Raises:
        TypeError: it cannot be called, or is a class.
    """
    if isinstance(loss_func, type):
        raise TypeError(
            f"loss_func is the class {loss_func.__name__}: pass an instance, {loss_func.__name__}()."
        )
    if loss_func is not None and not callable(loss_func):
        raise TypeError(
            f"loss_func is {loss_func!r} ({type(loss_func).__name__}): pass a function of (preds, targets), "
            "as torch.nn.functional.mse_loss."
        )
    return loss_func


def as_optimizer(optimizer: Any, parameters: list[Any]) -> Any:
    """The optimizer given, or what the factory makes of the parameters; None where none was given.

    Args:
        optimizer: an optimizer, or what makes one.
        parameters: to be optimized: tensors, or groups of them as optimizers take them.

    Raises:
        TypeError: it is no optimizer and makes none.
        TypeError, ValueError: the learning rate is none.
    """
    if optimizer is None:
        return None
    made = optimizer if is_optimizer(optimizer) else make_optimizer(optimizer, parameters)
    for fault in [] if made is None else rate_faults(made):
        raise fault
    return made


def check_groups_with(optimizer: Any, splitter: Any, decay_norms: bool) -> Any:
    """The optimizer, which must be what makes one where its groups are to be made here.

    Raises:
        TypeError: it is a ready one.
    """
    if is_optimizer(optimizer) and (splitter is not None or not decay_norms):
        word = "decay_norms=False" if splitter is None else "splitter"
        raise TypeError(
            f"{word}: the optimizer is ready and has its groups. Pass what makes one, as "
            f"partial(torch.optim.{type(optimizer).__name__}, lr=...), or make the groups yourself."
        )
    return optimizer


def make_optimizer(factory: Any, parameters: list[Any]) -> Any:
    """What a factory makes of parameters; None where there are none.

    Raises:
        TypeError: it cannot be called, or makes no optimizer.
    """
    if not callable(factory):
        raise TypeError(
            f"optimizer is {factory!r} ({type(factory).__name__}): pass partial(torch.optim.SGD, lr=0.1), "
            "or an optimizer."
        )
    if (
        not parameters
    ):  # all are frozen, which is told with counts before a fit; a learner for prediction needs no optimizer
        return None
    try:
        made = factory(parameters)
    except Exception as error:
        error.add_note(
            f"while optimizer={factory!r} made an optimizer of the model's "
            f"{len(parameters)} {'parameter groups' if type(parameters[0]) is dict else 'trainable tensors'}"
        )
        for fault in rates_on_the_way(error):
            raise fault from error
        raise
    if not is_optimizer(made):
        raise TypeError(f"optimizer={factory!r} made {made!r} of the parameters, which is no optimizer.")
    return made


def rates_on_the_way(error: BaseException) -> Iterator[Exception]:
    """What is wrong with the rate that an optimizer of torch's was being made with."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        given = frame.f_locals
        if "lr" in given and isinstance(given.get("self"), torch.optim.Optimizer):
            yield from rate_fault(given["lr"])
            return


def is_optimizer(item: Any) -> bool:
    """Something like a `torch.optim.Optimizer`: it has groups and steps."""
    return not isinstance(item, type) and all(
        hasattr(item, name) for name in ("param_groups", "step", "zero_grad", "state_dict")
    )


def check_n_epochs(n_epochs: Any) -> None:
    """A whole number, 0 or more.

    Raises:
        TypeError, ValueError: it is not.
    """
    if type(n_epochs) is not int:
        raise TypeError(
            f"fit(n_epochs={n_epochs!r}): write a whole number of epochs, as fit(10); this is "
            f"{type(n_epochs).__name__}."
        )
    if n_epochs < 0:
        raise ValueError(f"fit(n_epochs={n_epochs}): write 0 or more epochs.")


def rate_faults(optimizer: torch.optim.Optimizer) -> Iterator[Exception]:
    """What is wrong with the learning rates; 0 is legal, and warned of before the first step."""
    for number, group in enumerate(optimizer.param_groups):
        yield from rate_fault(group.get("lr", 1.0), f" in parameter group {number}" if number else "")


def rate_fault(rate: Any, place: str = "") -> Iterator[Exception]:
    """A learning rate that is no number, or not finite, or negative. torch allows a tensor of one float."""
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    is_number = is_number or (isinstance(rate, Tensor) and rate.numel() == 1 and rate.is_floating_point())
    message = f"lr must be a finite number > 0, got {rate!r} ({type(rate).__name__}){place}."
    if not is_number:
        yield TypeError(f"{message} Write it as a number, as in lr=1e-3.")
    elif not math.isfinite(rate) or rate < 0:
        yield ValueError(message)
