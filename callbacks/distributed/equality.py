"""Compare what must be equal in all processes that train together."""

from __future__ import annotations

from typing import Any

import torch

from callbacks.core.contract import LearnerProtocol

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def facts_of(learn: LearnerProtocol) -> dict[str, Any]:
    """What must be equal on all ranks, by name."""
    return {"updates": learn.global_step, "training items": learn.n_samples, "weights": sums_of(learn)}


def check_equal(learn: LearnerProtocol, found: list[dict[str, Any]]) -> None:
    """Compare the facts of all ranks.

    Raises:
        RuntimeError: they differ; with the ranks.
    """
    for name, value in found[0].items():
        others = [rank for rank, each in enumerate(found) if each[name] != value]
        if others:
            counts = "" if name == "weights" else f" ({', '.join(str(each[name]) for each in found)})"
            raise RuntimeError(
                f"the processes have diverged: rank 0 does not have the same {name} as rank "
                f"{' and '.join(map(str, others))}{counts}, in epoch {learn.epoch}, batch "
                f"{learn.batch_idx}. A callback has acted on some ranks only, for example with CancelStep "
                "or by changing weights or rates. Base its decision on values that are equal on all "
                "ranks: learn.results, the clock, or learn.ranks.gather(value)."
            )


def sums_of(learn: LearnerProtocol) -> list[int]:
    """A checksum of all trained parameters, exact and quick; waits for the device."""
    found = []
    for each in learn.model.parameters():
        bits = INTEGERS.get(each.element_size())
        is_whole = not hasattr(each, "device_mesh")  # of a sharded one, each rank has another part
        if each.requires_grad and bits and is_whole and not each.is_complex():
            found.append(each.detach().view(bits).sum())
    return torch.stack(found).tolist() if found else []
