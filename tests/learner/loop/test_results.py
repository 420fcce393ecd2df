"""Values that a callback writes to `learn.results` become plain numbers without a graph."""

from __future__ import annotations

import copy
import csv
import json
import weakref
from collections import OrderedDict
from decimal import Decimal
from functools import partial
from math import nan as NAN
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, JSONLines, Order
from learner import Data, Learner

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
BATCHES = list(zip(X.split(4), X.sum(1, keepdim=True).split(4), strict=True))


class Writes(Callback):
    """A callback that writes a value in a given event and in a given way."""

    order = Order.MEASURE
    measures = {"aux": "min"}  # noqa: RUF012

    def __init__(self, make, write=lambda results, value: results.update(aux=value)):
        super().__init__()
        self.make, self.write = make, write

    def after_train(self, learn):
        weight = next(learn.model.parameters())
        self.write(learn.results, self.make(weight.square().sum() * 0 + 2.5))


def fit(*callbacks, n_epochs=2, **options):
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.05)
    learn = Learner(nn.Linear(3, 1), Data(BATCHES), F.mse_loss, optimizer, callbacks, **options)
    learn.fit(n_epochs)
    return learn


VALUES = {
    "a tensor with a graph": (lambda total: total, 2.5),
    "a tensor of one element": (lambda total: total.reshape(1, 1), 2.5),
    "a tensor of several": (lambda total: torch.stack([total, total]), [2.5, 2.5]),
    "half precision": (lambda total: total.half(), 2.5),
    "a count": (lambda total: torch.tensor(3), 3),
    "a truth": (lambda total: torch.tensor(True), True),
    "a number of NumPy": (lambda total: np.float32(2.5), 2.5),
    "an array of NumPy": (lambda total: np.ones((1,)), 1.0),
    "a list of tensors": (lambda total: [total, {"x": total}], [2.5, {"x": 2.5}]),
    "an ordered dict": (lambda total: OrderedDict(x=total), {"x": 2.5}),
    "a dict that shows another": (lambda total: MappingProxyType({"x": [total]}), {"x": [2.5]}),
    "a named tuple": (lambda total: torch.max(total.reshape(1, 1), 0), (2.5, 0)),
    "a nested tensor": (
        lambda total: torch.nested.nested_tensor([total.reshape(1)] * 2, layout=torch.jagged),
        [2.5, 2.5],
    ),
    "no numbers": (lambda total: torch.ones(2, device="meta"), [NAN, NAN]),
    "a decimal": (lambda total: Decimal("2.5"), 2.5),
    "a number": (lambda total: 2.5, 2.5),
    "a text": (lambda total: "good", "good"),
}
PLAIN = {float, int, bool, str, list, tuple, dict}


@pytest.mark.parametrize("name", VALUES)
def test_results_are_plain_numbers_in_the_history_and_in_files(name, tmp_path):
    make, wanted = VALUES[name]
    learn = fit(Writes(make), CSVLogger(tmp_path / "a.csv"), JSONLines(tmp_path / "a.json"))
    assert [str(row["aux"]) for row in learn.history] == [str(wanted)] * 2  # NaN does not equal itself
    assert {type(row["aux"]) for row in learn.history} <= PLAIN
    with (tmp_path / "a.csv").open() as file:
        assert [row["aux"] for row in csv.DictReader(file)] == [str(wanted)] * 2
    if type(wanted) is float:  # JSONLines writes numbers alone
        lines = [json.loads(line) for line in (tmp_path / "a.json").read_text().splitlines()]
        assert [line["aux"] for line in lines if "aux" in line] == [wanted] * 2


WAYS = {
    "by name": lambda results, value: results.__setitem__("aux", value),
    "by |=": lambda results, value: results.__ior__({"aux": value}),
    "by setdefault": lambda results, value: results.setdefault("aux", value),
    "by update with a keyword": lambda results, value: results.update(aux=value),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_of_writing_does_not_matter(name):
    assert [row["aux"] for row in fit(Writes(lambda total: total, WAYS[name])).history] == [2.5, 2.5]


class Replaces(Callback):
    order = Order.MEASURE

    def after_train(self, learn):
        learn.results = {**learn.results, "aux": learn.loss_grad.sum() * 0 + 1}


def test_a_dict_assigned_to_the_results_is_treated_as_the_results():
    learn = fit(Replaces())
    assert [row["aux"] for row in learn.history] == [1.0, 1.0]
    assert all(type(value) in PLAIN for row in learn.history for value in row.values())


def test_the_results_hold_no_graph():
    held = []

    def make(total):
        held.append(weakref.ref(total))
        return total

    fit(Writes(make))
    assert [each() for each in held] == [None, None]


def test_results_that_are_tensors_can_be_monitored_and_resumed(tmp_path):
    stopping = EarlyStopping("aux", patience=1, mode="min")
    saving = Checkpoint(tmp_path / "run", best="aux", mode="min")
    learn = fit(Writes(lambda total: total), stopping, saving, n_epochs=5)
    assert len(learn.history) == 2
    assert learn.callbacks[Checkpoint].best == 2.5
    state = learn.snapshot()
    learn.restore(state)
    assert dict(copy.deepcopy(learn.results)) == dict(learn.results) == {**learn.results}


def test_validate_returns_a_plain_dict():
    learn = fit(Writes(lambda total: total))
    assert type(learn.validate(BATCHES)) is dict
