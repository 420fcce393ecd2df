"""The table of the layers of a model."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learner import Learner

SGD = partial(torch.optim.SGD, lr=0.1)


class Network(nn.Module):
    """A model with a shared, a tied, a frozen, an unused and a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.shared, self.tied, self.idle = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(2, 2)
        self.tied.weight, self.tied.bias = self.shared.weight, self.shared.bias
        self.recurrent, self.head = nn.LSTM(36, 3, batch_first=True), nn.Linear(3, 2)
        self.head.requires_grad_(False)

    def forward(self, x):
        x = self.tied(self.shared(self.shared(self.body(x).flatten(2))))
        return self.head(self.recurrent(x)[0][:, -1])


class LongName(nn.Module):
    """A model with a layer whose name does not fit."""

    def __init__(self):
        super().__init__()
        self.a_name_that_is_so_long_that_no_table_has_room_for_it = nn.Linear(3, 2)

    def forward(self, x):
        return self.a_name_that_is_so_long_that_no_table_has_room_for_it(x)


class Words(nn.Module):
    """A model from a mapping to a mapping."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 2)

    def forward(self, tokens, labels=None):
        return {"mean": self.words(tokens).mean(1)}


def learner_of(model, inputs) -> Learner:
    return Learner(model, ([(inputs, torch.rand(len(inputs), 2))], None), F.mse_loss, SGD)


def test_each_layer_has_its_output_shape_parameters_and_operations():
    learn = learner_of(Network(), torch.rand(4, 1, 8, 8))
    found = learn.summary()
    layers = {layer.name: layer for layer in found.layers}
    assert layers["body.0"].shapes == [(4, 2, 6, 6)]
    assert layers["body.0"].n_parameters == 20
    assert layers["body.0"].flops == 2 * 4 * 2 * 36 * 9
    assert (layers["shared"].n_calls, layers["shared"].flops) == (2, 2 * 2 * 4 * 2 * 36 * 36)
    assert (layers["tied"].is_shared, layers["tied"].n_parameters) == (True, 0)
    assert layers["recurrent"].shapes[0] == (4, 2, 3)
    assert layers["head"].is_frozen
    assert layers["idle"].n_calls == 0
    assert found.n_parameters == sum(each.numel() for each in learn.model.parameters())
    assert found.n_parameters == sum(layer.n_parameters for layer in found.layers)
    assert found.n_parameters - found.n_trained == 8
    assert found.flops == sum(layer.flops for layer in found.layers)
    assert found.n_items == 4


def test_the_table_fits_80_columns_with_long_names():
    shown = repr(learner_of(LongName(), torch.rand(4, 3)).summary())
    assert max(map(len, shown.splitlines())) < 80
    assert "a_name_that_is_so_long_that_no_... 4x2" in shown


def test_the_first_parts_of_a_long_name_are_shortened():
    layer = nn.TransformerEncoderLayer(2, 1, 4, batch_first=True)
    model = nn.Sequential()
    model.add_module("encoder_of_sentences", nn.ModuleList([layer]))
    model.forward = lambda x: layer(x).mean(1)
    shown = repr(learner_of(model, torch.rand(4, 3, 2)).summary())
    assert "\ne.0.self_attn MultiheadAttention" in shown
    assert "\nencoder_of_sentences.0.norm1 Lay" not in shown


def test_weights_buffers_modes_random_states_and_hooks_stay_as_they_are():
    learn = learner_of(Network(), torch.rand(4, 1, 8, 8))
    learn.model.body.eval()
    modes = [each.training for each in learn.model.modules()]
    state, weights = torch.get_rng_state(), copy.deepcopy(learn.model.state_dict())
    learn.summary()
    assert modes == [each.training for each in learn.model.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in learn.model.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in learn.model.modules())


def test_lazy_layers_are_shown_and_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Linear(5, 2))
    learn = learner_of(model, torch.rand(4, 3))
    assert [layer.n_parameters for layer in learn.summary().layers] == [20, 10, 12]
    assert learn.model is model
    assert isinstance(model[0], nn.LazyLinear)


def test_a_mapping_of_inputs_and_a_compiled_model_are_shown():
    def loss_func(preds, targets):
        return F.mse_loss(preds["mean"], targets)

    batch = {"tokens": torch.randint(9, (4, 5)), "labels": torch.rand(4, 2)}
    found = Learner(Words(), ([batch], None), loss_func, SGD).summary()
    assert [(layer.name, layer.shapes) for layer in found.layers] == [("words", [(4, 5, 2)])]
    compiled = torch.compile(nn.Sequential(nn.Linear(3, 2)), backend="eager")
    found = learner_of(compiled, torch.rand(4, 3)).summary()
    assert [(layer.name, layer.shapes) for layer in found.layers] == [("0", [(4, 2)])]


def test_inputs_can_be_passed():
    assert learner_of(nn.Linear(3, 2), torch.rand(4, 3)).summary(torch.rand(7, 3)).n_items == 7


def test_a_shape_instead_of_inputs_is_refused_and_every_line_fits_80_columns():
    data = [(torch.rand(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))]
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(2048, 10)
    learn = Learner(nn.Sequential(*layers), (data, data), F.cross_entropy, SGD)
    with pytest.raises(TypeError, match=r"pass a batch, such as torch\.randn\(4, 3, 16, 16\)"):
        learn.summary((4, 3, 16, 16))
    assert max(map(len, str(learn.summary()).splitlines())) <= 80
