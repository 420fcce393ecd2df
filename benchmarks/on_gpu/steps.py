"""Steps of learners compared with a plain loop, with hand-written CUDA graphs, and with other frameworks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from callbacks import Compile, LeanStep, StopOnNaN, WholeStep, ZeroGrad
from on_gpu.works import Row, Run, Setting, Work, compared, measured, ours, plain, works

Maker = Callable[[Setting, Work], Run]


def by_graph(setting: Setting, work: Work) -> Run:
    """Epochs of a whole step as one CUDA graph, as torch's documentation writes it by hand."""
    setting.need_cuda()
    model = work.model(setting.device)
    is_adam = work.optimizer.func is not torch.optim.SGD  # type: ignore[attr-defined]
    optimizer = work.optimizer(model.parameters(), **({"capturable": True} if is_adam else {}))
    inputs, targets = (each.clone() for each in work.batches[0])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with work.cast(setting.device, cache_enabled=False):
            loss = work.loss_func(model(inputs), targets)
        loss.backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def run() -> float:
        begun = setting.now()
        for batch in work.batches:
            inputs.copy_(batch[0])
            targets.copy_(batch[1])
            graph.replay()
        return setting.now() - begun

    return run


def by_fabric(setting: Setting, work: Work) -> Run:
    """Epochs of Lightning Fabric's loop."""
    from lightning.fabric import Fabric

    kind = "cuda" if setting.device.type == "cuda" else "cpu"
    fabric = Fabric(accelerator=kind, devices=1, precision="bf16-mixed" if work.is_mixed else "32-true")
    model = work.model(setting.device)
    prepared = fabric.setup(model, work.optimizer(model.parameters()))
    return with_their_backward(setting, work, *prepared, fabric.backward, contextlib.nullcontext)


def by_accelerate(setting: Setting, work: Work) -> Run:
    """Epochs of Accelerate's loop."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # otherwise it keeps the first precision
    mixed = "bf16" if work.is_mixed else "no"
    accelerator = Accelerator(cpu=setting.device.type == "cpu", mixed_precision=mixed)
    model = work.model(setting.device)
    prepared = accelerator.prepare(model, work.optimizer(model.parameters()))
    return with_their_backward(setting, work, *prepared, accelerator.backward, accelerator.autocast)


def with_their_backward(
    setting: Setting, work: Work, model: nn.Module, optimizer: Any, backward: Any, cast: Any
) -> Run:
    """Epochs of a plain loop with a framework's model, optimizer and backward pass."""

    def run() -> float:
        begun = setting.now()
        for inputs, targets in work.batches:
            with cast():
                loss = work.loss_func(model(inputs), targets)
            backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return setting.now() - begun

    return run


def rows_of(setting: Setting, makers: dict[str, Maker], chosen: list[Work]) -> Iterator[Row]:
    """The makers compared with the plain loop, work by work."""
    n_left = len(makers) * len(chosen)
    for work in chosen:
        base = plain(setting, work)
        for name, make in makers.items():
            seconds = setting.left() / n_left / 2  # half for compiling and warming up
            n_left -= 1
            yield measured(
                f"{work.title}: {name}",
                partial(compared_with, setting, base, make, work, seconds),
                setting,
            )


def compared_with(setting: Setting, base: Run, make: Maker, work: Work, seconds: float) -> str:
    """A maker's epochs compared with the plain loop's."""
    return compared(setting, base, make(setting, work), seconds, len(work.batches))


def steps(setting: Setting) -> Iterator[Row]:
    """Steps without a compiler."""
    makers: dict[str, Maker] = {
        "plain loop again (the noise)": plain,
        "ZeroGrad only": lambda setting, work: ours(setting, work, ZeroGrad(), defaults=()),
        "the defaults": ours,
        "LeanStep": lambda setting, work: ours(setting, work, LeanStep(), defaults=()),
        "CUDA graph by hand": by_graph,
        "Accelerate": by_accelerate,
        "Lightning Fabric": by_fabric,
    }
    yield from rows_of(setting, makers, list(works(setting))[: setting.size(5, 2)])


def compiled(setting: Setting) -> Iterator[Row]:
    """Steps with the model or the whole step compiled; with tiny sizes, no code is generated."""
    options: dict[str, Any] = {"backend": "eager"} if setting.is_tiny else {}
    graphs: dict[str, Any] = options or {"mode": "reduce-overhead"}

    def only(*kinds: Any) -> Maker:
        return lambda setting, work: ours(setting, work, *(kind() for kind in kinds), defaults=())

    makers: dict[str, Maker] = {
        "WholeStep": only(partial(WholeStep, **options)),
        "WholeStep(graphs=True)": only(partial(WholeStep, graphs=not setting.is_tiny, **options)),
        "Compile('reduce-overhead')": only(ZeroGrad, partial(Compile, **graphs)),
        "plain loop, torch.compile('reduce-overhead')": partial(plain, **graphs),
        "Compile": only(ZeroGrad, partial(Compile, **options)),
        "plain loop, torch.compile": partial(plain, **(options or {"mode": None})),
    }
    chosen = list(works(setting))
    chosen = chosen[:1] if setting.is_tiny else [chosen[number] for number in (0, 4, 1, 3, 2)]
    yield from rows_of(setting, makers, chosen)


def stop_on_nan(setting: Setting) -> Iterator[Row]:
    """The time that `StopOnNaN` adds to an epoch, also of one batch: it copies all weights in each epoch."""
    chosen = [work for work in works(setting) if not work.is_mixed][: setting.size(3, 1)]
    for work in chosen:
        for n_batches in (len(work.batches), 1):
            some = Work(**{**vars(work), "batches": work.batches[:n_batches]})
            seconds = setting.left() / len(chosen) / 3
            base = ours(setting, some, ZeroGrad(), defaults=())
            other = ours(setting, some, ZeroGrad(), StopOnNaN(), defaults=())
            yield measured(
                f"{work.title}: StopOnNaN, epochs of {n_batches}",
                partial(compared, setting, base, other, seconds, n_batches),
                setting,
            )
