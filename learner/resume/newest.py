"""Find the newest checkpoint from which a run can resume."""

from __future__ import annotations

from pathlib import Path

from callbacks.core.warning import warn
from callbacks.save.checkpoint_folder import checkpoints_in, step_of
from learner.files import checkpoint_file, shard_files
from learner.resume import loading


def newest_intact(folders: list[Path]) -> Path | None:
    """The newest checkpoint that is not damaged; a warning reports each damaged one.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    damaged: list[str] = []
    paths = [path for folder in folders for path in checkpoints_in(folder)]
    for path in sorted(paths, key=step_of, reverse=True):
        problem = checkpoint_file.damage_of(path) or shard_files.damage_of(path)
        if problem is None and path.name.startswith("best") and loading.read(path)["fit"]["position"] is None:
            continue  # a file with the weights before an update is only for `learn.load`
        if problem is None:
            for words in damaged:
                warn(f"{words} Resuming from {path.name}.")
            return path
        damaged.append(f"{path.name}: {problem}")
    if damaged:
        lines, shown = "\n".join(f"  {each}" for each in damaged), " or ".join(map(str, folders))
        raise checkpoint_file.CheckpointError(
            f"no checkpoint in {shown} can be used:\n{lines}\nNothing was trained. Restore an intact file "
            "from a backup, or start a new run in another folder."
        )
    return None
