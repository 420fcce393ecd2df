"""How to combine a function's values for batches into its value for all of them together.

torch's losses do not all average over the items of a batch: most divide by the number of elements,
`cross_entropy` by the number (or the class weights) of the targets that are not ignored, and
`reduction="sum"` does not divide at all. This file lists what each divides by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import _reduction
from torch.nn import functional as F

Count = int | Tensor | None
Get = Callable[[str, Any], Any]  # a setting of a loss by its name, and its default


@dataclass(frozen=True)
class Reduction:
    """How a function reduces.

    Attributes:
        weigh: the number that the mean of a batch divides by, as a function of the arguments of the loss; it
            returns None if it is unknown. If `weigh` itself is None, nothing is known, and items are counted.
        adds_up: the function sums, so the value for several batches is the sum of their values.
    """

    weigh: Callable[..., Count] | None = None
    adds_up: bool = False


def reduction_of(function: Any) -> Reduction:
    """How a loss reduces: one of torch's, as a function, a `partial` or a module, or any that names a sum.

    A user's loss is trusted if its attribute or argument `reduction` is `"sum"`.
    """
    base, get = unwrapped(function)
    known = name_of(base)
    reduction = declared(get)
    if reduction == "sum":
        return Reduction(adds_up=True)
    if known is None or reduction not in ("mean", "batchmean"):
        return Reduction()
    weigh = n_rows if reduction == "batchmean" else WEIGHERS[known]
    if weigh is n_weighted and get("weight", None) is None:
        weigh = n_elements
    return Reduction(partial(weigh, get))


def unwrapped(function: Any) -> tuple[Any, Get]:
    """The loss within partials and compiled modules, and its settings.

    A `partial` with positional arguments changes the meaning of the others, so nothing is known about it.
    """
    keywords: dict[str, Any] = {}
    while function is not (inner := within(function)):
        keywords = {**getattr(function, "keywords", {}), **keywords}
        function = inner
    if isinstance(function, nn.Module):
        return None if keywords else function, partial(setting, function)
    return function, {"reduction": getattr(function, "reduction", "mean"), **keywords}.get


def setting(module: nn.Module, name: str, default: Any) -> Any:
    """An attribute or buffer of a loss as it is now: it may be moved to a device. Quicker than `getattr`."""
    for held in (module.__dict__, module._buffers):
        if name in held:
            return held[name]
    return getattr(module, name, default)  # of a class, or of a scripted module


def within(function: Any) -> Any:
    """The function that a `partial`, `torch.compile` or a call wraps, one level; or the function itself."""
    if isinstance(function, partial):
        return None if function.args else function.func
    if isinstance(function, MethodType) and function.__name__ in CALLS:  # as `nn.MSELoss().forward`
        return function.__self__
    for name in ("_orig_mod", "_torchdynamo_orig_callable", "one_by_one"):
        function = getattr(function, name, function)
    # the compiler first wraps torch's own functions
    is_compilers = getattr(function, "__globals__", {}).get("__name__") == "torch._dynamo.external_utils"
    return getattr(function, "__wrapped__", function) if is_compilers else function


#: Methods of a module that compute what the module does; `__call__` has the second name.
CALLS = ("forward", nn.Module.__call__.__name__)


def name_of(function: Any) -> str | None:
    """The name of this loss in `torch.nn.functional`."""
    if isinstance(function, nn.Module):
        for kind, name in MODULES.items():
            if isinstance(function, kind):
                return name if type(function).forward is kind.forward else None
        return None
    name = getattr(function, "__name__", None)
    return name if name in WEIGHERS and getattr(F, name, None) is function else None


def declared(get: Get) -> Any:
    """The reduction that a loss names, including torch's old form; `"mean"` if it names none."""
    size_average, reduce = get("size_average", None), get("reduce", None)
    if isinstance(size_average, bool) or isinstance(reduce, bool):
        return _reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    return get("reduction", "mean")


# The number that each loss divides by. The arguments are the settings of the loss, then those of the call.


def n_elements(get: Get, preds: Any, targets: Any, *more: Any) -> Count:
    """Elements that are compared, as of `mse_loss`."""
    if more or not isinstance(preds, Tensor) or not isinstance(targets, Tensor):
        return None
    return preds.numel() if preds.shape == targets.shape else n_together(preds, targets)


def n_weighted(get: Get, preds: Any, targets: Any, *more: Any) -> Count:
    """Sum of the elements' weights, by which `mse_loss` and `l1_loss` divide where they are given."""
    return None if more else get("weight", None).sum()


def n_of_all(get: Get, *tensors: Any) -> Count:
    """Elements of all arguments together."""
    return n_together(*tensors) if all(isinstance(each, Tensor) for each in tensors) else None


def n_of_normal(get: Get, preds: Any, targets: Any, var: Any = None, *more: Any) -> Count:
    """Elements, of `gaussian_nll_loss`, whose variance never adds any."""
    return None if more else n_elements(get, preds, targets)


