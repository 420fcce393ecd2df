"""ChannelsLast and Compile have the weights of hand-written loops, and leave the learner unchanged."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks import (
    ChannelsLast,
    Compile,
    GradientAccumulation,
    LearnerWarning,
    Metrics,
    Order,
    Recorder,
    ZeroGrad,
    on,
)
from learner import Data, Learner

sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
QUIET = (ZeroGrad, Metrics, Recorder)


def pictures() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 6, 6, generator=generator), torch.ones(4, 2)) for _ in range(3)]


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    return nn.Sequential(*layers)


def learner_of(*callbacks, model=None) -> Learner:
    return Learner(model or net(), Data(pictures()), F.mse_loss, sgd, callbacks, defaults=QUIET)


def by_hand(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    model.to(memory_format=layout)
    optimizer = sgd(model.parameters())
    for inputs, targets in 2 * pictures():
        F.mse_loss(model(inputs.to(memory_format=layout)), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(map(torch.equal, *zip(*states, strict=True)))


def test_channels_last_has_the_weights_of_a_loop_by_hand_with_the_same_bits():
    seen = []

    @on("before_batch")
    def see(learn):
        tensors = learn.inputs[0], learn.model[0].weight
        seen.append(all(each.is_contiguous(memory_format=torch.channels_last) for each in tensors))

    learn = learner_of(ChannelsLast(), see)
    learn.fit(2)
    assert same(learn.model, by_hand(net(), torch.channels_last))
    assert all(seen)


def test_afterwards_weights_and_optimizer_state_have_the_layout_from_before():
    learn = learner_of(ChannelsLast())
    learn.fit(1)
    weight = learn.model[0].weight
    assert weight.is_contiguous()
    assert learn.optimizer.state[weight]["momentum_buffer"].is_contiguous()


def test_a_model_that_was_in_this_layout_stays_in_it():
    learn = learner_of(ChannelsLast(), model=net().to(memory_format=torch.channels_last))
    learn.fit(1)
    assert learn.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def run_graph(graph, inputs):
    """A backend that is a function: it generates no code."""
    return graph.forward


@pytest.mark.parametrize("backend", ["eager", "aot_eager", run_graph])
def test_a_compiled_model_has_the_weights_of_a_loop_by_hand_with_the_same_bits(backend):
    learn, during = learner_of(Compile(backend)), []

    @on("after_pred")
    def see(learn):
        during.append(learn.model._compiled_call_impl is not None)

    learn.fit(2, callbacks=[see])
    assert all(during)
    assert same(learn.model, by_hand(net(), torch.contiguous_format))
    assert list(learn.model.state_dict()) == list(net().state_dict())
    assert learn.model._compiled_call_impl is None


def test_a_model_that_cannot_be_compiled_runs_uncompiled_with_the_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net()

        def forward(self, inputs):
            torch._dynamo.graph_break()
            return self.layers(inputs)

    learn = learner_of(Compile("eager", fullgraph=True), model=Net())
    with pytest.warns(
        LearnerWarning, match="cannot be compiled, so the fit continues without compiling it. Unsupported"
    ):
        learn.fit(2)
    assert same(learn.model.layers, by_hand(net(), torch.contiguous_format))


def test_an_error_of_the_model_itself_is_raised_unchanged():
    class Net(nn.Linear):
        def forward(self, inputs):
            raise ZeroDivisionError("mine")

    learn = learner_of(Compile("eager"), model=Net(1, 1))
    with pytest.raises(ZeroDivisionError, match="mine"):
        learn.fit(1)
    assert learn.model._compiled_call_impl is None


def test_a_model_that_is_compiled_already_is_refused():
    model = net()
    model.compile(backend="eager")
    for each in (model, torch.compile(copy.deepcopy(net()), backend="eager")):
        with pytest.raises(ValueError, match="compiled already"):
            learner_of(Compile("eager"), model=each).fit(1)
    assert model._compiled_call_impl is not None


class Overwritten(torch.autograd.Function):
    """Like a CUDA graph: the next call overwrites the memory of what it returns."""

    outputs = torch.zeros(4, 2)

    @staticmethod
    def forward(ctx, found):
        return Overwritten.outputs.copy_(found).detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def replayed(call, **options):
    return lambda *args, **kwargs: Overwritten.apply(call(*args, **kwargs))


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_tensors_that_a_cuda_graph_overwrites_are_copied_and_each_step_is_marked(monkeypatch, mode):
    marks = []

    def fit(*callbacks):
        losses, preds = [], []

        @on("after_batch")
        def keep(learn):
            losses.append(learn.loss)
            preds.append(learn.preds)

        learn = Learner(
            net(), Data(pictures(), pictures()), F.mse_loss, sgd, [keep, *callbacks], defaults=QUIET
        )
        learn.fit(2)
        return losses + preds

    expected = fit()
    monkeypatch.setattr(torch, "compile", replayed)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    kept = fit(Compile(mode=mode))
    assert all(map(torch.equal, expected, kept))
    assert len(marks) == 12
    fit(Compile())
    assert len(marks) == 12  # without graphs, nothing is copied or marked


def test_gradients_that_wait_for_an_update_are_not_left_in_the_memory_of_a_cuda_graph(monkeypatch):
    monkeypatch.setattr(torch, "compile", replayed)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    static = {}

    @on("after_backward", order=Order.PREPARE)
    def overwrite(learn):  # the memory of the first gradient of a window is that of the graph
        for name, each in learn.model.named_parameters():
            if learn.n_waiting == 0:
                each.grad = static[name] = each.grad.clone()

    @on("before_batch")
    def replay(learn):
        for each in static.values():
            each.fill_(float("nan"))

    learn = learner_of(Compile(mode="reduce-overhead"), overwrite, replay, GradientAccumulation(3))
    learn.fit(2)
    expected = learner_of(GradientAccumulation(3))
    expected.fit(2)
    assert same(learn.model, expected.model)


def test_a_missing_backend_is_reported():
    with pytest.raises(ValueError, match=r"this backend does not exist. Available: .*inductor"):
        Compile("fast")
