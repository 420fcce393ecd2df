"""`learn.explain()`: the loop with its callbacks as a readable listing."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from shutil import get_terminal_size

from torch.nn.parameter import is_lazy

from callbacks import Callback
from callbacks.core.modules import plain_name
from callbacks.core.registry import describe
from callbacks.core.when import window_of
from callbacks.history.tables import html_table
from callbacks.record.bar import is_terminal
from learner.engine.composition import metrics_of
from learner.state.protocol import FullLearner

WIDEST = 100  # characters of a line

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
    """For each event and operation, what is called, in which order, and why there."""
    lines = []
    for line in lines_of_loop(validates=learn.data.valid is not None):
        word = line.strip()
        if word.startswith("["):
            lines += beside(line, implementation_of(learn, word[1:-1]))
            continue
        called = [callback for callback in learn.callbacks if callback.listens_to(word)]
        if word == "cleanup_fit":
            called.reverse()
        lines += beside(line, ", ".join(map(with_phase, called)))
    return "\n".join(lines)


def lines_of_loop(*, validates: bool) -> Sequence[str]:
    """The lines of the loop, with or without the validation pass."""
    lines = LOOP.splitlines()
    first, last = lines.index("    before_validate"), lines.index("    after_validate")
    return lines if validates else lines[:first] + lines[last + 1 :]


def beside(left: str, right: str) -> list[str]:
    """Two columns that fit the screen; the right one is wrapped."""
    lines = textwrap.wrap(right, max(n_columns() - 25, 20), break_on_hyphens=False) or [""]
    return [f"{left if number == 0 else '':<24} {line}".rstrip() for number, line in enumerate(lines)]


def n_columns() -> int:
    """The width of a line: that of the terminal, but at most 100."""
    return min(get_terminal_size().columns, WIDEST) if is_terminal(sys.stdout) else WIDEST


def implementation_of(learn: FullLearner, operation: str) -> str:
    """The callback or class that implements an operation, and the callbacks around it."""
    if operation in learn.callbacks.overrides:
        owner = with_phase(learn.callbacks.overrides[operation])
    else:
        owner = type(learn).__name__ if hasattr(type(learn), operation) else "nobody"
    around = [describe(callback) for callback in learn.callbacks if operation in callback.surrounds]
    return f"{owner}, within {', '.join(around)}" if around else owner


def with_phase(callback: Callback) -> str:
    """A callback with its phase, which determines the order, and its window."""
    window = window_of(callback)
    return f"{describe(callback)} ({callback.order.name}{f', {window.window}' if window else ''})"


def overview(learn: FullLearner) -> str:
    """What a learner is made of, as an HTML table for a notebook."""
    known = [each for each in learn.model.parameters() if not is_lazy(each)]
    n_trainable = sum(each.numel() for each in known if each.requires_grad)
    metrics = map(plain_name, metrics_of(learn.callbacks))
    rows = {
        "model": f"{type(learn.model).__name__}, {n_trainable:,} trainable parameters on {learn.device}",
        "data": repr(learn.data),
        "loss": "" if learn.loss_func is None else plain_name(learn.loss_func),
        "optimizer": type(learn.optimizer).__name__,
        "metrics": ", ".join(metrics),
        "callbacks": ", ".join(map(describe, learn.callbacks)),
        "trained": f"{len(learn.history)} epochs",
    }
    return html_table([(name, text) for name, text in rows.items() if text])
