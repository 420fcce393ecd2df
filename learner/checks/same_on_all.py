"""Refuse a fit if its processes would train different things."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

from callbacks.core.contract import Order
from callbacks.core.registry import describe
from callbacks.distributed.rendezvous import of_ranks
from callbacks.optim.hyperparameters import settings_of
from learner.checks.process_checks import ranks_of
from learner.state.fingerprint import describe as describe_tensor
from learner.state.fingerprint import fingerprint
from learner.state.protocol import FullLearner

N_SHOWN = 6  # differences in a message


def check_same_on_all(learn: FullLearner) -> None:
    """Compare what the processes train, before the first batch.

    Raises:
        ValueError: something differs; the message, which all processes raise, shows what and where.
    """
    ranks = ranks_of(learn)
    if ranks.size == 1 or learn.ranks.size > 1:  # the latter in a fit within a fit
        return
    facts = facts_of(learn, sharded=ranks.sharded)
    if len(set(ranks.gather(zlib.crc32(repr(facts).encode())))) == 1:
        return
    found = ranks.gather(facts)
    names = dict.fromkeys(name for each in found for name in each)
    lines = [line_of(name, [each.get(name, "missing") for each in found]) for name in names]
    differing = [line for line in lines if line]
    more = [f"and {len(differing) - N_SHOWN} more"] if len(differing) > N_SHOWN else []
    raise ValueError(
        "the processes differ, so they would not train the same model:\n  "
        + "\n  ".join([*differing[:N_SHOWN], *more])
        + "\nStart all processes with the same code, data and versions. A random split of the data needs a "
        "seed, as in Data.from_tensors(..., seed=0). If each process reads its own data, pass "
        "Distributed(sharded=True)."
    )


def facts_of(learn: FullLearner, *, sharded: bool) -> dict[str, str]:
    """What must be equal on all processes, by name; nothing in it depends on a seed."""
    found = fingerprint(learn)
    compared = [each for each in learn.callbacks if each.order != Order.REPORT]  # one process alone may log
    facts = {f"model.{name}": describe_tensor(each) for name, each in found["model"].items()}
    frozen = [name for name, each in learn.model.named_parameters() if not each.requires_grad]
    facts["frozen parameters"] = ", ".join(frozen) or "none"
    if learn.optimizer is not None:
        settings = [settings_of(group) for group in learn.optimizer.param_groups]
        facts["optimizer"] = f"{found['optimizer']['class']} {settings}"
    facts["callbacks"] = ", ".join(map(describe, compared))
    facts["epochs"] = str(learn.n_epochs)
    facts["step at the start"] = str(learn.global_step)
    if not sharded:
        for part, values in found["loaders"].items():
            facts |= {f"data.{part}, {name}": str(value) for name, value in values.items()}
    facts |= {name: str(found["versions"][name]) for name in ("torch", "python", "plainlearner")}
    facts["checksum of the script"] = checksum_of(sys.modules["__main__"])
    return facts


def checksum_of(module: Any) -> str:
    """A checksum of the file of the script."""
    path = getattr(module, "__file__", None)
    return f"{zlib.crc32(Path(path).read_bytes()):x}" if path and Path(path).is_file() else ""


def line_of(name: str, values: list[str]) -> str:
    """The values of a fact that differ, with their ranks; an empty text if all are equal."""
    if len(set(values)) == 1:
        return ""
    where = {each: [rank for rank, value in enumerate(values) if value == each] for each in values}
    return f"{name}: " + "; ".join(f"{value[:200]} on {of_ranks(ranks)}" for value, ranks in where.items())
