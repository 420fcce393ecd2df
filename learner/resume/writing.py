"""Write the contents of a checkpoint: one file, and a folder if the model is sharded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.core.ranks import Ranks, is_first_process
from callbacks.history.paths import PendingSave
from learner.files import checkpoint_file, shard_files, skeleton
from learner.files.plain import to_plain
from learner.state import unkept
from learner.state.protocol import FullLearner


def write_file(learn: FullLearner, path: Path, contents: dict[str, Any]) -> None:
    """Write one file."""
    write_plain(path, to_plain(unkept.without_unkept(learn, contents), ""))


def write_plain(path: Path, plain: dict[str, Any]) -> None:
    """Write plain data, with the checksums of its types."""
    checkpoint_file.write(path, {**plain, "kinds": skeleton.sums_of(plain)})


def write_shards(learn: FullLearner, path: Path, contents: dict[str, Any], ranks: Ranks) -> None:
    """Write a file, and sharded tensors to a folder next to it; every process must call this."""
    tensors: dict[str, torch.Tensor] = {}
    contents = shard_files.split(contents, tensors)
    part = shard_files.part_of(path, ranks)
    try:
        shard_files.write(part, tensors)
        ranks.first(lambda: write_file(learn, path, {**contents, shard_files.KEY: shard_files.commit(part)}))
    except BaseException:
        shard_files.remove(part)
        raise


def write_file_later(
    learn: FullLearner, path: Path, contents: dict[str, Any], then: Callable[[], None]
) -> PendingSave:
    """Write one file in a thread of the first process, from a copy of the contents."""
    plain = copied_plain(learn, contents)

    def _write() -> None:
        if plain is not None:
            write_plain(path, plain)
            then()

    return PendingSave(_write)


def write_shards_later(
    learn: FullLearner, path: Path, contents: dict[str, Any], then: Callable[[], None]
) -> PendingSave:
    """Write a file and a folder next to it in threads; every process must call this, in a fit."""
    tensors: dict[str, torch.Tensor] = {}
    contents = shard_files.split(contents, tensors)
    part = shard_files.part_of(path, learn.ranks)
    written = shard_files.write_later(part, tensors, learn.ranks.files_group())
    plain = copied_plain(learn, contents)

    def _write() -> None:
        try:
            written()
            if plain is not None:
                write_plain(path, {**plain, shard_files.KEY: shard_files.commit(part)})
                then()
        except BaseException:
            shard_files.remove(part)
            raise

    return PendingSave(_write)


def copied_plain(learn: FullLearner, contents: dict[str, Any]) -> dict[str, Any] | None:
    """The contents as plain data that later steps do not change; None in other processes than the first."""
    if not is_first_process():
        return None
    return copied(to_plain(unkept.without_unkept(learn, contents), ""), {})


def copied(value: Any, known: dict[Any, Any]) -> Any:
    """Plain data with copies of its tensors in main memory; an object that occurs twice is copied once.

    Args:
        value: as `to_plain` returns.
        known: the copies, with their originals, so that no other object gets the same id.
    """
    kind = type(value)
    if kind is Tensor:
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        found = known.get(place) if value.numel() else None  # as of tied weights
        if found is None:
            found = known[place] = value, value.to("cpu", copy=True)
        return found[1]
    if kind not in (dict, list, tuple):
        return value
    if id(value) not in known:
        if kind is dict:
            found = {key: copied(each, known) for key, each in value.items()}
        else:
            found = kind(copied(each, known) for each in value)
        known[id(value)] = value, found
    return known[id(value)][1]
