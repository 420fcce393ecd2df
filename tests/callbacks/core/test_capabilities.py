"""What a callback declares: its phase, its capabilities, its state, and the form of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ground.defining import define

from callbacks import Callback, Callbacks, Order, Recorder

# Declared attributes


def test_phases_run_in_the_documented_order():
    names = ["PREPARE", "TRANSFORM", "GRADIENT", "MEASURE", "REPORT", "DECIDE", "SAVE"]
    assert [phase.name for phase in sorted(Order)] == names


def test_a_callback_reads_gradients_and_has_no_other_capability_by_default():
    plain = define("after_epoch", lambda self, learn: None)
    switches = {name: value for name, value in vars(Callback).items() if isinstance(value, bool)}
    assert [name for name in switches if getattr(plain, name)] == ["reads_gradients"]


def test_an_operation_is_surrounded_by_nothing_by_default(make_learner):
    class Surrounds(Callback):
        surrounds = ("forward",)

    make_learner(callbacks=[Surrounds()]).fit(1)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("state", "best", r"Mine\.state = 'best': write it as a tuple of attributes' names"),
        ("state", ("best", 3), "tuple of attributes' names"),
        ("state", {"best": 1}, "tuple of attributes' names"),
        ("needs", Recorder, r"Mine\.needs = .*needs = \(Recorder,\)"),
        ("surrounds", ("forwrad",), r"Mine\.surrounds = \('forwrad',\): write it as a tuple of operations"),
        ("surrounds", 3, r"Mine\.surrounds = 3: write it as a tuple of operations"),
        ("needs", ("Recorder",), "tuple of callback classes"),
        ("order", 60, r"Mine\.order = 60: write it as a phase, as order = Order\.MEASURE"),
        ("order", "MEASURE", "a phase"),
        ("measures", ("valid_score",), "a dict to 'min', 'max' or None"),
        ("measures", {"valid_score": "bigger"}, "a dict to 'min', 'max' or None"),
        ("name", 3, "a string"),
        ("name", lambda self: "x", "a string"),
        ("state", lambda self: ("x",), "a tuple of attributes' names"),
    ],
)
def test_attributes_in_another_form_than_the_contracts_are_refused(attribute, value, words):
    with pytest.raises(TypeError, match=words):
        define(attribute, value)


def test_a_property_may_return_an_attribute_later():
    class Mine(Callback):
        @property
        def state(self):
            return ("best",)

    Mine.state  # noqa: B018


def test_state_may_name_a_property_without_a_setter_if_the_class_loads_it_itself():
    class Mine(Callback):
        state = ("total",)
        parts = (1, 2)

        @property
        def total(self):
            return sum(self.parts)

        def load_state_dict(self, state):
            self.parts = (state["total"],)

    one, other = Mine(), Mine()
    other.parts = (5,)
    one.load_state_dict(other.state_dict())
    assert one.total == 5


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "n=3"),
        (None, "n=None"),
        ("x", "n='x'"),
        (Path("x"), f"n={Path('x')!r}"),
        ((1, 2, 3, 4), "n=(1, 2, 3, 4)"),
        ([1, ("a", None)], "n=[1, ('a', None)]"),
        ((1, 2, 3, 4, 5), ""),
        ((1, torch.ones(2)), ""),
        (torch.ones(2), ""),
        ({"a": 1}, ""),
    ],
)
def test_repr_shows_the_settings_that_fit_in_a_line(value, shown):
    callback = Callback()
    callback.n = value
    callback._private = 1
    assert repr(callback) == f"Callback({shown})"


def test_repr_shows_settings_without_state():
    class Mine(Callback):
        state = ("best",)

    mine = Mine()
    mine.n, mine.best, mine.mode = 3, 0.5, "min"
    assert repr(mine) == "Mine(n=3, mode='min')"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("EarlyStopping", "early_stopping"),
        ("LogRMSE", "log_rmse"),
        ("R2", "r2"),
        ("RMSEPlot", "rmse_plot"),
        ("MeanIoU", "mean_iou"),
    ],
)
def test_the_name_of_a_callback_is_that_of_its_class_in_snake_case(title, name):
    assert type(title, (Callback,), {}).name == name


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("oder", Order.SAVE, "order"),
        ("ORDER", Order.SAVE, "order"),
        ("measure", {"score": "max"}, "measures"),
        ("state_", ("n",), "state"),
        ("need", (Callback,), "needs"),
        ("surround", ("forward",), "surrounds"),
        ("surounds", ["forward"], "surrounds"),
        ("read_gradients", False, "reads_gradients"),
    ],
)
def test_a_misspelt_attribute_of_the_contract_is_refused(name, value, meant):
    with pytest.raises(TypeError, match=rf"Mine\.{name} .*Did you mean {meant}\?"):
        type("Mine", (Callback,), {name: value})
    mixin = type("Mixin", (), {name: value})
    with pytest.raises(TypeError, match=rf"Mine\.{name}"):
        type("Mine", (mixin, Callback), {})


def test_users_attributes_that_look_like_the_contracts_are_not_refused():
    class Mine(Callback):
        states = ("idle", "busy")
        names = ("a", "b")
        orders = 3
        stats = ("mean", "std")
        _order = Order.SAVE
        need = ()

        def after_batch(self, learn):
            return list(self.states)

    class ByName(Callback):
        states = ("idle", "busy")

        def after_batch(self, learn):
            return getattr(self, "states")  # noqa: B009 - by name, on purpose

    class Sub(Mine):
        """A subclass whose base uses the names."""

        states = ("done",)

    class InProperty(Callback):
        states = ("idle", "busy")

        @property
        def n_states(self):
            return len(self.states)

    class InLambda(Callback):
        states = ("idle", "busy")

        def after_batch(self, learn):
            return lambda: self.states

    assert Callbacks([Mine(), ByName(), Sub(), InProperty(), InLambda()])


def test_reads_gradients_is_true_or_false():
    with pytest.raises(TypeError, match="reads_gradients = 0: write it as True or False"):
        type("Mine", (Callback,), {"reads_gradients": 0})


def test_an_operation_that_a_callback_yields_is_left_to_another_one(make_learner):
    class Yielding(Callback):
        yields = ("forward",)

        def forward(self, learn):
            raise AssertionError("it is left to the other callback")

    class Doubled(Callback):
        def forward(self, learn):
            learn.preds = 2 * learn.model(*learn.inputs)

    learn = make_learner(callbacks=[Yielding, Doubled])
    learn.fit(1)
    assert type(learn.callbacks.overrides["forward"]) is Doubled
