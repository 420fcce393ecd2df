"""Make the model faster: the memory layout of its tensors, and compiled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.modules import loss_tensors
from callbacks.core.warning import warn
from callbacks.optim.parameter_rules import parameters_of
from callbacks.place.device import map_tensors, tensors_of

#: Modes of `torch.compile` that record CUDA graphs.
GRAPH_MODES = ("reduce-overhead", "max-autotune")


class ChannelsLast(Callback):
    """Store images and convolution weights with the channels last in memory, which is faster on most GPUs.

    Weights, buffers, optimizer state and inputs with four dimensions, shape (n, channels, height, width),
    keep shape and values; only their strides change (`torch.channels_last`). Results differ by rounding.
    After the fit, weights, buffers and optimizer state have their previous layout.

    A model without such weights does not change.

    Source: the tutorial "Channels Last Memory Format in PyTorch".
    """

    order = Order.PREPARE

    def __init__(self, *, name: str | None = None):
        super().__init__(name=name)
        self._changed: list[Tensor] = []

    def before_fit(self, learn: LearnerProtocol) -> None:
        tensors = (*tensors_of(learn.model), *loss_tensors(learn).values())
        found = [each for each in tensors if each.ndim == 4]
        self._changed = [each for each in found if not each.is_contiguous(memory_format=torch.channels_last)]
        lay_out(self._changed, learn.optimizer, torch.channels_last)

    def before_batch(self, learn: LearnerProtocol) -> None:
        learn.inputs = map_tensors(learn.inputs, channels_last)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        changed, self._changed = self._changed, []
        lay_out(changed, learn.optimizer, torch.contiguous_format)


def lay_out(tensors: list[Tensor], optimizer: Any, layout: torch.memory_format) -> None:
    """Change the strides of tensors, their gradients and their optimizer state."""
    for tensor in tensors:
        tensor.data = tensor.data.contiguous(memory_format=layout)
        if tensor.grad is not None:
            tensor.grad = tensor.grad.contiguous(memory_format=layout)
        state = getattr(optimizer, "state", None)
        kept = state.get(tensor) if isinstance(state, Mapping) else None
        if not isinstance(kept, dict):
            continue
        for key, value in kept.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                kept[key] = value.contiguous(memory_format=layout)


def channels_last(leaf: Any) -> Any:
    """A tensor with four dimensions in channels-last layout; other leaves unchanged."""
    if isinstance(leaf, Tensor) and leaf.ndim == 4:
        return leaf.contiguous(memory_format=torch.channels_last)
    return leaf


class Compile(Callback):
    """Compile the model's forward pass with `torch.compile` for the duration of a fit.

    The model stays the same object, so its class, the names in its state dict and checkpoints do not change,
    and after the fit it runs as before. The first batches take long, because code is generated. If the
    forward pass cannot be compiled, the fit continues without, and a warning gives the reason. Random numbers
    and rounding may differ from those of the model without compiling.

    With CUDA graphs, as in `mode="reduce-overhead"`, each batch overwrites what the previous one has
    computed. So predictions are copied, as are gradients that wait for an update, and the start of each step
    is marked.

    Args:
        backend: as for `torch.compile`: a name, or a function of a graph module and its inputs.
        mode: as for `torch.compile`, for example `"reduce-overhead"`.
        fullgraph: require that the model is one graph; if it is not, it is not compiled at all.
        dynamic: expect shapes to change; None to detect it.

    Raises:
        ValueError: the backend does not exist; or, at the start of the fit, the model is compiled already.

    Source: Ansel et al. 2024, doi:10.1145/3620665.3640366; `torch.nn.Module.compile`.
    """

    order = Order.PREPARE

    def __init__(
        self,
        backend: str | Callable[..., Any] = "inductor",
        *,
        mode: str | None = None,
        fullgraph: bool = False,
        dynamic: bool | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.backend, self.mode, self.fullgraph, self.dynamic = backend, mode, fullgraph, dynamic
        check_backend("Compile", backend)
        self._model: nn.Module | None = None
        self._graphs = GraphMemory()

    @property
    def _uses_graphs(self) -> bool:
        """Does a batch overwrite what the last one has computed, on a GPU?"""
        return self.mode in GRAPH_MODES or self.backend == "cudagraphs"

    def before_fit(self, learn: LearnerProtocol) -> None:
        from torch._dynamo.eval_frame import OptimizedModule  # takes a second to import; no public name
        from torch._dynamo.exc import TorchDynamoException

        model = learn.model
        if isinstance(model, OptimizedModule) or model._compiled_call_impl is not None:
            raise ValueError(
                "Compile: the model is compiled already, by torch.compile(model) or model.compile(): leave "
                "Compile out, or pass the original model to the learner."
            )
        compiled = torch.compile(
            model._call_impl,
            backend=self.backend,
            mode=self.mode,
            fullgraph=self.fullgraph,
            dynamic=self.dynamic,
        )

        uses_graphs = self._uses_graphs

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                found = compiled(*args, **kwargs)
                return map_tensors(found, copied) if uses_graphs else found
            except TorchDynamoException as error:
                warn_of_fallback(error)
                model._compiled_call_impl = None
                return model._call_impl(*args, **kwargs)

        self._model, model._compiled_call_impl = model, call  # the attribute that model.compile() sets, too

    def before_batch(self, learn: LearnerProtocol) -> None:
        if self._uses_graphs:
            self._graphs.begin_step(learn)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._graphs = GraphMemory()
        if self._model is not None:
            self._model._compiled_call_impl = None
        self._model = None


def check_backend(owner: str, backend: object) -> None:
    """Refuse an invalid backend; for an unknown name, torch imports its compiler, which takes seconds."""
    if callable(backend) or backend in ("inductor", "aot_eager", "eager"):
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(
            f"{owner}({backend!r}): this backend does not exist. Available: {', '.join(known)}. Or pass a "
            "function of a graph module and its inputs."
        )


class GraphMemory:
    """The memory of CUDA graphs, which each step overwrites."""

    def __init__(self) -> None:
        self._is_empty = False  # do gradients that wait for an update have their own memory?

    def begin_step(self, learn: LearnerProtocol) -> None:
        """Copy gradients that wait for an update, and mark the start of a step for torch."""
        if learn.n_waiting and not self._is_empty:
            for each in parameters_of(learn.optimizer):
                each.grad = None if each.grad is None else each.grad.clone()
        self._is_empty = bool(learn.n_waiting)  # later batches are added to them in place
        torch.compiler.cudagraph_mark_step_begin()


def copied(leaf: Any) -> Any:
    """A copy of a tensor, with its graph; others unchanged."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def warn_of_fallback(error: Exception) -> None:
    """Warn that the model runs without compiling, and why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {' '.join(lines[:2])}"
    warn(f"Compile: the model cannot be compiled, so the fit continues without compiling it. {reason}")
