"""WholeStep(graphs=True): a backend imitates a CUDA graph, which overwrites the results of the last step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from compiled_steps import assert_close, learner_of
from torch.optim import Adam

from callbacks import GradientAccumulation, WholeStep, on

#: The place where torch marks inputs that a CUDA graph reads and writes in place.
STATIC = "_dynamo_static_input_type"


@pytest.fixture(autouse=True)
def marks(monkeypatch):
    """The starts of steps that were marked for torch, which would import its compiler."""
    found: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: found.append(1))
    return found


class Graphs:
    """A backend: each program writes its results to the same memory each time.

    n_static, n_copied: of the inputs of the last program.
    """

    def __call__(self, graph: Any, inputs: list[Any]) -> Any:
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        marks = [node.meta.get("tensor_dict", {}).get(STATIC) for node in nodes]
        self.n_static, self.n_copied = marks.count("unguarded"), marks.count(None)
        memory: list[torch.Tensor] = []

        def replay(*args: Any) -> Any:
            outs = graph(*args)
            if not memory:
                memory.extend(each.clone() for each in outs)
            for kept, each in zip(memory, outs, strict=True):
                kept.copy_(each)
            return tuple(each.detach() for each in memory)

        return replay


def fit(*callbacks: Any, step: WholeStep) -> Any:
    kept: list[Any] = []

    @on("after_batch")
    def keep(learn: Any) -> None:
        kept.append((learn.loss, learn.preds))

    learn = learner_of(*callbacks, keep, step=step, optimizer=partial(Adam, lr=0.01))
    learn.fit(3)
    assert step.fallback is None
    return learn, [learn.model.state_dict(), *kept]


@pytest.mark.parametrize("make", [list, lambda: [GradientAccumulation(3)]], ids=["alone", "accumulated"])
def test_what_a_step_returns_is_not_overwritten_by_the_next(make, marks):
    _, expected = fit(*make(), step=WholeStep("eager"))
    assert not marks
    learn, found = fit(*make(), step=WholeStep(Graphs(), graphs=True))
    assert_close(found, expected)
    assert len(marks) == 3 * learn.n_batches


def test_weights_and_buffers_are_not_copied_into_the_graph():
    graphs = Graphs()
    learn, _ = fit(step=WholeStep(graphs, graphs=True))
    assert graphs.n_static == len([*learn.model.parameters(), *learn.model.buffers()])
    assert graphs.n_copied == 2  # inputs and targets
