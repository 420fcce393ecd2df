"""The states of metrics, to save and restore them, and descriptions of the metrics."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from callbacks.place.device import map_tensors


def described(name: str, metric: Any) -> str:
    """A metric's name, class and plain settings, to recognise a state that belongs to another metric."""
    if hasattr(metric, "items"):  # a MetricCollection
        return ", ".join(described(str(key), each) for key, each in metric.items())
    if isinstance(metric, partial):
        settings = metric.keywords
    elif hasattr(metric, "compute"):
        names = inspect.signature(type(metric)).parameters
        settings = {each: getattr(metric, each) for each in names if hasattr(metric, each)}
    else:
        return name
    plain = (bool, int, float, str, type(None))
    shown = ", ".join(f"{key}={value!r}" for key, value in settings.items() if isinstance(value, plain))
    return f"{name}: {type(metric).__name__}({shown})"


def state_of(metric: Any) -> dict[str, Any]:
    """The state of a metric: all states of torchmetrics, `state_dict` or the attributes of others."""
    if isinstance(metric, Mapping) or hasattr(metric, "items"):  # a MetricCollection
        return {name: state_of(each) for name, each in metric.items()}
    if hasattr(metric, "metric_state"):  # its state_dict leaves states out that are not persistent
        return {**metric.metric_state, "_update_count": metric._update_count}
    return copy.copy(metric.state_dict() if hasattr(metric, "state_dict") else vars(metric))


def put_state(metric: Any, state: dict[str, Any], device: torch.device) -> None:
    """Restore what `state_of` returned, on a device."""
    if isinstance(metric, Mapping) or hasattr(metric, "items"):
        for name, each in metric.items():
            put_state(each, state[name], device)
        return
    moved = map_tensors(copy.deepcopy(state), lambda leaf: leaf.to(device))
    if hasattr(metric, "load_state_dict") and not hasattr(metric, "metric_state"):
        metric.load_state_dict(moved)
        return
    for name, value in moved.items():
        setattr(metric, name, value)
