"""STUB by the lead, until the real one is here."""
from __future__ import annotations
from itertools import islice
from typing import Any
from learner import snapshots
from learner.tensors import TensorLoader
def mark(loader: Any) -> dict[str, Any]:
    return {"random": snapshots.random_states(), "loader": loader.state_dict() if isinstance(loader, TensorLoader) else None}
def now(loader: Any) -> dict[str, Any]:
    return mark(loader)
def go_on(loader: Any, batches: Any, mark: Any, now: Any, n_done: int) -> Any:
    snapshots.set_random_states(mark["random"])
    if mark["loader"]:
        loader.load_state_dict(mark["loader"])
    it = iter(batches())
    for _ in islice(it, n_done):
        pass
    snapshots.set_random_states(now["random"])
    return it
def limits(loader: Any) -> str | None:
    return None
def generator_states(root: Any) -> dict[str, Any]:
    return {}
def set_generator_states(root: Any, states: dict[str, Any]) -> None:
    pass
