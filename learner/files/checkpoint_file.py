"""Write a checkpoint file completely or not at all, and read it safely even if it is damaged or malicious."""

from __future__ import annotations

import difflib
import errno
import io
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from callbacks.history.paths import followed, replacing
from learner.files import archive, payload
from learner.files.sync import sync, sync_folder
from learner.files.trailer import ANOTHER, FORMAT, TRAILER_SIZE, check_complete, fields_of, trailer
from learner.files.unpacking import SCALARS

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(ValueError):
    """A file cannot be used as a checkpoint. The message has the path, the reason and the next step."""


def write(path: str | Path, contents: dict[str, Any], *, durable: bool = True) -> None:
    """Write a checkpoint to a temporary file, and rename it when it is complete.

    Args:
        path: the file. An existing file is replaced in one step.
        contents: plain data, as `to_plain` returns. `"format"` is added.
        durable: wait until it is on the disk. Otherwise a power failure can lose the new and the old file.

    Raises:
        TypeError: the contents are not plain data. Nothing is written.
        OSError: it cannot be written. The file at `path` is unchanged.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass a file, such as {str(Path(path, 'model.pt'))!r}.")
    contents = {"format": FORMAT, **contents}
    n_bytes = sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(contents))
    path = followed(Path(path).absolute())
    try:
        with replacing(path) as part, part.open("wb") as file:
            fill(file, contents)
            if durable:
                sync(file.fileno(), path.parent)
    except OSError as error:
        error.add_note(space_note(error, path, n_bytes))
        raise
    if durable:
        sync_folder(path.parent)


def fill(file: IO[bytes], contents: Any) -> None:
    """Write the payload and its trailer, and flush both."""
    length = save_to(file, lambda counted: torch.save(contents, counted, pickle_protocol=2))
    with Path(file.name).open("rb") as written:
        file.write(trailer(length, archive.sum_of(written, length)))
    file.flush()


def save_to(file: IO[bytes], save: Callable[[IO[bytes]], Any]) -> int:
    """Let torch write to an open file; returns the number of bytes.

    If torch itself opens the file, it raises a RuntimeError if the disk is full, and may end the process.

    Raises:
        OSError: the file cannot be written.
    """
    counted = Counted(file)
    try:
        save(cast(IO[bytes], counted))
    except RuntimeError as error:
        if (interrupt := interrupt_in(error)) is not None:
            raise interrupt from None
        raise
    if counted.error is not None:
        raise counted.error
    file.flush()
    return counted.length


def interrupt_in(error: BaseException) -> BaseException | None:
    """The KeyboardInterrupt, or similar, behind torch's own error, if it was raised between two writes."""
    hidden = error.__context__
    while hidden is not None and isinstance(hidden, Exception):
        hidden = hidden.__context__
    return hidden


class Counted:
    """The file that torch.save writes to. It counts the bytes.

    An error is kept until torch has finished, since torch continues to write and would hide the first error.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.length = file, 0
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
            except BaseException as error:  # noqa: BLE001 - raised again in `fill`
                self.error = error
        self.length += size
        return size

    def flush(self) -> None:
        pass  # `fill` flushes, since an error here would be lost


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, after checking that it is complete and has only plain data."""
    path = Path(path).absolute()
    try:
        with open_file(path) as file:
            length = check_complete(file)
            contents = payload.load(file, length)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    format_there = contents.get("format") if type(contents) is dict else None
    if type(format_there) is not int or not 1 <= format_there <= FORMAT:
        raise CheckpointError(
            f"{path} is complete, but is not a checkpoint of format 1 to {FORMAT}. {ANOTHER}"
        )
    return contents


def is_plain(path: str | Path) -> bool:
    """Is it a file of plain `torch.save`: a complete zip archive without our trailer?"""
    try:
        with open_file(Path(path).absolute()) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TRAILER_SIZE))
            if fields_of(file.read()) != (0, 0, 0):
                return False
            archive.find_directory(file, size)
    except (OSError, ValueError, struct.error):
        return False
    return True


def read_plain(path: str | Path) -> Any:
    """Read a file of plain `torch.save` onto the CPU, if it has only tensors and plain data."""
    path = Path(path).absolute()
    try:
        with open_file(path) as file:
            return payload.load(file, os.fstat(file.fileno()).st_size, is_ours=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {error} A file of plain torch.save may contain only tensors, numbers and text, as "
            "from torch.save(model.state_dict(), path). If you trust this file, load it by hand: pass "
            "the weights in torch.load(path, weights_only=False) to model.load_state_dict(...)."
        ) from None


def damage_of(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file; None if it is complete. Nothing is unpickled."""
    try:
        with open_file(Path(path).absolute()) as file:
            check_complete(file)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def seal_of(path: Path) -> bytes | None:
    """The trailer of a file, which differs if its bytes do; None if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(-TRAILER_SIZE, os.SEEK_END)
            return file.read()
    except OSError:
        return None


def open_file(path: Path) -> io.BufferedReader:
    """Open a file; raise with a suggestion if it is missing or a folder."""
    if path.is_dir():
        there = names_in(path)
        raise ValueError(f"it is a folder. Pass a file{' in it: ' + there if there else ''}.")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"it is a link to {path.readlink()}, which does not exist.")
    if not path.is_file():
        raise ValueError(f"there is no such file. {nearest(path)}")
    return path.open("rb")


def tensors_of(contents: Any) -> Iterator[Tensor]:
    """All tensors in plain data, each once."""
    seen: set[int] = set()
    left = [contents]
    while left:
        value = left.pop()
        kind = type(value)
        if kind in SCALARS or id(value) in seen:
            continue
        seen.add(id(value))
        if kind is Tensor:
            if value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise TypeError(f"a tensor of shape {tuple(value.shape)} shares memory: call to_plain first.")
            yield value
        elif kind is dict:
            left += [*value, *value.values()]
        elif kind in (list, tuple):
            left += value
        else:
            raise TypeError(
                f"a file holds plain data only, but the contents have a {kind.__name__}: call to_plain first."
            )


def space_note(error: OSError, path: Path, n_bytes: int) -> str:
    """Describe what could not be written and where; if the disk is full, also its free space."""
    if error.errno not in NO_SPACE:
        return f"while the checkpoint {path} was written; the previous file is unchanged."
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        free = "the free space is unknown"
    return (
        f"while the checkpoint {path} was written: it needs about {n_bytes:,} bytes, {free} (a quota or a "
        "limit on file size may allow less). The previous file is unchanged."
    )


def nearest(path: Path) -> str:
    """Suggest files with similar names next to a missing file."""
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either."
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, 3, 0.4) or names[:3]
    return f"Next to it are: {', '.join(close)}." if close else "Its folder is empty."


def names_in(folder: Path) -> str:
    """Some files in a folder, the last ones first."""
    names = sorted((entry.name for entry in folder.iterdir() if entry.is_file()), reverse=True)
    return ", ".join(names[:3])
