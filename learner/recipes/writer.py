"""A Learner built in Python, written as a recipe where its parts have names."""

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
from callbacks.optim.optimizers import Optimizers, title_of
from callbacks.schedule.annealers import Annealer
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.learner import Learner
from learner.recipes.names import signature_of, table
from learner.recipes.signatures import Signature
from learner.recipes.yaml_tree import dump

UNTOLD = (
    "device",
    "dtype",
)  # torch's layers do not keep them; they say where weights are made, not what they do


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

    A part is found by its identity in the tables that recipes use, or in a Python file in or below `folder`;
    its arguments are read off the attributes of their names. Weights are not part of a recipe.

    Args:
        learn: the Learner.
        n_epochs: how long the recipe trains.
        data: what the recipe says for data, which has no name in Python: `"digits"`, or
            `{"use": "data.py:make_data", "n": 100}`.
        model: the same for the model, where its class does not keep its arguments as attributes.
        seed: the recipe's seed.
        title: the recipe's line for people.
        folder: where the recipe will stand.

    Returns:
        YAML; write it to a file in `folder`.

    Raises:
        ValueError: parts that have no name, or whose arguments cannot be told; all are named.
    """
    writer = Writer(Path(folder).resolve())
    has_groups = learn.splitter is not None or not learn.decay_norms
    optimizer = writer.optimizer(learn.optimizer, has_groups)
    recipe = {
        "recipe": title,
        "seed": seed,
        "data": data if isinstance(data, str) else dict(data),
        "model": writer.model(learn.model)
        if model is None
        else model
        if isinstance(model, str)
        else dict(model),
        "loss": None if learn.loss_func is None else writer.part("loss", learn.loss_func),
        "optimizer": optimizer,
        "splitter": None if learn.splitter is None else writer.part("splitter", learn.splitter),
        "decay_norms": None if learn.decay_norms else False,
        "callbacks": writer.callbacks(learn) or None,
        "metrics": [writer.part("metric", each) for each in writer.metrics(learn)] or None,
        "fit": {"epochs": n_epochs},
    }
    if writer.faults:
        raise ValueError("this Learner cannot be written as a recipe:\n  " + "\n  ".join(writer.faults))
    return dump({key: value for key, value in recipe.items() if value is not None})


class Writer:
    """Finds names and arguments of parts, and collects what has none.

    Args:
        folder: the recipe's folder, absolute.
    """

    def __init__(self, folder: Path):
        self.folder, self.faults = folder, list[str]()

    def model(self, model: nn.Module) -> Any:
        """The model: a name, a name with arguments, or of `nn.Sequential` a list of layers."""
        if type(model) is nn.Sequential:
            return [
                self.part("model", layer) if type(layer) is not nn.Sequential else self.model(layer)
                for layer in model
            ]
        return self.part("model", model)

    def optimizer(self, optimizer: torch.optim.Optimizer | None, has_groups: bool) -> Any:
        """The optimizer by its class and the settings that are not the class's own."""
        if optimizer is None:
            self.faults.append("optimizer: there is none. Give the Learner one.")
            return None
        if isinstance(optimizer, Optimizers):
            self.faults.append(
                f"optimizer: a recipe cannot express several optimizers, {title_of(optimizer)}. Write a "
                "function of the parameters that returns Optimizers(...) into a Python file, and name it, "
                'as `optimizer: "models.py:make"`.'
            )
            return None
        if len(optimizer.param_groups) > 1 and not has_groups:
            self.faults.append(
                "optimizer: it has several parameter groups, which a recipe cannot say: use a splitter."
            )
        signature = signature_of("optimizer", type(optimizer))
        settings = {
            name: value
            for name, value in getattr(optimizer, "defaults", {}).items()
            if name in signature.parameters
        }
        return self._written("optimizer", type(optimizer), signature, settings)

    def metrics(self, learn: Learner) -> tuple[Any, ...]:
        """The metrics, unless their plug-in has settings of its own and is written with them."""
        plugin = next(
            (each for each in learn.callbacks if isinstance(each, Metrics) and not window_of(each)), None
        )
        return plugin.metrics if plugin is not None and plugin.on == "valid" else ()

    def callbacks(self, learn: Learner) -> dict[str, Any]:
        """The plug-ins that are not there unasked, and `null` for those that were taken out."""
        found: dict[str, Any] = {}
        for plugin in learn.callbacks:
            part = window_of(plugin) or plugin
            written = self.part("callback", part, given={"metrics"} if self.metrics(learn) else set())
            title = type(part).__name__
            if written == title and type(plugin) in DEFAULT_CALLBACKS:
                continue
            arguments = (
                {}
                if isinstance(written, str)
                else {key: value for key, value in written.items() if key != "use"}
            )
            use = written if isinstance(written, str) else str(written.get("use"))
            own_name = plugin.name != type(plugin).name
            named = {"use": use, **arguments} if own_name or ":" in use else arguments
            found[plugin.name if own_name else title] = named
        there = {type(plugin) for plugin in learn.callbacks}
        return found | {each.__name__: None for each in DEFAULT_CALLBACKS if each not in there}

    def part(self, kind: str, item: Any, given: set[str] | None = None) -> Any:
        """A part: its name where it has its default arguments, else `{use: name, argument: value}`."""
        if isinstance(item, partial):
            target, settings = item.func, dict(item.keywords)
            return self._written(kind, target, signature_of(kind, target), settings)
        if isinstance(item, Annealer):
            make = table("annealer")[item.name]
            signature = signature_of("annealer", make)
            return self._written(
                "annealer", make, signature, dict(zip(signature.parameters, item.arguments, strict=False))
            )
        if isinstance(item, type) or inspect.isroutine(item):
            return self._name(kind, item)
        signature = signature_of(kind, type(item))
        settings = {}
        for name, parameter in signature.parameters.items():
            if name in (given or ()) or (name == "name" and isinstance(item, Callback)):
                continue
            holder = holder_of(name, item)
            if holder is not None:
                settings[name] = as_switch(getattr(holder, name), parameter.default)
            elif name not in UNTOLD:
                title = f"{kind} {type(item).__name__}"
                cure = CURE.get(kind, "")
                self.faults.append(f"{title}: it does not keep its argument {name!r} as an attribute.{cure}")
        return self._written(kind, type(item), signature, settings)

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
        """The name under which recipes find this class or function."""
        for name, each in table(kind).items():
            if each is target:
                return name
        title = getattr(target, "__name__", repr(target))
        file = getattr(sys.modules.get(getattr(target, "__module__", "")), "__file__", None)
        path = Path(file).resolve() if file else None
        if path is not None and path.is_relative_to(self.folder) and title.isidentifier():
            return f"{path.relative_to(self.folder).as_posix()}:{title}"
        cure = f"Put it into a Python file in {self.folder}."
        self.faults.append(f"{kind} {title}: it has no name that a recipe could use. {cure}")
        return title

    def _plain(self, value: Any, where: str) -> Any:
        """The value as YAML can say it."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (Every, Path, torch.device)):
            return str(value)
        if isinstance(value, (list, tuple)):
            return [self._plain(item, where) for item in value]
        if isinstance(value, dict):
            return {str(key): self._plain(item, where) for key, item in value.items()}
        if isinstance(value, Annealer):
            return self.part("annealer", value)
        if isinstance(value, partial) or inspect.isfunction(value):  # a scheduler, or the user's own schedule
            function = value.func if isinstance(value, partial) else value
            kind = "scheduler" if function in table("scheduler").values() else "annealer"
            written = self.part(kind, value)
            return {"use": written} if isinstance(written, str) else written
        for kind in ("metric", "loss"):
            if any(each is value or each is type(value) for each in table(kind).values()):
                written = self.part(kind, value)
                return {"use": written} if isinstance(written, str) else written
        self.faults.append(f"{where} is {value!r}, which YAML cannot say.")
        return None


CURE = {"model": ' Pass model={"use": ..., argument: value}.'}


def holder_of(name: str, item: Any) -> Any:
    """What has an attribute of this name: the item, or a thing of ours that it holds, as `Best`."""
    held = [each for each in vars(item).values() if type(each).__module__.startswith("callbacks.")]
    return next((each for each in (item, *held) if hasattr(each, name)), None)


def as_switch(value: Any, default: Any) -> Any:
    """Of arguments such as `bias=True`, whose attribute is the tensor or None: the bool."""
    is_switch = isinstance(default, bool) and (value is None or isinstance(value, Tensor))
    return value is not None if is_switch else value


def same(value: Any, default: Any) -> bool:
    """Is it the default, also where the constructor made another type of it?"""
    if isinstance(value, (Every, Path, torch.device)):
        return str(value) == str(default) or (isinstance(value, torch.device) and default == "auto")
    plain = (bool, int, float, str, tuple, list, type(None))
    return isinstance(value, plain) and type(value) is type(default) and value == default
