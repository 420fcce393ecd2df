"""A callback that is made with an unknown argument."""

import copy
import inspect
import pickle
from abc import ABC
from dataclasses import dataclass

import pytest

from callbacks import (
    F1,
    MSE,
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    Metrics,
    Progress,
    TopKAccuracy,
    whole_pass,
)


class WithLimit(Callback):
    def __init__(this, limit, *, name=None):  # noqa: N805, the first argument may have any name
        super().__init__(name=name)
        this.limit = limit


@dataclass
class WithField(Callback):
    limit: int = 3


class Anything(Callback):
    def __init__(self, **settings):
        super().__init__()
        self.settings = settings


class Abstract(Callback, ABC):
    """A class of the user with another metaclass."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Checkpoint("runs", monitor="valid_loss"), "'monitor'. Did you mean best?"),
        (lambda: Checkpoint("runs", save_top_k=3), "'save_top_k'. Did you mean keep?"),
        (lambda: Checkpoint(dirpath="runs"), "'dirpath'. Did you mean folder?"),
        (lambda: EarlyStopping(patiense=3), "'patiense'. Did you mean patience?"),
        (lambda: EarlyStopping(metric="rmse"), "'metric'. Did you mean monitor?"),
        (lambda: GradientClip(max_grad_norm=1.0), "'max_grad_norm'. Did you mean max_norm?"),
        (lambda: GradientAccumulation(accumulation_steps=2), "Did you mean n_batches?"),
        (lambda: CSVLogger(filename="log.csv"), "'filename'. Did you mean path?"),
        (lambda: Metrics(metrics=[]), "Pass them by position, as in Metrics(first, second)."),
        (lambda: Progress(bar=False), "Available: plot, name."),
        (lambda: F1(avg="macro"), "F1() has no argument 'avg'. Did you mean average?"),
        (lambda: TopKAccuracy(top_k=3), "'top_k'. Did you mean k? Available: k, ignore_index."),
        (lambda: MSE(squared=False), "MSE() has no argument 'squared'. It takes no arguments."),
        (lambda: whole_pass(len, greater_is_better=True), "Did you mean higher_is_better?"),
        (lambda: WithLimit(1, limits=3), "WithLimit() has no argument 'limits'. Did you mean limit?"),
        (lambda: WithField(limits=3), "WithField() has no argument 'limits'. Did you mean limit?"),
        (
            lambda: EarlyStopping("valid_loss", 3),
            "EarlyStopping() takes 1 argument by position (monitor), but got 2. Pass the others by name: "
            "patience=..., min_delta=...,",
        ),
        (lambda: WithLimit(1, 2), "takes 1 argument by position (limit), but got 2. Pass the others by name"),
        (lambda: Anything(3), "Anything() takes 0 arguments by position, but got 1."),
        (lambda: Callback("mine"), "takes 0 arguments by position, but got 1. Pass the others by name: name"),
        (lambda: F1("macro", 2, 3, 4, 5), "F1() takes "),
        (lambda: MSE(1), "MSE() takes 0 arguments by position, but got 1."),
    ],
)
def test_an_unknown_argument_is_refused_with_the_one_that_was_meant(make, words):
    with pytest.raises(TypeError) as caught:
        make()
    assert words in str(caught.value)


def test_arguments_of_any_class_are_accepted():
    assert Anything(limits=3).settings == {"limits": 3}
    assert WithField(limit=4).limit == 4
    assert Abstract(name="other").name == "other"


def test_a_callback_is_copied_and_pickled_without_its_arguments():
    callback = WithLimit(3)
    assert copy.copy(callback).limit == copy.deepcopy(callback).limit == 3
    assert pickle.loads(pickle.dumps(callback)).limit == 3


def test_the_signature_is_that_of_the_constructor():
    assert list(inspect.signature(WithLimit).parameters) == ["limit", "name"]
    assert list(inspect.signature(Abstract).parameters) == ["name"]
