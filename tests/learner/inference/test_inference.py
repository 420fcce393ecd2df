"""Predictions for any input and any model leave no trace."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import TensorDataset

from callbacks import Callback, ZeroGrad
from learner import Data, Learner, TensorLoader
from learner.data.items import n_items_of
from learner.inference.one_item import to_cpu

Heads = namedtuple("Heads", "mean spread")


@dataclass
class Output:
    logits: torch.Tensor


class Model(nn.Module):
    """A linear layer with a wrapped output."""

    def __init__(self, wrap=lambda output: output):
        super().__init__()
        self.linear, self.wrap = nn.Linear(3, 1), wrap

    def forward(self, x):
        return self.wrap(self.linear(x))


def make(model=None, data=None):
    batches = [(torch.rand(n, 3), torch.rand(n, 1)) for n in (4, 2)]
    return Learner(model or Model(), data or Data(batches, batches), F.mse_loss, defaults=())


def test_a_prediction_is_the_models_output_in_evaluation_mode_without_a_graph():
    model = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.9), nn.BatchNorm1d(1))
    learn = make(model)
    x = torch.rand(5, 3)
    preds = learn.predict(x)
    assert model.training
    assert not preds.requires_grad
    assert torch.equal(preds, model.eval()(x))


@pytest.mark.parametrize(
    "inputs",
    [
        torch.rand(5, 3),
        np.random.default_rng(0).random((5, 3)),
        (torch.rand(5, 3),),
        [torch.rand(5, 3)],
        {"x": torch.rand(5, 3)},
        UserDict(x=torch.rand(5, 3)),
    ],
    ids=["tensor", "array", "tuple", "list", "dict", "user dict"],
)
def test_inputs_of_every_kind_are_predicted(inputs):
    assert make().predict(inputs).shape == (5, 1)


def test_predict_skips_the_split_and_drops_the_keys_of_targets():
    x, y = torch.rand(4, 3), torch.rand(4, 1)
    for data in (
        Data([{"x": x, "y": y}], targets="y"),
        Data([Output(x)], split=lambda batch: (batch.logits, y)),
    ):
        learn = make(data=data)
        expected = learn.predict(x)
        assert torch.equal(expected, learn.predict({"x": x}))
        assert torch.equal(expected, learn.predict({"x": x, "y": y}) if data.target_keys else expected)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        (3, TypeError, r"predict got 3: pass a tensor of shape \(items, \.\.\.\)"),
        (None, TypeError, "predict got None"),
        ([[1.0, 2.0], [3.0]], ValueError, "which is not an array: expected sequence of length 2"),
        (
            (torch.rand(5, 3), torch.rand(5, 1)),
            ValueError,
            r"so 2 inputs, but the model takes 1 \(Data\(n_inputs=1\)\): pass the inputs without",
        ),
        (torch.tensor(1.0), ValueError, "without dimensions"),
        (torch.rand(0, 3), ValueError, "no items"),
    ],
    ids=["number", "None", "ragged list", "with targets", "no dimensions", "no items"],
)
def test_invalid_inputs_of_predict_are_refused(inputs, error, words):
    with pytest.raises(error, match=words):
        make().predict(inputs)


def test_predictions_over_a_loader_are_joined_in_order_with_their_targets():
    learn = make()
    preds, targets = learn.get_preds()
    assert torch.equal(targets, torch.cat([y for _, y in learn.data.valid]))
    assert torch.equal(preds, torch.cat([learn.predict(x) for x, _ in learn.data.valid]))
    preds, _ = learn.get_preds(TensorLoader((torch.rand(7, 3), torch.rand(7, 1)), 3))
    assert preds.shape == (7, 1)


@pytest.mark.parametrize(
    ("wrap", "parts"),
    [
        (lambda output: (output, [output]), lambda preds: (preds[0], preds[1][0])),
        (lambda output: {"a": output}, lambda preds: (preds["a"],)),
        (lambda output: Heads(output, output.sum()), lambda preds: (preds.mean,)),
        (lambda output: UserDict(a=output), lambda preds: (preds["a"],)),
    ],
    ids=["tuple", "dict", "named tuple", "user dict"],
)
def test_outputs_of_every_kind_are_joined_part_by_part(wrap, parts):
    preds, _ = make(Model(wrap)).get_preds()
    assert all(part.shape == (6, 1) for part in parts(preds))


def test_an_empty_loader_and_missing_validation_data_are_refused():
    with pytest.raises(ValueError, match="the loader has no batches"):
        make().get_preds([])
    learn = make(data=Data([(torch.rand(4, 3), torch.rand(4, 1))]))
    for measure in (learn.get_preds, learn.validate):
        with pytest.raises(
            ValueError, match=r"there is no validation data: pass a loader, as in learn\.validate"
        ):
            measure()


@pytest.mark.parametrize("loader", [TensorDataset(torch.rand(4, 3)), (torch.rand(4, 3), torch.rand(4, 1)), 3])
def test_an_invalid_loader_is_refused_before_the_pass(loader):
    for measure in (make().get_preds, make().validate):
        with pytest.raises(TypeError, match=r"the loader is .*(from_datasets|TensorLoader|pass an iterable)"):
            measure(loader)


def test_a_generator_function_is_accepted_as_a_loader():
    def batches():
        yield torch.rand(2, 3), torch.rand(2, 1)

    assert make().get_preds(batches)[0].shape == (2, 1)


def test_a_prediction_during_a_batch_restores_everything():
    seen = []

    class Predicts(Callback):
        def after_pred(self, learn):
            if not learn.training or seen:
                return
            seen.append(True)
            before = learn.batch, learn.inputs, learn.targets, learn.preds
            learn.predict(torch.rand(2, 3))
            learn.get_preds()
            assert all(one is other for one, other in zip(before, kept(learn), strict=True))
            assert learn.training
            assert learn.model.training

    def kept(learn):
        return learn.batch, learn.inputs, learn.targets, learn.preds

    data = Data([(torch.rand(4, 3), torch.rand(4, 1))] * 2, [(torch.rand(4, 3), torch.rand(4, 1))])
    learn = Learner(Model(), data, F.mse_loss, torch.optim.SGD, [Predicts], defaults=(ZeroGrad,))
    learn.fit(1)
    assert seen
    assert learn.global_step == 2


def test_outputs_of_every_kind_are_moved_to_the_cpu():
    packed = pack_sequence([torch.ones(3, 2, requires_grad=True)])
    output = to_cpu({"a": (torch.ones(1, requires_grad=True), None, "text"), "b": packed})
    assert not output["a"][0].requires_grad
    assert output["a"][1:] == (None, "text")
    assert output["b"].data.device.type == "cpu"


@pytest.mark.parametrize(
    ("inputs", "targets", "n_items"),
    [
        ((torch.rand(5, 3),), None, 5),
        ({"scale": torch.tensor(2.0), "x": [torch.rand(4, 3), torch.rand(2, 3)]}, None, 2),
        (UserDict(x=torch.rand(4, 3)), None, 4),
        (("text",), torch.rand(3), 3),
        ((pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]),), torch.rand(2), 2),
        ((Output(torch.rand(6, 1)),), None, 6),
        (("text",), None, 1),
    ],
    ids=["tuple", "mapping", "user dict", "targets", "packed", "data class", "none"],
)
def test_items_are_counted_in_batches_of_every_kind(inputs, targets, n_items):
    assert n_items_of(inputs, targets) == n_items


def test_a_packed_sequence_is_predicted():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(3, 1)

        def forward(self, packed):
            return self.layer(packed)[1][0]

    packed = pack_sequence([torch.rand(3, 3), torch.rand(2, 3)])
    learn = make(Reads(), Data([(packed, torch.rand(2, 1))]))
    assert learn.predict(packed).shape == (2, 1)


class Points:
    """A batch of an own class, as those of graphs are."""

    def __init__(self, positions):
        self.positions = positions

    def __len__(self):
        return len(self.positions)


def test_a_batch_of_an_own_class_is_predicted_and_a_list_of_them_refused():
    class OfPoints(nn.Linear):
        def forward(self, points):
            return super().forward(points.positions)

    batches = [(Points(torch.rand(4, 2)), torch.rand(4, 1))]
    learn = Learner(OfPoints(2, 1), Data(batches), F.mse_loss, torch.optim.SGD, defaults=())
    points = Points(torch.rand(3, 2))
    assert torch.equal(learn.predict(points), learn.model(points))
    with pytest.raises(TypeError, match=r"a list of 2 .*: pass the inputs of one batch as the model takes"):
        learn.predict([points, points])
    with pytest.raises(TypeError) as caught:
        learn.predict({"positions": points.positions})
    assert "pass its inputs in a tuple, or by keyword in a mapping" in str(caught.value.__notes__)
