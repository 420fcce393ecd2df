"""The largest stable learning rate of gradient descent, from the curvature of the loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

N_ITERATIONS = 200  # of each of at most two power iterations, which end when the value has converged
Vector = list[Tensor]


def largest_curvature(loss: Tensor, parameters: Sequence[Tensor], *, seconds: float = 10.0) -> float:
    """The largest eigenvalue of the Hessian of a loss, by power iteration with Hessian-vector products.

    It uses its own random generator, and waits for the device at each iteration.

    Args:
        loss: scalar, with its graph, which must be twice differentiable; see `twice_differentiable`.
        parameters: the tensors with respect to which the Hessian is taken.
        seconds: the time limit, after which the latest value is returned.

    Returns:
        The largest eigenvalue, to about four digits; negative if the loss curves down in every direction.

    Raises:
        RuntimeError: an operation of the model has no second derivative.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian"; LeCun et al. 1998, "Efficient
    BackProp", section 7.
    """
    slopes = torch.autograd.grad(loss, list(parameters), create_graph=True, allow_unused=True)
    curved = [
        (slope, parameter)
        for slope, parameter in zip(slopes, parameters, strict=True)
        if slope is not None and slope.requires_grad
    ]
    if not curved:  # the loss is linear in all of them
        return 0.0
    refuse_dead_ends([slope for slope, _ in curved])
    outputs, inputs = [slope for slope, _ in curved], [parameter for _, parameter in curved]
    end = time.monotonic() + seconds

    def times(vector: Vector, shift: float = 0.0) -> Vector:
        products = torch.autograd.grad(
            outputs, inputs, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return [product + shift * part for product, part in zip(products, vector, strict=True)]

    value = dominant(times, inputs, end)
    if value < 0:  # shift the spectrum, so that the largest eigenvalue also has the largest magnitude
        value += dominant(lambda vector: times(vector, -value), inputs, end)
    return value


def refuse_dead_ends(slopes: list[Tensor]) -> None:
    """Refuse backward functions marked `once_differentiable`, for which torch silently returns 0."""
    waiting, seen = [slope.grad_fn for slope in slopes], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("a backward function of the model is marked once_differentiable")
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use torch's implementations of attention and recurrent layers that have second derivatives."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


def dominant(times: Callable[[Vector], Vector], like: Sequence[Tensor], end: float) -> float:
    """The eigenvalue of largest magnitude of a symmetric matrix, given as its product with a vector."""
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(part.shape, generator=generator).to(part.device, part.dtype) for part in like]
    vector = scaled(vector, 1 / norm(vector))
    values = [math.nan]
    for _ in range(N_ITERATIONS):
        product = times(vector)
        values.append(dot(vector, product))
        length = norm(product)
        if not length or not math.isfinite(length) or has_converged(values) or time.monotonic() > end:
            break
        vector = scaled(product, 1 / length)
    return values[-1]


def has_converged(values: list[float]) -> bool:
    """Are the last three values almost equal?"""
    return len(values) > 3 and all(abs(new - old) <= 1e-5 * abs(new) for old, new in pairwise(values[-3:]))


def dot(first: Vector, second: Vector) -> float:
    """The inner product."""
    return sum(float((one * other).sum()) for one, other in zip(first, second, strict=True))


def norm(vector: Vector) -> float:
    """The Euclidean length."""
    return math.sqrt(dot(vector, vector))


def scaled(vector: Vector, factor: float) -> Vector:
    """A vector multiplied by a number."""
    return [part * factor for part in vector]


def largest_stable_rate(optimizer: torch.optim.Optimizer, curvature: float) -> float | None:
    """The learning rate above which steps diverge on a quadratic loss of this curvature.

    It is 2 / curvature for plain gradient descent, 2 (1 + m) / curvature with momentum m, and that divided by
    1 + 2 m for Nesterov momentum.

    Args:
        optimizer: any; a bound is known for `torch.optim.SGD` if its groups have the same settings.
        curvature: the largest eigenvalue of the Hessian; weight decay is added to it.

    Returns:
        The rate; None if no bound is known for the optimizer, or the loss does not curve up.

    Source: LeCun et al. 1998, "Efficient BackProp", section 5; with momentum, Cohen et al. 2021,
    arXiv:2103.00065, appendix B.
    """
    settings = {
        tuple(group[key] for key in ("momentum", "nesterov", "dampening", "weight_decay", "maximize"))
        for group in optimizer.param_groups
        if type(optimizer) is torch.optim.SGD
    }
    if len(settings) != 1:
        return None
    momentum, nesterov, dampening, weight_decay, maximize = settings.pop()
    curvature += float(weight_decay)
    if dampening or maximize or not curvature > 0:
        return None
    return 2 * (1 + momentum) / curvature / (1 + 2 * momentum if nesterov else 1)
