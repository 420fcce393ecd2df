"""Hooks that remove themselves."""

import gc

import pytest
import torch
from torch import nn

from callbacks import Hooks
from callbacks.model.named import find_layers


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def test_a_forward_hook_sees_inputs_and_output():
    model, seen = make_model(), []
    inputs = torch.randn(5, 3)
    with Hooks(model[0], lambda module, inputs, output: seen.append((module, inputs, output.clone()))):
        model(inputs)
    [(module, (given,), output)] = seen
    assert module is model[0]
    assert given is inputs
    assert torch.equal(output, model[0](inputs))


def test_keyword_arguments_are_inputs_too():
    class Scaled(nn.Module):
        def forward(self, x, *, scale):
            return x * scale

    seen = []
    with Hooks(Scaled(), lambda module, inputs, output: seen.append(inputs)) as hooks:
        assert hooks
    module = Scaled()
    with Hooks(module, lambda module, inputs, output: seen.append(inputs)):
        module(1, scale=2)
    assert seen == [(1, 2)]


def test_a_backward_hook_sees_the_gradient_that_autograd_computes_though_the_next_layer_works_in_place():
    model, inputs, seen = make_model(), torch.randn(5, 3), []
    with (
        Hooks(model, lambda *given: seen.append(given), of="forward"),
        Hooks(model[0], lambda module, inputs, gradient: seen.append(gradient), of="backward"),
    ):
        model(inputs).square().sum().backward()
    hidden = model[0](inputs)
    expected = torch.autograd.grad(model[2](torch.relu(hidden)).square().sum(), hidden)[0]
    assert torch.equal(seen[1], expected)


def test_the_return_value_of_the_function_has_no_effect():
    model, inputs = make_model(), torch.randn(5, 3)
    expected = model(inputs)
    with Hooks(model[0], lambda module, inputs, output: torch.zeros_like(output)):
        assert torch.equal(model(inputs), expected)


@pytest.mark.parametrize("of", ["forward", "backward"])
def test_hooks_are_removed_at_the_end_of_the_block_even_after_an_error(of):
    model = make_model()
    with pytest.raises(ZeroDivisionError, match="4"), Hooks(model.modules(), print, of=of):
        raise ZeroDivisionError(n_hooks(model))
    assert n_hooks(model) == 0


def test_hooks_are_removed_with_the_object_and_may_be_removed_twice():
    model = make_model()
    hooks = Hooks(model, print)
    hooks.remove()
    hooks.remove()
    hooks = Hooks(model, print)
    del hooks
    gc.collect()
    assert n_hooks(model) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((3, print), "int"), (([3], print), "3 is not a module"), ((nn.ReLU(), 3), "pass a function")],
)
def test_an_object_that_cannot_be_hooked_is_refused(arguments, words):
    with pytest.raises(TypeError, match=words):
        Hooks(*arguments)


def test_an_unknown_direction_of_hooks_is_refused():
    with pytest.raises(ValueError, match="'forward' or 'backward'"):
        Hooks(nn.ReLU(), print, of="sideways")


def test_layers_are_found_by_name_pattern_and_class():
    model = nn.ModuleDict({"body": make_model(), "head": nn.Linear(2, 1)})
    assert list(find_layers(model, None, "X")) == ["body.0", "body.2", "head"]
    assert list(find_layers(model, ["head", "body.*"], "X")) == ["body.0", "body.1", "body.2", "head"]
    assert list(find_layers(model, ["ReLU"], "X")) == ["body.1"]
    assert list(find_layers(nn.Linear(1, 1), None, "X")) == ["model"]


def test_a_missing_layer_is_refused_with_the_existing_ones():
    with pytest.raises(ValueError, match=r"has no 'relu'. Available: model, 0, 1, 2"):
        find_layers(make_model(), ["relu"], "X")
    with pytest.raises(ValueError, match="no layer has parameters"):
        find_layers(nn.ReLU(), None, "X")
