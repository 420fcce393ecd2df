"""Errors of batches are reported at the first batch, with a fix."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny import line_batches, notes
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import DevicePlacement, ZeroGrad
from learner import Data, Learner

SGD = partial(torch.optim.SGD, lr=0.01)


def learner_of(data, model=None, loss_func=F.mse_loss, **options) -> Learner:
    options.setdefault("defaults", (ZeroGrad,))
    return Learner(model or nn.Linear(1, 1), data, loss_func, SGD, **options)


class Pair(nn.Module):
    """A model of two inputs."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            torch.ones(4, 1),
            r"a batch is a tensor of shape \(4, 1\).*no targets.*Data\(\.\.\., split=function\)",
        ),
        ((torch.ones(4, 1),), r"a batch is a tuple of 1 \(a tensor.*no targets"),
        ((torch.ones(4, 1),) * 3, r"a batch is a tuple of 3 .*a tuple of 2 .*n_inputs=2"),
    ],
    ids=["tensor", "1-tuple", "3-tuple"],
)
@pytest.mark.parametrize("loss_func", [F.mse_loss, nn.MSELoss(), nn.CrossEntropyLoss()])
def test_a_batch_of_the_wrong_form_is_reported_with_its_form(batch, message, loss_func):
    with pytest.raises(TypeError, match=message):
        learner_of(Data([batch]), loss_func=loss_func).fit(1)


def test_a_mapping_goes_to_the_model_by_keyword_and_the_error_shows_that():
    with pytest.raises(TypeError, match="unexpected keyword") as caught:
        learner_of(Data([{"x": torch.ones(4, 1), "y": torch.ones(4, 1)}])).fit(1)
    assert "the model takes (input: torch.Tensor)" in notes(caught.value)
    assert "by keyword x, y" in notes(caught.value)
    assert "a dict with the keys 'x', 'y'" in notes(caught.value)
    assert "Data(..., targets='key')" in notes(caught.value)


def test_a_model_of_two_inputs_on_pairs_gets_a_hint_on_n_inputs():
    with pytest.raises(TypeError, match="missing 1 required positional argument") as caught:
        learner_of(Data(line_batches(1)), model=nn.Sequential(Pair())[0]).validate(line_batches(1))
    assert "the model takes (first: 'Tensor', second: 'Tensor')" in notes(caught.value)
    assert "received 1 positional argument" in notes(caught.value)
    assert "n_inputs=" in notes(caught.value)


def test_a_loss_function_that_fails_without_targets_is_reported_with_the_batch():
    with pytest.raises(TypeError) as caught:
        learner_of(Data([torch.ones(4, 1)]), loss_func=lambda preds, targets: (preds - targets).mean()).fit(1)
    assert "targets, None. The batch was a tensor of shape (4, 1)" in notes(caught.value)


def test_a_loss_without_targets_is_allowed():
    learner_of(Data([torch.ones(4, 1)]), loss_func=lambda preds, _: preds.square().mean()).fit(2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


@pytest.mark.parametrize(
    ("model", "shape", "path", "width"),
    [
        (
            Net(),
            (4, 3),
            "layer Linear at model.body.2",
            "(in_features=4), given input of shape (4, 8): it takes (..., 4)",
        ),
        (
            Net(),
            (4, 5),
            "layer Linear at model.body.0",
            "(in_features=3), given input of shape (4, 5): it takes (..., 3)",
        ),
        (
            nn.Conv2d(3, 8, 3),
            (4, 1, 8, 8),
            "the model, Conv2d",
            "(in_channels=3), given input of shape (4, 1, 8, 8): it takes (items, 3, ...)",
        ),
        (
            nn.BatchNorm1d(3),
            (4, 2),
            "the model, BatchNorm1d",
            "(num_features=3), given input of shape (4, 2): it takes (items, 3, ...)",
        ),
        (
            nn.LayerNorm((3, 2)),
            (4, 2),
            "the model, LayerNorm",
            "(normalized_shape=3, 2), given input of shape (4, 2): it takes (..., 3, 2)",
        ),
        (
            nn.LSTM(3, 2),
            (4, 2),
            "the model, LSTM",
            "(input_size=3), given input of shape (4, 1, 2): it takes (..., 3)",
        ),
    ],
    ids=["inner", "first", "conv", "batch norm", "layer norm", "lstm"],
)
def test_a_wrong_width_names_the_layer_and_both_widths(model, shape, path, width):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        learner_of(Data([(torch.ones(shape), torch.ones(4, 1))]), model=model).fit(1)
    assert f"in {path} {width}" in notes(caught.value)


@pytest.mark.parametrize(
    ("model", "dtype", "message"),
    [
        (nn.Linear(2, 1), torch.float64, "its weights are float32, input is float64; write input.float()"),
        (nn.Linear(2, 1), torch.int64, "its weights are float32, input is int64; write input.float()"),
        (nn.Linear(2, 1).double(), torch.float32, "write input.to(torch.float64)"),
        (nn.Embedding(5, 2), torch.float32, "it takes whole numbers, input is float32; write input.long()"),
    ],
    ids=["double", "whole", "single", "embedding"],
)
def test_inputs_of_another_dtype_are_reported_with_the_cast_to_write(model, dtype, message):
    with pytest.raises(RuntimeError) as caught:
        learner_of(Data([(torch.ones(4, 2, dtype=dtype), torch.ones(4, 1))]), model=model).fit(1)
    assert message in notes(caught.value)


def test_inputs_on_another_device_are_reported_with_the_callback_that_moves_them():
    model = nn.Linear(1, 1, device="meta")
    with pytest.raises(RuntimeError) as caught:
        learner_of(Data(line_batches(1)), model=model).fit(1)
    assert "its weights are on meta, input is on cpu; the callback DevicePlacement" in notes(caught.value)


def test_the_default_moves_batches_to_the_device():
    learn = learner_of(
        Data([(torch.ones(4, 1, device="cpu"),) * 2]), defaults=(ZeroGrad, DevicePlacement("cpu"))
    )
    learn.fit(1)
    assert learn.global_step == 1


class TwoByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, first, second):
        return self.layer(torch.cat([first, second], 1))


