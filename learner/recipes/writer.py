"""Write a Learner that was built in Python as a recipe."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from callbacks import Callback, Every, Metrics
from callbacks.core.when import window_of
from callbacks.model.held import holder_of
from callbacks.optim.optimizers import Optimizers, title_of
from callbacks.schedule.annealers import Annealer
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.learner import Learner
from learner.recipes.names import signature_of, table
from learner.recipes.signatures import Signature
from learner.recipes.yaml_tree import dump

LONGEST = 1000  # of tensors that are written
NOT_KEPT = ("device", "dtype")  # torch's layers do not store them; they only affect where weights are created


def learner_to_recipe(
    learn: Learner,
    n_epochs: int,
    *,
    data: str | Mapping[str, Any],
    model: str | Mapping[str, Any] | None = None,
    seed: int | None = None,
    title: str | None = None,
    folder: str | Path = ".",
) -> str:
    """Write a recipe that builds a Learner like this one.

    Each part is looked up by identity in the tables that recipes use, then in the Python files in or below
    `folder`. Arguments are read from the attributes with their names. A recipe does not contain weights.

    Args:
        learn: the Learner.
        n_epochs: number of epochs in the recipe.
        data: what to write for data, which has no name in Python: `"digits"`, or
            `{"use": "data.py:make_data", "n": 100}`.
        model: the same for the model; needed if its class does not store its arguments as attributes.
        seed: the recipe's seed.
        title: the recipe's title.
        folder: the folder of the recipe.

    Returns:
        YAML; write it to a file in `folder`.
    """
    writer = Writer(Path(folder).resolve())
    recipe = {
        "recipe": title,
        "seed": seed,
        "data": as_written(data),
        "model": writer.model(learn.model) if model is None else as_written(model),
        "loss": None if learn.loss_func is None else writer.part("loss", learn.loss_func),
        "optimizer": writer.optimizer(learn),
        "splitter": None if learn.splitter is None else writer.part("splitter", learn.splitter),
        "decay_norms": None if learn.decay_norms else False,
        "callbacks": writer.callbacks(learn) or None,
        "metrics": [writer.part("metric", each) for each in writer.metrics(learn)] or None,
        "fit": {"epochs": n_epochs},
    }
    if writer.problems:
        raise ValueError("this Learner cannot be written as a recipe:\n  " + "\n  ".join(writer.problems))
    return dump({key: value for key, value in recipe.items() if value is not None})


def as_written(part: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """A part that the caller wrote, in types that YAML has."""
    return part if isinstance(part, str) else dict(part)


class Writer:
    """Finds the names and arguments of parts, and collects problems."""

    def __init__(self, folder: Path):
        self.folder, self.problems = folder, list[str]()

    def model(self, model: nn.Module) -> Any:
        """The model: a name, a name with arguments, or a list of layers for `nn.Sequential`."""
        if type(model) is nn.Sequential:
            return [
                self.part("model", layer) if type(layer) is not nn.Sequential else self.model(layer)
                for layer in model
            ]
        return self.part("model", model)

    def optimizer(self, learn: Learner) -> Any:
        """The optimizer: its class, and the settings that differ from the defaults."""
        optimizer = learn.optimizer
        has_groups = learn.splitter is not None or not learn.decay_norms
        if optimizer is None:
            self.problems.append("optimizer: the Learner has none. Pass one to it.")
            return None
        if isinstance(optimizer, Optimizers):
            self.problems.append(
                f"optimizer: a recipe cannot contain several optimizers ({title_of(optimizer)}). Write a "
                "function of the parameters that returns Optimizers(...) in a Python file, and use its name: "
                '`optimizer: "models.py:make"`.'
            )
            return None
        if len(optimizer.param_groups) > 1 and not has_groups:
            self.problems.append(
                "optimizer: a recipe cannot contain its parameter groups; pass splitter= to the Learner."
            )
        signature = signature_of("optimizer", type(optimizer))
        settings = {
            name: value
            for name, value in getattr(optimizer, "defaults", {}).items()
            if name in signature.parameters
        }
        return self._written("optimizer", type(optimizer), signature, settings)

    def metrics(self, learn: Learner) -> tuple[Any, ...]:
        """The metrics; empty if the callback `Metrics` has settings, since it is then written with them."""
        found = (each for each in learn.callbacks if isinstance(each, Metrics) and not window_of(each))
        callback = next(found, None)
        return callback.metrics if callback is not None and callback.on == "valid" else ()

    def callbacks(self, learn: Learner) -> dict[str, Any]:
        """The callbacks other than the unchanged defaults, and `null` for each removed default."""
        found: dict[str, Any] = {}
        for callback in learn.callbacks:
            item = window_of(callback) or callback
            written = self.part("callback", item, given={"metrics"} if self.metrics(learn) else set())
            title = type(item).__name__
            if written == title and type(callback) in DEFAULT_CALLBACKS:
                continue
            part = as_argument(written)
            has_own_name = callback.name != type(callback).name
            if not has_own_name and ":" not in part["use"]:
                del part["use"]
            found[callback.name if has_own_name else title] = part
        there = {type(callback) for callback in learn.callbacks}
        return found | {each.__name__: None for each in DEFAULT_CALLBACKS if each not in there}

    def part(self, kind: str, item: Any, given: set[str] | None = None) -> Any:
        """A part: its name if all arguments are defaults, else `{use: name, argument: value}`."""
        if isinstance(item, partial):
            target, settings = item.func, dict(item.keywords)
            return self._written(kind, target, signature_of(kind, target), settings)
        if isinstance(item, Annealer):
            make = table("annealer")[item.name]
            signature = signature_of("annealer", make)
            settings = dict(zip(signature.parameters, item.arguments, strict=False))
            return self._written("annealer", make, signature, settings)
        if isinstance(item, type) or inspect.isroutine(item):
            return self._name(kind, item)
        signature = signature_of(kind, type(item))
        settings = self._settings(kind, item, signature, given or set())
        return self._written(kind, type(item), signature, settings)

    def _settings(self, kind: str, item: Any, signature: Signature, given: set[str]) -> dict[str, Any]:
        """The arguments of an instance, read from its attributes, without those in `given`."""
        settings = {}
        for name, parameter in signature.parameters.items():
            if name in given or (name == "name" and isinstance(item, Callback)):
                continue
            holder = holder_of(name, item)
            if holder is not None:
                settings[name] = as_switch(getattr(holder, name), parameter.default)
            elif name not in NOT_KEPT:
                hint = ' Pass model={"use": ..., argument: value}.' if kind == "model" else ""
                message = (
                    f"{kind} {type(item).__name__}: its argument {name!r} is not stored as an attribute."
                )
                self.problems.append(message + hint)
        return settings

    def _written(self, kind: str, target: Any, signature: Signature, settings: dict[str, Any]) -> Any:
        name = self._name(kind, target)
        arguments = {}
        for key, value in settings.items():
            parameter = signature.parameters.get(key)
            if parameter is not None and (value is parameter.default or same(value, parameter.default)):
                continue
            arguments[key] = self._plain(value, f"{kind} {name}: the argument {key!r}")
        return {"use": name, **arguments} if arguments else name

    def _name(self, kind: str, target: Any) -> str:
        """The name of a class or function in recipes."""
        for name, each in table(kind).items():
            if each is target:
                return name
        title = getattr(target, "__name__", repr(target))
        file = getattr(sys.modules.get(getattr(target, "__module__", "")), "__file__", None)
        path = Path(file).resolve() if file else None
        if path is not None and path.is_relative_to(self.folder) and title.isidentifier():
            return f"{path.relative_to(self.folder).as_posix()}:{title}"
        hint = f"Put it in a Python file in {self.folder}."
        self.problems.append(f"{kind} {title}: a recipe has no name for it. {hint}")
        return title

    def _plain(self, value: Any, where: str) -> Any:
        """The value in types that YAML has."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (Every, Path, torch.device)):
            return str(value)
        if isinstance(value, Tensor) and 0 < value.numel() <= LONGEST:  # as the weights of classes
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [self._plain(item, where) for item in value]
        if isinstance(value, dict):
            return {str(key): self._plain(item, where) for key, item in value.items()}
        if isinstance(value, Annealer):
            return self.part("annealer", value)
        if isinstance(value, partial) or inspect.isfunction(value):  # a scheduler, or the user's own schedule
            function = value.func if isinstance(value, partial) else value
            kind = "scheduler" if function in table("scheduler").values() else "annealer"
            return as_argument(self.part(kind, value))
        for kind in ("metric", "loss"):
            if any(each is value or each is type(value) for each in table(kind).values()):
                return as_argument(self.part(kind, value))
        self.problems.append(f"{where} is {value!r}, which YAML cannot express.")
        return None


def as_argument(written: str | dict[str, Any]) -> dict[str, Any]:
    """A written part inside another, where a bare name would be text."""
    return {"use": written} if isinstance(written, str) else written


def as_switch(value: Any, default: Any) -> Any:
    """The bool of an argument such as `bias=True`, whose attribute is a tensor or None."""
    is_switch = isinstance(default, bool) and (value is None or isinstance(value, Tensor))
    return value is not None if is_switch else value


def same(value: Any, default: Any) -> bool:
    """Is it the default, even if the constructor converted it to another type?"""
    if isinstance(value, (Every, Path, torch.device)):
        return str(value) == str(default) or (isinstance(value, torch.device) and default == "auto")
    plain = (bool, int, float, str, tuple, list, type(None))
    return isinstance(value, plain) and type(value) is type(default) and value == default
