"""Check what was passed to `Distributed`, before a process waits for another one."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from callbacks.core.settings import is_number
from callbacks.distributed.sharded import DTYPES

#: Arguments of torch's wrappers that `Distributed` sets itself.
OWN = {"module", "mesh", "device_ids", "output_device", "process_group", "device_mesh", "mp_policy"}
#: The other arguments of `fully_shard`, which takes seconds to import.
OF_FULLY_SHARD = {"reshard_after_forward", "shard_placement_fn", "ignored_params"}


def check_kind(kind: Any, sharding: dict[str, Any], in_order: bool | None) -> None:
    """Check the kind, and that only `fsdp` has arguments for sharding."""
    given = [name for name, value in sharding.items() if value]
    if kind == "ddp" and given:
        raise ValueError(f"Distributed({given[0]}=...) needs FSDP: pass Distributed('fsdp', {given[0]}=...).")
    if kind == "fsdp" and in_order:
        raise ValueError(
            "Distributed('fsdp', in_order=True): torch adds sharded gradients in its own "
            "order. Omit in_order."
        )
    precision = sharding["precision"]
    if isinstance(precision, str) and precision not in DTYPES:
        raise ValueError(
            f"Distributed(precision={precision!r}): pass {' or '.join(map(repr, DTYPES))}, or pass a "
            "torch.distributed.fsdp.MixedPrecisionPolicy."
        )


def check_settings(kind: str, settings: dict[str, Any]) -> None:
    """Refuse arguments that torch's wrapper does not have.

    Raises:
        TypeError: with the one that was probably meant.
    """
    of_kind = {"ddp": {*inspect.signature(DistributedDataParallel).parameters}, "fsdp": OF_FULLY_SHARD}
    names = of_kind[kind]
    for name in settings:
        if name == "mixed_precision":
            raise TypeError(
                "Distributed(mixed_precision=...): add the callback MixedPrecision('bf16') instead, or use "
                "Distributed('fsdp', precision='bf16')."
            )
        if name in names - OWN:
            continue
        other = next((each for each, theirs in of_kind.items() if name in theirs - OWN), None)
        if other is not None:
            raise TypeError(f"Distributed({kind!r}, {name}=...): {name} is for {other!r}. Omit it.")
        known = ["kind", "batch", "sharded", "weight", "in_order", "mesh", "precision", "offload", "layers"]
        close = get_close_matches(name, [*known, "backend", "timeout", *names - OWN], n=1)
        hint = f" Did you mean {close[0]}?" if close else f" Available: {', '.join(sorted(names - OWN))}."
        raise TypeError(f"Distributed({kind!r}) has no argument {name!r}.{hint}")


def check_others(backend: Any, timeout: Any) -> None:
    """Refuse a backend or a timeout that cannot be used."""
    known = dist.Backend.backend_list
    if backend is not None and (not isinstance(backend, str) or not set(parts_of(backend)) <= {*known}):
        raise ValueError(
            f"Distributed(backend={backend!r}): pass a backend of torch, such as 'gloo' or 'nccl', or "
            "omit it."
        )
    if timeout is not None and (not is_number(timeout) or timeout <= 0):
        raise ValueError(f"Distributed(timeout={timeout!r}): timeout must be a number of seconds above 0.")


def parts_of(backend: str) -> list[str]:
    """The backends in a name such as `"gloo"` or `"cpu:gloo,cuda:nccl"`."""
    return [each.split(":")[-1].lower() for each in backend.split(",")]
