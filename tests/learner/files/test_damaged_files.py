"""Single checkpoint files: killed writers, full disks, altered bytes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import names_in

from learner.files import checkpoint_file

ROOT = Path(__file__).parents[3]


def start(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Start a function in its own process, which has imported everything it needs."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


# Writers that die, and disks that are full ----------------------------------------------------------------


def write_again(path: Path, written: Path) -> None:
    """Write a file again and again, and record the number after each."""
    torch.set_num_threads(1)
    for n in itertools.count(1):
        checkpoint_file.write(path, {"n": n, "weights": torch.full((2_000_000,), float(n))})
        with written.open("a") as file:
            file.write(f"{n}\n")


def wait_for(folder: Path, pattern: str, size: int) -> None:
    """Wait until a file exists and has grown to a size."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if any(path.stat().st_size >= size for path in folder.glob(pattern)):
                return
        except FileNotFoundError:
            continue
    raise TimeoutError(f"{pattern} has not grown to {size} bytes")


def test_a_writer_killed_at_any_moment_leaves_a_complete_file(tmp_path):
    folder, written = tmp_path / "files", tmp_path / "written"
    folder.mkdir()
    moments = random.Random(0)
    n_left_over = 0
    for _ in range(4):
        written.unlink(missing_ok=True)
        writer = start(write_again, folder / "one.ckpt", written)
        wait_for(tmp_path, "written", 1)
        wait_for(folder, "one.ckpt.*.tmp", moments.randrange(1, 8_000_000))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(30)
        last = int(written.read_text().split()[-1])
        contents = checkpoint_file.read(folder / "one.ckpt")
        assert contents["n"] in (last, last + 1), "the file is the last one recorded, or the next"
        assert contents["weights"].eq(contents["n"]).all()
        left_over = list(folder.glob("one.ckpt.*.tmp"))
        n_left_over += len(left_over)
        assert len(left_over) <= 1, "the next writer removes what the last one has left"
        assert len(names_in(folder)) == 1 + len(left_over)
    assert n_left_over, "no writer was killed within a write: the test has tried nothing"
    checkpoint_file.write(folder / "one.ckpt", {})
    assert names_in(folder) == ["one.ckpt"]


def test_two_processes_that_write_one_file_leave_a_complete_one(tmp_path):
    folder, records = tmp_path / "files", [tmp_path / "first", tmp_path / "second"]
    folder.mkdir()
    writers = [start(write_again, folder / "one.ckpt", each) for each in records]
    for each in records:
        wait_for(tmp_path, each.name, 8)  # four writes
        contents = checkpoint_file.read(folder / "one.ckpt")
        assert contents["weights"].eq(contents["n"]).all()
    assert all(each.is_alive() for each in writers)
    for each in writers:
        os.kill(each.pid, signal.SIGINT)
        each.join(30)
    assert names_in(folder) == ["one.ckpt"]


