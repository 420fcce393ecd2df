"""The composed loop as a readable listing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from callbacks import Callback
from callbacks.core.registry import describe, listens
from callbacks.core.when import window_of
from learner.state.protocol import FullLearner

# The loop as it is nested in `loop.py`: an event or an [operation]. A test compares it with a real fit.
LOOP = """\
before_fit
  before_epoch
    before_train
      [place]
      before_batch
      [forward]
      after_pred
      [compute_loss]
      after_loss
      before_backward
      [backward]
      after_backward
      before_step
      [step]
      after_step
      [zero_grad]
      after_batch
    after_train
    before_validate
      [place]
      before_batch
      [forward]
      after_pred
      [compute_loss]
      after_loss
      after_batch
    after_validate
  after_epoch
after_fit
cleanup_fit"""


def explain(learn: FullLearner) -> str:
    """For each event and operation, who is called, in which order, and why there."""
    lines = []
    for line in lines_of_loop(validates=learn.data.valid is not None):
        word = line.strip()
        if word.startswith("["):
            lines += beside(line, doer_of(learn, word[1:-1]))
            continue
        plugins = [plugin for plugin in learn.callbacks if listens(plugin, word)]
        if word == "cleanup_fit":
            plugins.reverse()
        lines += beside(line, ", ".join(map(with_phase, plugins)))
    return "\n".join(lines)


def lines_of_loop(*, validates: bool) -> Sequence[str]:
    """The loop, with or without the pass over validation data."""
    lines = LOOP.splitlines()
    first, last = lines.index("    before_validate"), lines.index("    after_validate")
    return lines if validates else lines[:first] + lines[last + 1 :]


def beside(left: str, right: str) -> list[str]:
    """Two columns, the second one wrapped, in 100 characters."""
    lines = textwrap.wrap(right, 100 - 25) or [""]
    return [f"{left if number == 0 else '':<24} {line}".rstrip() for number, line in enumerate(lines)]


def doer_of(learn: FullLearner, operation: str) -> str:
    """Who does an operation, and within what."""
    if operation in learn.callbacks.overrides:
        doer = with_phase(learn.callbacks.overrides[operation])
    else:
        doer = type(learn).__name__ if hasattr(type(learn), operation) else "nobody"
    around = [describe(plugin) for plugin in learn.callbacks if operation in plugin.surrounds]
    return f"{doer}, within {', '.join(around)}" if around else doer


def with_phase(plugin: Callback) -> str:
    """A callback with the phase that puts it there, and its window."""
    window = window_of(plugin)
    return f"{describe(plugin)} ({plugin.order.name}{f', {window.window}' if window else ''})"
