"""Refuse a fit in one of several processes if no callback distributes it."""

from __future__ import annotations

import os
import sys

from torch import nn

from callbacks.core.contract import Callback
from callbacks.core.modules import modules_beside
from callbacks.core.ranks import ALONE, Ranks
from callbacks.distributed.distributed import Distributed
from learner.state.protocol import FullLearner

REMEDY = (
    "Start it with torchrun, or add the callback Distributed. If this is the only process, unset "
    "WORLD_SIZE. If the processes should train independently, or you synchronize them yourself, add a "
    "callback whose class has `distributed = True`."
)


def check_processes(learn: FullLearner, given: list[Callback]) -> None:
    """Refuse a fit in several processes if each would train on all data; `given` are its own callbacks."""
    if any(callback.distributed for callback in (*learn.callbacks, *given)):
        return
    processes = n_processes()
    if processes > 1:
        raise RuntimeError(
            f"this fit is one of {processes} processes, and no callback distributes it: each would train on "
            f"all data and write its own files. {REMEDY}"
        )
    for place, module in {"model": learn.model, **modules_beside(learn)}.items():
        wrapper = wrapper_of(module)
        if wrapper is not None:
            raise RuntimeError(
                f"the {place} is wrapped in {wrapper}, and no callback distributes the fit: pass the module "
                f"without the wrapper. {REMEDY}"
            )


def ranks_of(learn: FullLearner) -> Ranks:
    """The processes that are to train together, before the fit starts; they join their group, if needed."""
    found = [each for each in learn.callbacks if each.distributed]
    if not found or not all(isinstance(each, Distributed) for each in found):
        return ALONE
    return found[0].meet()


def n_processes() -> int:
    """The number of processes that train together, by torch's process group or `WORLD_SIZE`."""
    distributed = sys.modules.get("torch.distributed")  # where it is not imported, no group has been started
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    size = os.environ.get("WORLD_SIZE", "").strip()
    return int(size) if size.isdecimal() else 1


def wrapper_of(model: nn.Module) -> str | None:
    """The name of the model's wrapper for training in several processes; None if it has none."""
    kinds = [nn.parallel.DistributedDataParallel]
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a model that it wraps has imported it
    names = ("FullyShardedDataParallel", "FSDPModule")
    kinds += [getattr(fsdp, name) for name in names if hasattr(fsdp, name)]
    found = (each for each in model.modules() if isinstance(each, tuple(kinds)))
    wrapped = next(found, None)
    return next((kind.__name__ for kind in kinds if isinstance(wrapped, kind)), None)
