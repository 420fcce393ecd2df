"""Files of the safetensors format: tensors by name, without code."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path

from torch import Tensor

from callbacks.core.missing_names import import_extra
from learner.files.checkpoint_file import CheckpointError, open_file


def is_safetensors(path: str | Path) -> bool:
    """Does the file start as this format does: the length of a header, then a brace?"""
    try:
        with open_file(Path(path).absolute()) as file:
            return file.seek(0, io.SEEK_END) > 9 and file.seek(8) == 8 and file.read(1) == b"{"
    except (OSError, ValueError):
        return False


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU."""
    torch_files = import_extra("safetensors.torch", path.name)
    try:
        return torch_files.load_file(path)
    except (OSError, import_module("safetensors").SafetensorError) as error:
        raise CheckpointError(
            f"{path}: it cannot be read as safetensors ({error}). Use another file."
        ) from None


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors that share no memory."""
    torch_files = import_extra("safetensors.torch", path.name)
    try:
        torch_files.save_file(state, path, {"format": "pt"})
    except import_module("safetensors").SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
