"""Each problem of a checkpoint file that is read has its own message."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch

from learner.files import checkpoint_file

# Reading --------------------------------------------------------------------------------------------------


def problem_of(path: Path) -> str:
    """The message of reading a file, which the quick check must give too."""
    with pytest.raises(checkpoint_file.CheckpointError) as caught:
        checkpoint_file.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path.absolute()}: ")
    assert message.endswith(str(checkpoint_file.damage_of(path)))
    assert "weights_only" not in message
    return message


def test_a_folder_is_reported_with_the_files_in_it(path):
    assert "it is a folder. Pass a file in it: one.ckpt" in problem_of(path.parent)


def test_a_missing_file_is_reported_with_its_absolute_path_and_the_nearest_names(path, monkeypatch):
    (path.parent / "notes.txt").write_text("x")
    monkeypatch.chdir(path.parent)
    assert "there is no such file. Next to it are: one.ckpt." in problem_of(Path("on.ckpt"))
    assert "The folder" in problem_of(path.parent / "not" / "there")


def test_an_empty_file_is_reported(path):
    path.write_bytes(b"")
    assert "it is empty (0 bytes). Use another checkpoint." in problem_of(path)


@pytest.mark.parametrize("start", [b"<html><body>Not found</body>", b"\x80\x02}q\x00.", b"{", b"\x93NUMPY"])
def test_another_format_is_reported_with_its_first_bytes(path, start):
    path.write_bytes(start + b"\n" * 500)
    assert f"it is not a checkpoint of ours (starts with '{start.decode('latin1')[:1]}" in (
        problem_of(path).replace("'\\x80", "'\x80").replace("'\\x93", "'\x93")
    )


def test_a_file_of_plain_torch_save_is_reported(path):
    torch.save({"weight": torch.ones(3)}, path)
    assert "is a file that plain torch.save wrote" in problem_of(path)


def test_a_file_of_a_newer_format_is_reported_with_both_versions(path):
    content = path.read_bytes()[: -checkpoint_file.TRAILER_SIZE]
    path.write_bytes(content + checkpoint_file.trailer(len(content), zlib.crc32(content), version=7))
    assert "it has format 7, but this version of plainlearner reads formats up to 2" in problem_of(path)


def test_a_file_with_a_missing_part_is_reported_with_both_sizes(path):
    content = path.read_bytes()
    path.write_bytes(content[:200] + content[300:])
    assert f"it has {len(content) - 100} bytes, but {len(content)} were written" in problem_of(path)


def test_half_a_file_is_reported_with_its_size(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"it was cut short at {len(content) // 2} bytes" in problem_of(path)


def test_an_altered_byte_is_reported(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "the checksum differs" in problem_of(path)


@pytest.mark.parametrize("other", [{"format": 3}, {"format": 0}, {"format": True}, {"format": "1"}, {}, [1]])
def test_a_complete_file_of_other_contents_is_reported(path, other):
    with path.open("wb") as file:
        checkpoint_file.fill(file, other)
    with pytest.raises(checkpoint_file.CheckpointError, match="is not a checkpoint of format 1 to 2"):
        checkpoint_file.read(path)


def test_a_file_without_permission_to_read_is_reported(path, monkeypatch):
    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in problem_of(path)


def test_tensors_are_read_onto_the_cpu(path):
    assert checkpoint_file.read(path)["model"]["weight"].device.type == "cpu"


def test_reading_does_not_depend_on_settings_of_torch(path, monkeypatch):
    from torch.utils.serialization import config

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with config.patch("load.mmap", True):
        assert checkpoint_file.read(path)["clock"]["epoch"] == 3
