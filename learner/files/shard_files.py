"""Write the tensors of a sharded model next to a checkpoint file, each process its part, and read them.

`torch.distributed.checkpoint` writes them to a folder, which a checkpoint file names. The folder counts only
once that file exists, and the file holds the size and the checksum of each file in the folder.
"""

from __future__ import annotations

import errno
import io
import pickle
import shutil
import uuid
import warnings
import zlib
from collections.abc import Callable
from enum import EnumType
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from callbacks.core.ranks import Ranks
from callbacks.model.shards import is_shard
from callbacks.save.shards_folder import SUFFIX, name_in
from learner.files import checkpoint_file
from learner.files.sync import sync_folder
from learner.files.trailer import ANOTHER

KEY = "shards"  # in the contents of a checkpoint
MARK = "<shard> "  # marks the name of a tensor in place of the tensor
CHUNK = 1 << 24
METADATA = ".metadata"

#: What the description of the tensors may name; torch reads it with pickle.
METADATA_NAMES: dict[str, tuple[str, ...]] = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "torch": ("Size",),
}


def split(value: Any, tensors: dict[str, Tensor], where: str = "") -> Any:
    """Contents with a mark instead of each shared tensor, which is added to `tensors` under its place."""
    if is_shard(value):
        tensors[where] = value.detach()
        return MARK + where
    if type(value) is dict:
        return {key: split(each, tensors, f"{where}/{key}".strip("/")) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(split(each, tensors, f"{where}/{at}") for at, each in enumerate(value))
    return value


def part_of(path: Path, ranks: Ranks) -> Path:
    """A new folder for the tensors, not complete yet; every process must call this."""
    name = ranks.first(lambda: f"{path.stem}-{uuid.uuid4().hex[:8]}{SUFFIX}.tmp")
    return path.with_name(name)


def write(part: Path, tensors: dict[str, Tensor]) -> None:
    """Write all tensors; every process must call this.

    Raises:
        OSError: a process could not write its part.
    """
    checkpoint: Any = import_module("torch.distributed.checkpoint")  # slow to import

    try:
        checkpoint.save(tensors, checkpoint_id=part)
    except checkpoint.CheckpointException as error:
        raise as_os_error(error) from None


def write_later(part: Path, tensors: dict[str, Tensor], group: Any) -> Callable[[], None]:
    """Copy all tensors, and write them in a thread; every process must call this.

    Args:
        part: the folder.
        tensors: by name.
        group: processes that nothing else uses, with a backend for the CPU.

    Returns:
        A function that waits until all processes have written; it raises OSError.
    """
    checkpoint: Any = import_module("torch.distributed.checkpoint")  # slow to import
    written = checkpoint.async_save(tensors, checkpoint_id=part, process_group=group)

    def _wait() -> None:
        try:
            written.result()
        except checkpoint.CheckpointException as error:
            raise as_os_error(error) from None

    return _wait


def as_os_error(error: Any) -> OSError:
    """The error for processes that could not write; torch hides that of a disk that is full."""
    rank, (reason, _) = next(iter(error.failures.items()))
    hint = "" if isinstance(reason, OSError) else " Its disk may be full."
    number = getattr(reason, "errno", None) or errno.EIO
    return OSError(number, f"rank {rank} could not write: {type(reason).__name__}: {reason}.{hint}")


def commit(part: Path) -> dict[str, Any]:
    """Give the folder its name.

    Returns:
        The entry in the checkpoint file: the name of the folder, and the size and checksum of each file.
    """
    files = {each.name: list(size_and_sum(each)) for each in sorted(part.iterdir())}
    sync_folder(part)
    folder = part.rename(part.with_suffix(""))
    sync_folder(folder.parent)
    return {"folder": folder.name, "files": files}


def size_and_sum(path: Path) -> tuple[int, int]:
    """The number of bytes in a file, and their checksum."""
    size = found = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, found = size + len(chunk), zlib.crc32(chunk, found)
    return size, found


def damage_of(path: Path) -> str | None:
    """What is wrong with the folder of a complete checkpoint file; None without a problem or a folder."""
    if name_in(path) is None:
        return None
    return problem_of(checkpoint_file.read(path)[KEY], path)


def problem_of(seal: dict[str, Any], path: Path) -> str | None:
    """What is wrong with the folder of a checkpoint file, by the sizes and checksums in that file."""
    folder = path.with_name(Path(seal["folder"]).name)
    if not folder.is_dir():
        return (
            f"its tensors are in the folder {folder.name}, which is not next to it. Copy both, and make "
            "sure that all processes write to the same disk."
        )
    for name, known in seal["files"].items():
        file = folder / Path(name).name
        if not file.is_file() or list(size_and_sum(file)) != known:
            return f"{folder.name}/{name} is missing, or is not what was written. {ANOTHER}"
    return None


def filled(contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contents of a file with its tensors, read whole; no other process is needed.

    Raises:
        ValueError: the folder is damaged.
    """
    seal = contents.get(KEY)
    if seal is None:
        return contents
    problem = problem_of(seal, path)
    if problem is not None:
        raise ValueError(problem)
    tensors = read(path.with_name(seal["folder"]))
    rest = {key: each for key, each in contents.items() if key != KEY}
    return tree_map_only(
        str, lambda word: tensors[word[len(MARK) :]] if word.startswith(MARK) else word, rest
    )


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whole.

    Raises:
        ValueError: its description names something else than tensors.
    """
    checkpoint: Any = import_module("torch.distributed.checkpoint")  # slow to import

    described = Description((folder / METADATA).read_bytes()).load()

    class Reader(checkpoint.FileSystemReader):
        """Uses the description that was checked."""

        def read_metadata(self, *_: Any, **__: Any) -> Any:
            return described

    tensors = {
        name: torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in described.state_dict_metadata.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no other process takes part, and this is intended
        checkpoint.load(tensors, storage_reader=Reader(folder), no_dist=True)
    return tensors


class Description(pickle.Unpickler):
    """Reads the description of the tensors, which may contain only names that torch writes."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("builtins", "getattr"):  # as Python 3.11.2 writes a member of an enum
            return member_of
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in METADATA_NAMES.get(module, ()):
            return super().find_class(module, name)
        raise ValueError(f"{METADATA} names {module}.{name}, which torch does not write; nothing was run.")


def member_of(kind: Any, name: str) -> Any:
    """A member of an enum, and no other attribute of anything.

    Raises:
        ValueError: it is not an enum, or has no such member.
    """
    if not (isinstance(kind, EnumType) and name in kind.__members__):
        raise ValueError(f"{METADATA} asks for {name!r} of {kind!r}, which torch does not; nothing was run.")
    return kind[name]


def remove(part: Path) -> None:
    """Remove a folder that was not completed."""
    shutil.rmtree(part, ignore_errors=True)
