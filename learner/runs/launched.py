"""One run in several processes: one recipe and one folder, even if the launcher starts them again."""

from __future__ import annotations

import os
import platform
import shutil
import zlib
from pathlib import Path

from callbacks.core.output import print_line
from callbacks.core.ranks import Ranks
from callbacks.distributed.rendezvous import of_ranks
from callbacks.save.checkpoint_folder import saved_in
from learner.files.run_files import shown_path
from learner.recipes.recipe import Recipe
from learner.recipes.recipe_errors import Mistake
from learner.runs.run_folder import new_folder, numbered
from learner.runs.run_recorder import code_of

LAUNCH = ".launch"  # the file in a run's folder that names the launcher that started it


def check_same_recipe(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse to train if the recipe or the Python files next to it differ between processes."""
    if ranks.size == 1:
        return
    texts = {recipe.path.name: recipe.resolved(), **code_of(recipe)}
    found = ranks.gather({name: zlib.crc32(text.encode()) for name, text in texts.items()})
    differing = [rank for rank, each in enumerate(found) if each != found[0]]
    if differing:
        names = sorted({name for each in found for name in each if each.get(name) != found[0].get(name)})
        raise Mistake(
            f"{', '.join(names)}: {of_ranks(differing)} read a different text than rank 0. Copy the same "
            "files to all machines, or put them on a disk that all of them see."
        )


def folder_of_run(recipe: Recipe, runs: Path) -> tuple[Path, bool]:
    """The folder of a new run, and whether it has a checkpoint to resume from.

    If `torchrun` starts the processes again because one was lost, it is the folder of the same run. Without a
    checkpoint, the run starts from the beginning in it.
    """
    folder = restarted(recipe, runs)
    if folder is not None and saved_in(folder):
        return folder, True
    if folder is None:
        folder = new_folder(runs, recipe.path)
    else:
        print_line(
            f"restarted, but {shown_path(folder)} has no checkpoint: the run starts from the beginning"
        )
        shutil.rmtree(folder)
        folder.mkdir()
    if launch():
        (folder / LAUNCH).write_text(launch(), encoding="utf-8")
    return folder, False


def restarted(recipe: Recipe, runs: Path) -> Path | None:
    """The folder of the run that this launcher has started before, if it has started one."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    marks = [each / LAUNCH for each in numbered(runs, recipe.path).values()]
    found = [each for each in marks if each.is_file() and each.read_text(encoding="utf-8") == launch()]
    return found[0].parent if found else None


def launch() -> str:
    """A name for the launcher of this process; empty without `torchrun`."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"{platform.node()} {os.getppid()}" if name == "none" else name
