"""The validation passes of an epoch, and the names of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from learner.state.protocol import FullLearner, Start


def left(learn: FullLearner, start: Start | None) -> Iterator[tuple[str, Any]]:
    """The names and loaders of the validation passes to run in this epoch, until the fit is stopped."""
    n_done = start.n_validated if start else 0
    for name, loader in list(learn.data.validations.items())[n_done:]:
        if learn.stop_reason:
            return
        yield name, loader


def end(learn: FullLearner, name: str, after_validate: Callable[[FullLearner], Any]) -> None:
    """Call the hooks after a validation pass, and give their results the name of the data as a prefix.

    For other data than `data.valid` the hooks see no other results, so they neither read nor overwrite those
    of `data.valid`.
    """
    if name == "valid":
        after_validate(learn)
        return
    results = learn.results
    before = dict(results)
    results.clear()
    try:
        after_validate(learn)
    finally:
        found = {renamed(key, name): value for key, value in results.items()}
        results.clear()
        results.update(before | found)


def renamed(key: str, name: str) -> str:
    """`test_loss` for `valid_loss` and for `loss`; a name that has the prefix already stays."""
    return key if key.startswith(f"{name}_") else f"{name}_{key.removeprefix('valid_')}"
