"""Hostile checkpoint files."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from learner.files import checkpoint_file


def seal(path: Path, payload: bytes) -> Path:
    """Make a payload a complete file: an attacker can compute checksums."""
    path.write_bytes(payload + checkpoint_file.trailer(len(payload), zlib.crc32(payload)))
    return path


def refused(path: Path) -> str:
    """The message of reading a complete but hostile file."""
    assert checkpoint_file.damage_of(path) is None
    with pytest.raises(checkpoint_file.CheckpointError) as caught:
        checkpoint_file.read(path)
    message = str(caught.value)
    assert "weights_only" not in message
    assert caught.value.__suppress_context__
    return message