def n_of_vectors(get: Get, *vectors: Any) -> Count:
    """Vectors that are compared, along the last dimension."""
    if not all(isinstance(each, Tensor) and each.ndim for each in vectors):
        return None
    return torch.broadcast_shapes(*(each.shape for each in vectors))[:-1].numel()


def n_of_pairs(get: Get, first: Any, second: Any, signs: Any = None, *more: Any) -> Count:
    """Pairs of vectors, of `cosine_embedding_loss`: as many as signs."""
    return signs.numel() if isinstance(signs, Tensor) and not more else None


def n_rows(get: Get, preds: Any, *more: Any) -> Count:
    """Rows of the first dimension, by which `batchmean` divides."""
    return preds.shape[0] if isinstance(preds, Tensor) and preds.ndim else None


def n_of_margins(get: Get, preds: Any, *more: Any) -> Count:
    """Items of scores of shape (items, classes) or (classes,)."""
    if not isinstance(preds, Tensor) or not preds.ndim:
        return None
    return preds.shape[:-1].numel()


def n_of_sequences(
    get: Get, preds: Any, targets: Any, input_lengths: Any = None, target_lengths: Any = None, *more: Any
) -> Count:
    """Sequences, of `ctc_loss`, which divides each sequence's loss by its own length first."""
    if more or target_lengths is None:
        return None
    return target_lengths.numel() if isinstance(target_lengths, Tensor) else len(target_lengths)


def n_of_classes(get: Get, preds: Any, targets: Any, *more: Any) -> Count:
    """Targets that are not ignored, or the sum of their classes' weights, of `cross_entropy` and `nll_loss`.

    If the targets are probabilities, none is ignored, and the loss does not divide by their weights.
    """
    if more or not isinstance(targets, Tensor):
        return None
    if targets.is_floating_point():
        if not isinstance(preds, Tensor):
            return None
        return 1 if preds.ndim == 1 else preds.numel() // max(preds.shape[1], 1)
    ignored, weight = get("ignore_index", -100), get("weight", None)
    ignored = -100 if ignored is None else ignored  # as `LinearCrossEntropyLoss` has it
    if weight is not None:
        return weight_of(targets.detach().long(), ignored, weight.detach())
    n_all = targets.numel()
    if not n_all or (ignored < 0 and targets.is_cpu and targets.min().item() >= 0):
        return n_all  # reading once takes half as long as counting, and on a CPU it waits for nothing
    return (targets != ignored).sum()


def weight_of(targets: Tensor, ignored: int, weight: Tensor) -> Tensor:
    """The weights of the classes of all targets that are not ignored, added up."""
    left_out = targets == ignored
    return weight[targets.masked_fill(left_out, 0)].masked_fill(left_out, 0).sum()


def n_together(*tensors: Tensor) -> int:
    """Elements of tensors that are broadcast."""
    return torch.broadcast_shapes(*(each.shape for each in tensors)).numel()


#: By the name of the function: the module that calls it, and what its mean divides by.
LOSSES: dict[str, tuple[type[nn.Module], Callable[..., Count]]] = {
    "mse_loss": (nn.MSELoss, n_weighted),
    "l1_loss": (nn.L1Loss, n_weighted),
    "smooth_l1_loss": (nn.SmoothL1Loss, n_elements),
    "huber_loss": (nn.HuberLoss, n_elements),
    "binary_cross_entropy": (nn.BCELoss, n_elements),
    "binary_cross_entropy_with_logits": (nn.BCEWithLogitsLoss, n_elements),
    "poisson_nll_loss": (nn.PoissonNLLLoss, n_elements),
    "soft_margin_loss": (nn.SoftMarginLoss, n_elements),
    "hinge_embedding_loss": (nn.HingeEmbeddingLoss, n_elements),
    "kl_div": (nn.KLDivLoss, n_elements),
    "gaussian_nll_loss": (nn.GaussianNLLLoss, n_of_normal),
    "margin_ranking_loss": (nn.MarginRankingLoss, n_of_all),
    "cosine_embedding_loss": (nn.CosineEmbeddingLoss, n_of_pairs),
    "triplet_margin_loss": (nn.TripletMarginLoss, n_of_vectors),
    "multilabel_margin_loss": (nn.MultiLabelMarginLoss, n_of_margins),
    "multilabel_soft_margin_loss": (nn.MultiLabelSoftMarginLoss, n_of_margins),
    "multi_margin_loss": (nn.MultiMarginLoss, n_of_margins),
    "ctc_loss": (nn.CTCLoss, n_of_sequences),
    "cross_entropy": (nn.CrossEntropyLoss, n_of_classes),
    "nll_loss": (nn.NLLLoss, n_of_classes),
}
WEIGHERS = {name: weigh for name, (_, weigh) in LOSSES.items()}
MODULES = {kind: name for name, (kind, _) in LOSSES.items()}
# from torch 2.13 on; its targets are those of `cross_entropy`
if hasattr(nn, "LinearCrossEntropyLoss"):
    MODULES[nn.LinearCrossEntropyLoss] = "cross_entropy"
