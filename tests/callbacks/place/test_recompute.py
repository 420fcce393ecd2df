"""ActivationCheckpointing: the bits of a fit without it, in less memory, and a model as it was afterwards."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from callbacks import (
    EMA,
    SAM,
    ActivationCheckpointing,
    GradientAccumulation,
    LeanStep,
    Metrics,
    MixedPrecision,
    Recorder,
    ZeroGrad,
    on,
)
from learner import Data, Learner
from learner.tools.live_bytes import LiveBytes

QUIET = (ZeroGrad, Metrics, Recorder)
N_ITEMS = 64


class Block(nn.Module):
    """A layer with dropout, buffers of batch norm and of a spectral norm, and a keyword."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.first, self.norm = spectral_norm(nn.Linear(width, 4 * width)), nn.BatchNorm1d(4 * width)
        self.dropout, self.second = nn.Dropout(0.3), nn.Linear(4 * width, width)

    def forward(self, x, *, scale=1.0):
        return x + scale * self.second(self.dropout(F.gelu(self.norm(self.first(x)))))


class Net(nn.Module):
    def __init__(self, n_blocks: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(n_blocks))
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return self.head(x)


def batches(n: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(N_ITEMS, 16, generator=generator) for _ in range(n)]
    return [(each, each.sum(1, keepdim=True)) for each in pairs]


def make(*callbacks) -> Learner:
    torch.manual_seed(0)
    data = Data(batches(), batches(1))
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    return Learner(Net(), data, F.mse_loss, optimizer, callbacks, defaults=QUIET)


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "layers", ["layers.*", "Block", ["layers.0", "layers.2"], "model", "layers.1.norm"], ids=str
)
def test_a_fit_has_the_bits_of_one_without(layers):
    plain = make()
    plain.fit(2)
    checkpointed = make(ActivationCheckpointing(layers))
    checkpointed.fit(2)
    assert same(plain.model, checkpointed.model)
    assert plain.history["valid_loss"] == checkpointed.history["valid_loss"]


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [GradientAccumulation(2)],
        lambda: [MixedPrecision("bf16")],
        lambda: [LeanStep()],
        lambda: [EMA(0.9)],
        lambda: [SAM()],
    ],
    ids=["accumulation", "bf16", "lean", "ema", "sam"],
)
def test_a_fit_together_with_other_callbacks_has_the_same_bits(callbacks):
    plain = make(*callbacks())
    plain.fit(2)
    checkpointed = make(ActivationCheckpointing("Block"), *callbacks())
    checkpointed.fit(2)
    assert same(plain.model, checkpointed.model)


def test_each_layer_runs_twice_in_a_training_step_and_once_in_validation():
    calls = []
    learn = make(ActivationCheckpointing("Block"))
    learn.model.layers[0].first.register_forward_hook(lambda *_: calls.append(learn.training))
    learn.fit(1)
    assert calls.count(True) == 2 * 3
    assert calls.count(False) == 1


def test_recomputing_holds_less_memory():
    def peak(*callbacks) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(*(Block(64) for _ in range(8)), nn.Linear(64, 1))
        inputs = torch.randn(512, 64)
        learn = Learner(
            model, Data([(inputs, inputs[:, :1])]), F.mse_loss, torch.optim.SGD, callbacks, defaults=QUIET
        )
        with LiveBytes() as gauge:
            learn.fit(1)
        return gauge.peak

    assert peak(ActivationCheckpointing("Block")) < 0.4 * peak()


def test_the_model_is_restored_afterwards_and_keeps_its_names_in_between():
    names = []

    @on("after_loss")
    def see(learn):
        names.append(list(learn.model.state_dict()))

    learn = make(ActivationCheckpointing("layers.*"), see)
    before = [dict(vars(module)) for module in learn.model.modules()]
    expected = list(learn.model.state_dict())
    learn.fit(1)
    assert names == [expected] * 4
    assert [list(vars(module)) for module in learn.model.modules()] == [list(each) for each in before]


def test_an_error_in_mid_fit_leaves_the_model_unchanged():
    @on("after_pred")
    def fail(learn):
        raise ZeroDivisionError

    learn = make(ActivationCheckpointing("Block"), fail)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert not any("forward" in vars(module) for module in learn.model.modules())


def test_the_forward_method_of_an_instance_is_called_and_restored():
    learn = make(ActivationCheckpointing("head"))
    head, calls = learn.model.head, []

    def forward(x):
        calls.append(len(x))
        return F.linear(x, head.weight, head.bias)

    head.forward = forward
    learn.fit(1)
    assert head.forward is forward
    assert len(calls) == 2 * 3 + 1


def test_a_copy_of_the_model_in_the_middle_of_a_fit_is_independent():
    copies = []

    @on("after_step")
    def take(learn):
        copies.append(copy.deepcopy(learn.model))

    learn = make(ActivationCheckpointing("Block"), take)
    learn.fit(1)
    inputs = torch.randn(4, 16)
    copied = copies[0].eval()
    with torch.no_grad():
        before = copied(inputs)
        for parameter in learn.model.parameters():
            parameter.zero_()
        assert torch.equal(copied(inputs), before)


def test_a_second_callback_for_the_same_layer_is_refused():
    learn = make(ActivationCheckpointing("layers.1"), ActivationCheckpointing("Block", name="other"))
    with pytest.raises(ValueError, match=r"'layers\.1' already"):
        learn.fit(1)
    assert not any("forward" in vars(module) for module in learn.model.modules())


def test_callbacks_for_different_layers_can_be_combined():
    plain = make()
    plain.fit(1)
    two = make(ActivationCheckpointing("layers.1"), ActivationCheckpointing("layers.2", name="other"))
    two.fit(1)
    assert same(plain.model, two.model)


@pytest.mark.parametrize("layers", [None, [], "", 3, [nn.ReLU]])
def test_layers_that_are_not_given_by_name_are_refused(layers):
    with pytest.raises(TypeError, match=r"ActivationCheckpointing\("):
        ActivationCheckpointing(layers)


def test_a_missing_layer_is_refused():
    with pytest.raises(ValueError, match=r"the model has no 'blocks\.\*'\. Available: model, layers"):
        make(ActivationCheckpointing("blocks.*")).fit(1)


def test_a_hugging_face_model_recomputes_with_its_own_setting():
    """Both implementations have the same bits."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    tokens = torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "labels": torch.tensor([0, 1, 0, 1])}

    def trained(*callbacks, own: bool = False) -> nn.Module:
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        if own:
            switch = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            switch()
        learn = Learner(
            model, Data([batch]), None, partial(torch.optim.SGD, lr=0.1), callbacks, defaults=QUIET
        )
        learn.fit(2)
        return model

    plain = trained()
    assert same(plain, trained(own=True))
    assert same(plain, trained(ActivationCheckpointing("BertLayer")))
