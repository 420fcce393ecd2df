"""Checkpoint files are complete or do not exist, and each problem has its own message."""

from __future__ import annotations

import os
import stat
import tempfile
import zlib
from pathlib import Path

import pytest
import torch
from tiny import names_in

from learner.files import checkpoint_file


def same(one: object, other: object) -> bool:
    """Are two states of plain data equal, tensors by their values?"""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype is other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


# Writing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_written_is_read_and_no_other_file_remains(tmp_path, contents, durable):
    path = tmp_path / "one.ckpt"
    checkpoint_file.write(path, contents, durable=durable)
    assert same(checkpoint_file.read(path), {"format": checkpoint_file.FORMAT, **contents})
    assert checkpoint_file.damage_of(path) is None
    assert names_in(tmp_path) == ["one.ckpt"]


def test_a_checkpoint_is_a_file_that_torch_loads(path, contents):
    assert same(torch.load(path, weights_only=True), {"format": checkpoint_file.FORMAT, **contents})


@pytest.mark.parametrize(
    "dtype",
    [
        *(
            torch.float64,
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        ),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
        *(torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (4, 3)], ids=str)
def test_tensors_of_every_kind_are_restored(tmp_path, dtype, shape):
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    checkpoint_file.write(
        tmp_path / "one", {"tensor": tensor, "turned": tensor.mT if len(shape) == 2 else tensor}
    )
    read = checkpoint_file.read(tmp_path / "one")
    assert read["tensor"].dtype is dtype
    assert read["tensor"].shape == shape
    assert read["tensor"].reshape(-1).tolist() == tensor.reshape(-1).tolist()
    assert read["turned"].stride() == (tensor.mT if len(shape) == 2 else tensor).stride()


def test_tied_tensors_stay_tied_and_are_saved_once(tmp_path):
    weight = torch.rand(1000)
    checkpoint_file.write(tmp_path / "one", {"a": weight, "b": weight})
    read = checkpoint_file.read(tmp_path / "one")
    assert read["a"].data_ptr() == read["b"].data_ptr()
    assert (tmp_path / "one").stat().st_size < 6000


def test_a_relative_path_is_relative_to_the_current_folder(tmp_path, monkeypatch, contents):
    monkeypatch.chdir(tmp_path)
    checkpoint_file.write("one.ckpt", contents)
    assert checkpoint_file.damage_of(tmp_path / "one.ckpt") is None
    assert same(checkpoint_file.read("one.ckpt")["clock"], contents["clock"])


def test_names_with_spaces_and_symbols_are_written_and_read(tmp_path, contents):
    path = tmp_path / "ein Ördner, ünïcode 模型" / "[step] 1*?.ckpt"
    path.parent.mkdir()
    checkpoint_file.write(path, contents)
    assert checkpoint_file.damage_of(path) is None


def test_what_is_not_plain_is_refused_before_a_file_is_touched(path, contents):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="plain data only, but the contents have a set: call to_plain first"):
        checkpoint_file.write(path, {"model": {"names": [{1}]}})
    with pytest.raises(TypeError, match="shares"):
        checkpoint_file.write(path, {"model": torch.zeros(1).expand(1000)})
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), MemoryError(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_an_error_at_any_write_leaves_the_file_unchanged(path, contents, monkeypatch, stop, at):
    before = path.read_bytes()
    writes = iter(range(1000))

    class Failing:
        """A file that fails at one write."""

        def __init__(self, file):
            self.file, self.name, self.flush = file, file.name, file.flush

        def write(self, data):
            if next(writes) == at:
                raise stop
            return self.file.write(data)

    fill = checkpoint_file.fill
    monkeypatch.setattr(checkpoint_file, "fill", lambda file, contents: fill(Failing(file), contents))
    with pytest.raises(type(stop)) as caught:
        checkpoint_file.write(path, {**contents, "more": 1})
    assert caught.value is stop
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


def test_an_error_names_the_file_to_be_written(tmp_path, contents):
    with pytest.raises(FileNotFoundError) as caught:
        checkpoint_file.write(tmp_path / "missing" / "one.ckpt", contents)
    assert f"{tmp_path}/missing/one.ckpt" in caught.value.__notes__[0]


def test_a_file_is_flushed_and_renamed_and_then_its_folder_is_flushed(tmp_path, contents, monkeypatch, fsync):
    done = []
    rename = Path.replace

    def recorded_fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def recorded_rename(part, target):
        done.append("rename")
        return rename(part, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_rename)
    checkpoint_file.write(tmp_path / "one", contents)
    assert done == ["file", "rename", "folder"]
    done.clear()
    checkpoint_file.write(tmp_path / "one", contents, durable=False)
    assert done == ["rename"]


def test_nothing_is_written_to_the_folder_of_temporary_files(tmp_path, contents, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = elsewhere.stat().st_mtime_ns
    checkpoint_file.write(tmp_path / "one", contents)
    checkpoint_file.read(tmp_path / "one")
    assert elsewhere.stat().st_mtime_ns == before, "an entry was made there"


def test_checksums_are_those_of_zlib_whether_torch_computes_them_or_not(tmp_path, contents):
    contents["large"] = torch.rand(1_000_000)
    usual = torch.serialization.get_crc32_options()
    for sums in (True, False):
        torch.serialization.set_crc32_options(sums)
        try:
            checkpoint_file.write(tmp_path / "one", contents)
        finally:
            torch.serialization.set_crc32_options(usual)
        content = (tmp_path / "one").read_bytes()
        payload = content[: -checkpoint_file.TRAILER_SIZE]
        assert content == payload + checkpoint_file.trailer(len(payload), zlib.crc32(payload))
        assert same(checkpoint_file.read(tmp_path / "one"), {"format": checkpoint_file.FORMAT, **contents})
