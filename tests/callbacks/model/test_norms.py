"""Norms and clips have the bits of `torch.nn.utils`."""

from __future__ import annotations

import math

import pytest
import torch
from kernels import Kernels
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from callbacks.model.norms import clip_by_norm, total_norm

SHAPES = [(), (1,), (7,), (33, 17), (2, 3, 4, 5), (0, 3)]


def tensors_of(*dtypes: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [
        (scale * torch.randn(shape, generator=draws)).to(dtypes[number % len(dtypes)])
        for number, shape in enumerate(SHAPES)
    ]


KINDS = [
    (torch.float32,),
    (torch.float64,),
    (torch.bfloat16,),
    (torch.float16,),
    (torch.float32, torch.float64),
    (torch.bfloat16, torch.float32),
]


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype is other.dtype and torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0))


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtypes", KINDS, ids=str)
def test_the_norm_equals_that_of_torch(dtypes, norm_type):
    tensors = tensors_of(*dtypes)
    assert same(total_norm(tensors, norm_type), get_total_norm(tensors, norm_type))


@pytest.mark.parametrize("dtypes", KINDS, ids=str)
def test_the_largest_number_equals_that_of_torch(dtypes):
    tensors = tensors_of(*dtypes)[:-1]  # nothing is the largest of none
    assert same(total_norm(tensors, math.inf), get_total_norm(tensors, math.inf))


def test_the_norm_of_nothing_is_0():
    assert total_norm([]).item() == 0
    assert clip_by_norm([], 1.0).item() == 0


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_norm_that_is_not_a_number_is_refused(number):
    tensors = tensors_of(torch.float32)
    tensors[2][3] = number
    assert same(total_norm(tensors), get_total_norm(tensors))


def test_tensors_that_are_not_contiguous_are_part_of_the_norm():
    tensors = [each.mT if each.ndim > 1 else each for each in tensors_of(torch.float32)]
    tensors.append(torch.ones(1).expand(4))
    assert same(total_norm(tensors), get_total_norm(tensors))


@pytest.mark.parametrize("max_norm", [0.0, 0.3, 1e9])
@pytest.mark.parametrize("scale", [1e-3, 1.0, math.inf])
@pytest.mark.parametrize("dtypes", KINDS, ids=str)
def test_clipping_equals_that_of_torch(dtypes, scale, max_norm):
    ours, theirs = ([nn.Parameter(each) for each in tensors_of(*dtypes)] for _ in range(2))
    for parameters in (ours, theirs):
        for parameter, grad in zip(parameters, tensors_of(*dtypes, scale=scale), strict=True):
            parameter.grad = grad
    grads = [each.grad for each in ours if each.grad is not None]
    norm = get_total_norm(grads)
    assert same(clip_by_norm(grads, max_norm), norm)
    clip_grads_with_norm_(theirs, max_norm, norm)
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert same(one.grad, other.grad)


def test_gradients_that_can_be_differentiated_are_clipped_as_in_torch():
    weight = torch.ones(3, requires_grad=True)
    (grad,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
    assert not total_norm([grad]).requires_grad
    assert clip_by_norm([grad], 1.0).item() == pytest.approx(27**0.5)
    assert total_norm([grad]).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("dtypes", "n_calls"), [(KINDS[0], 1), (KINDS[2], 1), (KINDS[-1], 2)], ids=str)
def test_on_a_device_a_clip_is_one_call_for_each_type(dtypes, n_calls):
    kernels = Kernels()
    with kernels:
        clip_by_norm([each.to("meta") for each in tensors_of(*dtypes)], 1.0)
    assert kernels.n["_foreach_mul_"] == n_calls
    assert kernels.n["mul_"] == 0
