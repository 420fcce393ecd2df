"""Keep a part of a model's output: by its name or number, or by a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from learner.data.tensors import describe

Keep = str | int | Callable[[Any], Any] | None


def check_keep(keep: Any) -> None:
    """Check the argument before the pass."""
    if isinstance(keep, bool) or not (keep is None or isinstance(keep, (str, int)) or callable(keep)):
        raise TypeError(
            f"get_preds(keep={keep!r}): pass the name of a part of the output, such as 'logits', its index, "
            "such as 0, or a function of the output, such as lambda output: output.mean(1)."
        )


def part_of(output: Any, keep: Keep) -> Any:
    """The part of an output that `keep` selects."""
    if keep is None:
        return output
    if callable(keep):
        return keep(output)
    if isinstance(output, Mapping) and keep in output:
        return output[keep]
    if isinstance(keep, int) and isinstance(output, (tuple, list)) and -len(output) <= keep < len(output):
        return output[keep]
    if isinstance(keep, str) and not isinstance(output, (Tensor, Mapping)) and hasattr(output, keep):
        return getattr(output, keep)
    names = ", ".join(map(repr, parts_of(output)))
    raise ValueError(
        f"get_preds(keep={keep!r}): the model's output is {describe(output)}, which has no part {keep!r}. "
        + (f"It has: {names}." if names else "Leave keep out, or pass a function of the output.")
    )


def name_of_a_part(output: Any) -> str:
    """A value of `keep` for this output, for a message."""
    if type(output) in (tuple, list):
        return "0"
    names = [name for name, item in parts_of(output).items() if isinstance(item, Tensor)]
    meant = "logits" if "logits" in names else next(iter(names), None)
    return "lambda output: ..." if meant is None else repr(meant)


def parts_of(output: Any) -> dict[Any, Any]:
    """The parts of an output by name; empty if they have no names."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return output._asdict()
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    return dict(getattr(output, "__dict__", {})) if not isinstance(output, Tensor) else {}
