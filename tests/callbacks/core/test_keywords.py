"""A callback that is made with an unknown argument, or with a value that its type does not list."""

import copy
import enum
import inspect
import pickle
from abc import ABC
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import callbacks
from callbacks import (
    F1,
    MSE,
    SAM,
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


OURS = [each for each in vars(callbacks).values() if isinstance(each, type) and issubclass(each, Callback)]
FLAGS = [
    (kind, name)
    for kind in OURS
    for name, parameter in inspect.signature(kind).parameters.items()
    if str(parameter.annotation).startswith("bool")
]


@pytest.mark.parametrize(("kind", "flag"), FLAGS)
@pytest.mark.parametrize("value", ["no", 2, [], torch.zeros(2), np.ones(2)], ids=repr)
def test_a_flag_must_be_true_or_false(kind, flag, value):
    with pytest.raises(TypeError, match=rf"{kind.__name__}\({flag}=(.|\n)*: {flag} must be True"):
        kind(**{flag: value})


@pytest.mark.parametrize("value", [False, 0, np.False_, np.bool_(False), torch.tensor(False)], ids=repr)
def test_a_flag_may_be_what_equals_true_or_false(value):
    assert not EarlyStopping("valid_loss", restore_best=value).restore_best
    assert not SAM(adaptive=value).adaptive


def test_a_choice_may_be_a_member_of_an_enum():
    class Pass(enum.StrEnum):
        TRAIN = "train"

    assert Metrics(MSE(), on=Pass.TRAIN).on == "train"


class Passing(SAM):
    def __init__(self, **settings):
        super().__init__(**settings)


def test_a_subclass_that_passes_its_arguments_on_has_the_same_flags():
    assert Passing(adaptive=True).adaptive
    with pytest.raises(TypeError, match=r"Passing.adaptive='no'.: adaptive must be True or False"):
        Passing(adaptive="no")


class WithFlag(Callback):
    def __init__(self, *, plot: bool = False):
        super().__init__()
        self.plot = plot


def test_the_flags_of_a_users_callback_are_not_checked():
    assert WithFlag(plot="later").plot == "later"
