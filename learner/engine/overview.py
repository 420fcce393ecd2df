"""What a learner is made of, as rows of a table."""

from __future__ import annotations

from torch.nn.parameter import is_lazy

from callbacks.core.registry import describe
from callbacks.history.tables import html_table
from learner.engine.composition import metrics_of
from learner.state.protocol import FullLearner


def overview(learn: FullLearner) -> str:
    """What a learner is made of, as an HTML table for a notebook."""
    known = [each for each in learn.model.parameters() if not is_lazy(each)]
    n_trainable = sum(each.numel() for each in known if each.requires_grad)
    metrics = [getattr(each, "__name__", type(each).__name__) for each in metrics_of(learn.callbacks)]
    loss_func = learn.loss_func
    rows = {
        "model": f"{type(learn.model).__name__}, {n_trainable:,} trainable parameters on {learn.device}",
        "data": repr(learn.data),
        "loss": "" if loss_func is None else getattr(loss_func, "__name__", type(loss_func).__name__),
        "optimizer": type(learn.optimizer).__name__,
        "metrics": ", ".join(metrics),
        "callbacks": ", ".join(map(describe, learn.callbacks)),
        "trained": f"{len(learn.history)} epochs",
    }
    return html_table([(name, text) for name, text in rows.items() if text])
