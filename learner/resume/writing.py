"""Write the contents of a checkpoint: one file, and a folder if the model is sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from callbacks.core.ranks import Ranks
from learner.files import checkpoint_file, shard_files, skeleton
from learner.files.plain import to_plain
from learner.state import unkept
from learner.state.protocol import FullLearner


def write_file(learn: FullLearner, path: Path, contents: dict[str, Any]) -> None:
    """Write one file."""
    plain = to_plain(unkept.without_unkept(learn, contents), "")
    checkpoint_file.write(path, {**plain, "kinds": skeleton.sums_of(plain)})


def write_shards(learn: FullLearner, path: Path, contents: dict[str, Any], ranks: Ranks) -> None:
    """Write a file, and shared tensors to a folder beside it; every process must call this."""
    tensors: dict[str, torch.Tensor] = {}
    contents = shard_files.split(contents, tensors)
    part = shard_files.part_of(path, ranks)
    try:
        shard_files.write(part, tensors)
        ranks.first(lambda: write_file(learn, path, {**contents, shard_files.KEY: shard_files.commit(part)}))
    except BaseException:
        shard_files.remove(part)
        raise
