"""A complete checkpoint, and a process with little memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from learner.files import checkpoint_file


@pytest.fixture
def contents() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model": {"weight": torch.rand(40, 30, generator=generator), "bias": torch.zeros(30)},
        "clock": {"epoch": 3, "names": ["a", None, True, (1, 2.5)]},
    }


@pytest.fixture
def path(tmp_path: Path, contents: dict[str, object]) -> Path:
    """A complete checkpoint."""
    path = tmp_path / "one.ckpt"
    checkpoint_file.write(path, contents)
    return path


@pytest.fixture
def tight_memory():
    """Limit this process to 1 GiB more than it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
