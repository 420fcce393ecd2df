"""What other frameworks call what a Learner has, and where what it lacks is found."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

import callbacks
from callbacks import Callback
from callbacks.core.foreign_names import PLUGIN_WORDS, meant_instead

T = TypeVar("T")

#: Names that one would import from `learner`.
PACKAGE_WORDS = {
    "DataBlock": "Data",
    "DataLoaders": "Data",
    "ImageDataLoaders": "Data",
    "LightningDataModule": "Data",
    "LightningModule": "a plain nn.Module, passed to Learner",
    "Recipe": "from learner.recipes.recipe import load_recipe",
    "TabularDataLoaders": "Data",
    "Trainer": "Learner",
    "article": "from learner.datasets import article",
    "body_and_head": "from learner.groups import body_and_head",
    "by_children": "from learner.groups import by_children",
    "diabetes": "from learner.datasets import diabetes",
    "digits": "from learner.datasets import digits",
    "learner_to_recipe": "from learner.recipes.writer import learner_to_recipe",
    "load_recipe": "from learner.recipes.recipe import load_recipe",
    "set_seed": "seed_everything",
}

#: Attributes that one would look for on a Learner.
LEARNER_WORDS = {
    "add_callback": "add_callbacks",
    "add_cb": "add_callbacks",
    "add_cbs": "add_callbacks",
    "added_cbs": "added",
    "callback_metrics": "results, or history",
    "cbs": "callbacks",
    "compile": "the plug-in Compile()",
    "cpu": "the plug-in DevicePlacement('cpu')",
    "cuda": "the plug-in DevicePlacement('cuda')",
    "current_epoch": "epoch",
    "dataloaders": "data",
    "dl": "data.train or data.valid",
    "dls": "data",
    "eval": "validate() or model.eval()",
    "evaluate": "validate",
    "export": "save(path), or torch.export of copy.deepcopy(learn.model).eval()",
    "fit_onecycle": "fit_one_cycle",
    "iter": "batch_idx",
    "load_state_dict": "restore(snapshot) or load(path)",
    "log": "results['name'] = value, in a plug-in",
    "logged_metrics": "results, or history",
    "losses": "history.steps['train_loss']",
    "loss_fn": "loss_func",
    "lr": "optimizer.param_groups[0]['lr']",
    "lr_finder": "lr_find",
    "lrs": "history.steps['lr']",
    "max_epochs": "n_epochs",
    "n_epoch": "n_epochs",
    "n_iter": "n_batches",
    "no_bar": "without(Progress), as `with learn.without(Progress):`",
    "num_training_batches": "n_batches",
    "opt": "optimizer",
    "opt_func": "optimizer",
    "optimizers": "optimizer",
    "parameters": "model.parameters()",
    "pl_module": "model",
    "plot_loss": "history.plot()",
    "plot_lr_find": "lr_find().plot()",
    "pred": "preds",
    "recorder": "history",
    "remove_callback": "remove_callbacks",
    "remove_cb": "remove_callbacks",
    "remove_cbs": "remove_callbacks",
    "save_checkpoint": "save(path), or the plug-in Checkpoint",
    "should_stop": "stop('why')",
    "show_results": "get_preds(), and a drawing of your own",
    "show_training_loop": "explain",
    "state_dict": "snapshot() or save(path)",
    "summary": "check()",
    "test": "validate(loader)",
    "to": "the plug-in DevicePlacement('cuda')",
    "to_bf16": "the plug-in MixedPrecision('bf16')",
    "to_channelslast": "the plug-in ChannelsLast()",
    "to_onnx": "torch.onnx.export of copy.deepcopy(learn.model).eval()",
    "to_torchscript": "torch.export of copy.deepcopy(learn.model).eval()",
    "to_fp16": "the plug-in MixedPrecision('fp16')",
    "train": "fit(n_epochs)",
    "train_dataloader": "data.train",
    "train_iter": "global_step",
    "val_dataloaders": "data.valid",
    "xb": "inputs",
    "yb": "targets",
}


def meant_of_package(name: str, ours: Iterable[str]) -> str | None:
    """What to take in place of `learner.<name>`; None for a module, or where nothing can be told for sure."""
    if name.startswith("_") or find_spec(f"learner.{name}"):  # a module, yet to be imported
        return None
    if name in callbacks.__all__:
        return f"from callbacks import {name}"
    if name in PACKAGE_WORDS:
        return PACKAGE_WORDS[name]
    return meant_instead(name, ours, {}) or meant_instead(name, callbacks.__all__, PLUGIN_WORDS)


class Elsewhere:
    """What a Learner does not have, though one would look for it there: says what it is called here.

    `hasattr` is False, and a subclass or an instance may have an attribute of that name. A `__getattr__`
    would answer for any name, but CPython 3.11 reads every attribute the slow way where a class has one: a
    step of the loop took 1.5 us more.
    """

    def __init__(self, name: str, meant: str):
        self.name, self.meant = name, meant

    def __get__(self, learn: Any, owner: type) -> NoReturn:
        raise AttributeError(no_such_attribute(learn, owner, self.name, self.meant), name=self.name)

    def __repr__(self) -> str:
        return f"not here, but {self.meant}"


def tells_other_words(owner: type[T]) -> type[T]:
    """A class decorator: who asks for an attribute by another name, as fastai has it, is told ours."""
    for name, meant in {**plugin_words(), **LEARNER_WORDS}.items():
        if not hasattr(owner, name):
            setattr(owner, name, Elsewhere(name, meant))
    return owner


def no_such_attribute(learn: Any, owner: type, name: str, meant: str) -> str:
    """The message for an attribute that learners do not have."""
    if name in getattr(learn, "callbacks", ()) and name not in LEARNER_WORDS:
        meant = f"learn.callbacks.{name}, where plug-ins are"
    return f"{owner.__name__} has no {name!r}. Did you mean {meant}?"


def slip_note(error: BaseException, learn: Any) -> str | None:
    """What was meant where a hook asks a learner for what it does not have; None for any other error."""
    if not isinstance(error, AttributeError) or error.obj is not learn or not error.name:
        return None
    if error.name in learn.callbacks:
        return f"plug-ins are in learn.callbacks: write learn.callbacks.{error.name}"
    close = get_close_matches(error.name, [each for each in dir(learn) if each[0] != "_"], n=1, cutoff=0.7)
    return f"did you mean learn.{close[0]}?" if close else None


def plugin_words() -> dict[str, str]:
    """A plug-in's name as an attribute, as fastai has it: `learn.early_stopping`."""
    plugins = [
        each for each in vars(callbacks).values() if isinstance(each, type) and issubclass(each, Callback)
    ]
    return {
        each.name: f"the plug-in {each.__name__}(), which is not among learn.callbacks" for each in plugins
    }