def test_a_writer_interrupted_at_any_moment_leaves_a_complete_file_and_nothing_else(tmp_path, capfd):
    folder, written = tmp_path / "files", tmp_path / "written"
    folder.mkdir()
    moments = random.Random(0)
    for _ in range(3):
        written.unlink(missing_ok=True)
        writer = start(write_again, folder / "one.ckpt", written)
        wait_for(tmp_path, "written", 1)
        time.sleep(moments.uniform(0, 0.15))
        os.kill(writer.pid, signal.SIGINT)
        writer.join(30)
        output = capfd.readouterr().err
        assert output.rstrip().endswith("KeyboardInterrupt"), output
        contents = checkpoint_file.read(folder / "one.ckpt")
        assert contents["weights"].eq(contents["n"]).all()
        assert names_in(folder) == ["one.ckpt"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupt_that_torch_hides_is_still_raised(path, stop, monkeypatch):
    write, waiting = checkpoint_file.Counted.write, [stop]

    def interrupted(self, data):
        if waiting and len(data) > 10_000:
            raise waiting.pop()  # before `write` can keep it
        return write(self, data)

    before = path.read_bytes()
    monkeypatch.setattr(checkpoint_file.Counted, "write", interrupted)
    with pytest.raises(type(stop)) as caught:
        checkpoint_file.write(path, {"weights": torch.zeros(100_000)})
    assert caught.value is stop
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


def write_limited(path: Path, n_numbers: int) -> None:
    """Write a file where a limit of the system is 300 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    checkpoint_file.write(path, {"weights": torch.zeros(n_numbers)})


@pytest.mark.parametrize("n_numbers", [80_000, 1_000_000])
def test_a_file_that_does_not_fit_on_the_disk_leaves_the_previous_one(path, n_numbers, capfd):
    before = path.read_bytes()
    start(write_limited, path, n_numbers).join(60)
    output = capfd.readouterr().err
    assert "OSError: [Errno 27] File too large" in output
    assert f"checkpoint {path} was written: it needs about {4 * n_numbers:,} bytes," in output
    assert "are free" in output
    assert "The previous file is unchanged." in output
    assert path.read_bytes() == before
    assert names_in(path.parent) == ["one.ckpt"]


def test_a_full_disk_is_reported_with_the_space_needed_and_the_space_free(path, monkeypatch):
    def full(file: Any, contents: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "fill", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint_file.write(path, {"weights": torch.zeros(1000)})
    assert "it needs about 4,000 bytes," in caught.value.__notes__[0]
    assert checkpoint_file.damage_of(path) is None


@pytest.mark.parametrize("folder", ["one.ckpt", "/proc", "gone"])
def test_an_error_names_the_file_that_cannot_be_created(path, folder):
    target = path.parent / folder / "two.ckpt"
    with pytest.raises(OSError, match=r"two\.ckpt") as caught:
        checkpoint_file.write(target, {"n": 1})
    assert f"{target}" in caught.value.__notes__[0]
    assert checkpoint_file.damage_of(path) is None


def test_a_target_that_is_a_folder_is_refused_and_kept(path):
    (path.parent / "two").mkdir()
    with pytest.raises(IsADirectoryError):
        checkpoint_file.write(path.parent / "two", {"n": 1})
    assert names_in(path.parent) == ["one.ckpt", "two"]


# Altered files --------------------------------------------------------------------------------------------


def test_a_file_with_a_flipped_bit_is_refused(path, tmp_path):
    content, altered = path.read_bytes(), tmp_path / "altered.ckpt"
    n_bits = 8 * len(content)
    spread = [n * n_bits // 200 for n in range(200)]
    ends = [*range(0, 8 * 64, 3), *range(n_bits - 8 * (checkpoint_file.TRAILER_SIZE + 100), n_bits, 3)]
    for bit in [*spread, *ends]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        altered.write_bytes(flipped)
        assert checkpoint_file.damage_of(altered), f"bit {bit % 8} of byte {bit // 8} of {len(content)}"
        with pytest.raises(checkpoint_file.CheckpointError):
            checkpoint_file.read(altered)


def test_a_truncated_file_is_refused(path, tmp_path):
    content, cut = path.read_bytes(), tmp_path / "cut.ckpt"
    for size in [*(n * len(content) // 100 for n in range(100)), *range(len(content) - 100, len(content))]:
        cut.write_bytes(content[:size])
        assert checkpoint_file.damage_of(cut), f"cut at {size} of {len(content)}"
        with pytest.raises(checkpoint_file.CheckpointError):
            checkpoint_file.read(cut)


def test_a_file_with_extra_bytes_at_its_end_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\n")
    assert checkpoint_file.damage_of(path)


def test_each_damaged_file_is_reported_with_its_own_reason(path):
    content = path.read_bytes()
    (path.parent / "empty.ckpt").write_bytes(b"")
    (path.parent / "cut.ckpt").write_bytes(content[:700])
    (path.parent / "altered.ckpt").write_bytes(content[:700] + b"\0" + content[701:])
    (path.parent / "page.ckpt").write_bytes(b"<html>")
    errors = {
        other: checkpoint_file.damage_of(path.parent / f"{other}.ckpt")
        for other in ("empty", "cut", "altered", "page")
    }
    words = {"empty": "empty", "cut": "cut short", "altered": "checksum", "page": "not a checkpoint of ours"}
    assert {name: words[name] in str(error) for name, error in errors.items()} == dict.fromkeys(words, True)