NAMED = {"first": torch.ones(4, 1), "second": torch.ones(4, 1)}


class OneOptional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, first, second=None):
        return self.layer(first)


def test_a_mapping_that_reaches_a_layer_gets_the_same_hint():
    with pytest.raises(TypeError) as caught:
        learner_of(Data([({"first": torch.ones(4, 1)}, torch.ones(4, 1))]), OneOptional()).fit(1)
    assert "Data(..., split=lambda batch: batch)" in notes(caught.value)


def test_a_mapping_beside_targets_gets_a_hint_on_the_split_that_passes_it_by_keyword():
    batch = [NAMED, torch.ones(4, 1)]
    with pytest.raises(TypeError) as caught:
        learner_of(Data([batch]), TwoByName()).fit(1)
    assert "Data(..., split=lambda batch: batch)" in notes(caught.value)
    learner_of(Data([batch], split=lambda batch: batch), TwoByName()).fit(1)


def test_a_batch_with_more_inputs_gets_a_hint_on_their_number():
    batch = torch.ones(4, 1), torch.ones(4, 1), torch.ones(4, 1)
    with pytest.raises(TypeError) as caught:
        learner_of(Data([batch]), TwoByName(), loss_func=lambda preds, *targets: preds.sum()).fit(1)
    assert "pass Data(..., n_inputs=2)." in notes(caught.value)


def test_a_data_set_of_mappings_is_split_by_the_keys_of_its_targets():
    rows = [{"first": torch.ones(1), "second": torch.ones(1), "price": torch.ones(1)}] * 4
    data = Data.from_datasets(rows, rows, batch_size=2, targets="price")
    inputs, targets = data.split(next(iter(data.valid)))
    assert list(inputs) == ["first", "second"]
    assert targets.shape == (4, 1)


@pytest.mark.parametrize("loader", [(torch.ones(4, 1), torch.ones(4, 1)), torch.ones(4, 1)])
def test_tensors_in_place_of_a_loader_are_refused_with_the_line_to_write(loader):
    learn = learner_of(Data([(torch.ones(4, 1), torch.ones(4, 1))]))
    with pytest.raises(
        TypeError, match=r"TensorLoader\(\(inputs, targets\), 64\); .* is \[\(inputs, targets\)\]"
    ):
        learn.validate(loader)


def test_a_data_object_in_place_of_a_loader_is_refused_with_its_two_loaders():
    learn = learner_of(Data([(torch.ones(4, 1), torch.ones(4, 1))]))
    with pytest.raises(
        TypeError, match=r"pass one of its two loaders, such as learn.data.train or learn.data.valid"
    ):
        learn.get_preds(learn.data)


def test_a_module_of_lightning_without_forward_gets_a_hint_on_what_to_move():
    class Lit(nn.Linear):
        forward = nn.Module.forward

        def training_step(self, batch, batch_idx):
            return batch

    with pytest.raises(NotImplementedError) as caught:
        learner_of(Data([(torch.ones(4, 1), torch.ones(4, 1))]), Lit(1, 1)).fit(1)
    text = notes(caught.value)
    assert (
        "write Lit.forward(inputs), which returns the predictions. Move what its training_step computes"
        in text
    )
