"""What other frameworks call what a Learner has, and where what it lacks is found."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import callbacks
from callbacks import Callback
from callbacks.other_words import PLUGIN_WORDS, meant_instead, no_such_name

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
    "seed_everything": "torch.manual_seed(1), and Data.from_tensors(..., seed=1)",
    "set_seed": "torch.manual_seed(1), and Data.from_tensors(..., seed=1)",
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
    "export": "save(path), or torch.export of learn.model",
    "fit_onecycle": "fit_one_cycle",
    "iter": "batch_idx",
    "load_state_dict": "restore(snapshot) or load(path)",
    "log": "results['name'] = value, in a plug-in",
    "logged_metrics": "results, or history",
    "losses": "history.steps['train_loss']",
    "loss_fn": "loss_func",
    "lr": "optimizer.param_groups[0]['lr']",
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


def no_such_attribute(learn: Any, name: str) -> str:
    """The message for an attribute that a learner does not have."""
    title = type(learn).__name__
    if name in vars(learn).get("_callbacks", ()) and name not in LEARNER_WORDS:
        return f"{title} has no {name!r}. Plug-ins are in learn.callbacks: write learn.callbacks.{name}."
    ours = [each for each in dir(learn) if not each.startswith("_")]
    return no_such_name(title, name, ours, {**plugin_words(), **LEARNER_WORDS})


def plugin_words() -> dict[str, str]:
    """A plug-in's name as an attribute, as fastai has it: `learn.early_stopping`."""
    plugins = [
        each for each in vars(callbacks).values() if isinstance(each, type) and issubclass(each, Callback)
    ]
    return {
        each.name: f"the plug-in {each.__name__}(), which is not among learn.callbacks" for each in plugins
    }
