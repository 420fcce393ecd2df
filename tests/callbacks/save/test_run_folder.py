"""Problems with the folder of a run: lost locks, replaced folders, files that cannot be removed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks import Checkpoint, LearnerWarning, on
from callbacks.save.folder_lock import FolderLock
from learner.files import checkpoint_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def at_step(number: int, do: Callable[[], object]):
    """Call a function in the middle of a run, after a step."""

    @on("after_step", name=f"at_step_{number}")
    def act(learn):
        if learn.global_step == number:
            do()

    return act


def in_another_process(do: Callable[[], object]) -> str:
    """Call a function in a forked process, and return the text of what it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            do()
            words = "ended well"
        except BaseException as error:  # noqa: BLE001 - sent to the parent
            words = f"{type(error).__name__}: {error}"
        os.write(writer, words.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        words = answer.read()
    os.waitpid(child, 0)
    return words


def copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("backup"))


def read_lock(folder: Path) -> None:
    (folder / ".lock").read_bytes()


def append_to_lock(folder: Path) -> None:
    with (folder / ".lock").open("a"):
        pass


@pytest.mark.parametrize("touch", [copy, read_lock, append_to_lock])
def test_code_that_opens_and_closes_the_lock_file_leaves_the_folder_locked(make_learner, tmp_path, touch):
    folder, answers = tmp_path / "run", []

    def act():
        touch(folder)
        answers.append(in_another_process(lambda: FolderLock(folder)))

    make_learner(callbacks=[Checkpoint(folder), at_step(4, act)]).fit(2)
    assert len(answers) == 1
    assert f"another process saves to it (process {os.getpid()}" in answers[0]
    assert in_another_process(lambda: FolderLock(folder)) == "ended well"


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    lock = FolderLock(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        lock.release()
        FolderLock(tmp_path).release()
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_and_make(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def delete_lock(folder: Path) -> None:
    (folder / ".lock").unlink()


@pytest.mark.parametrize("change", [delete, delete_and_make, delete_lock])
def test_a_folder_deleted_during_a_run_is_locked_again_with_a_warning(make_learner, tmp_path, change):
    folder, answers = tmp_path / "run", []
    learn = make_learner(callbacks=[Checkpoint(folder), at_step(4, lambda: change(folder))])
    ask = at_step(7, lambda: answers.append(in_another_process(lambda: FolderLock(folder))))
    with pytest.warns(LearnerWarning, match="was deleted or replaced while this run trained"):
        learn.fit(3, callbacks=[ask])
    assert names(folder)[-1] == "step-000000009.pt"
    assert "another process saves to it" in answers[0]


def test_a_folder_that_was_moved_and_copied_back_is_locked_again_silently(make_learner, tmp_path):
    folder = tmp_path / "run"

    def move():
        folder.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", folder)

    make_learner(callbacks=[Checkpoint(folder), at_step(4, move)]).fit(3)
    assert names(folder) == ["step-000000003.pt", "step-000000006.pt", "step-000000009.pt"]


def other_run(folder: Path) -> FolderLock:
    shutil.rmtree(folder)
    lock = FolderLock(folder)
    (folder / "step-000000001.pt").write_text("from another run")
    return lock


def test_a_folder_in_which_another_run_was_started_is_not_written_to(make_learner, tmp_path):
    folder = tmp_path / "run"
    act = at_step(4, lambda: in_another_process(lambda: other_run(folder)))
    learn = make_learner(callbacks=[Checkpoint(folder), act])
    with pytest.raises(RuntimeError, match=r"run was replaced .*contains another run now.*elsewhere\.pt"):
        learn.fit(3)
    assert names(folder) == ["step-000000001.pt"]


def test_a_folder_that_another_run_has_locked_is_not_written_to(make_learner, tmp_path):
    folder = tmp_path / "run"
    ready, end = os.pipe(), os.pipe()

    def act():
        if os.fork():
            os.read(ready[0], 1)
            return
        os.close(end[1])
        other_run(folder)
        os.write(ready[1], b"1")
        os.read(end[0], 1)
        os._exit(0)

    try:
        with pytest.raises(RuntimeError, match=r"another process saves to it \(process \d+ on"):
            make_learner(callbacks=[Checkpoint(folder), at_step(4, act)]).fit(3)
    finally:
        os.close(end[1])
        os.wait()
        for each in (*ready, end[0]):
            os.close(each)
    assert names(folder) == ["step-000000001.pt"]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_with_a_warning(make_learner, tmp_path, monkeypatch, number):
    def no_locks(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(LearnerWarning, match="has no locks") as caught:
        make_learner(callbacks=[Checkpoint(tmp_path)]).fit(2)
    assert len(caught) == 1
    assert names(tmp_path) == ["step-000000003.pt", "step-000000006.pt"]


# Files that stay, disks that cannot sync, folders that cannot be written to


@pytest.mark.parametrize("stays", ["step-000000003.pt", "best-000000003.pt", "step-000000001.pt.tmp"])
def test_a_file_that_cannot_be_removed_does_not_end_the_training(make_learner, tmp_path, monkeypatch, stays):
    unlink = Path.unlink

    def fails(path, missing_ok=False):
        if path.name == stays and path.exists():
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    (tmp_path / "step-000000001.pt.tmp").touch()
    monkeypatch.setattr(Path, "unlink", fails)
    learn = make_learner(callbacks=[Checkpoint(tmp_path, keep=1, best="valid_loss")])
    with pytest.warns(LearnerWarning, match=f"cannot be removed.*{stays}") as caught:
        learn.fit(4)
    assert len(caught) == 1
    assert learn.global_step == 12
    kept = {"step-000000012.pt", "best-000000012.pt", "best.pt", ".lock", stays}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize("kind", ["files", "folders"])
def test_a_disk_that_cannot_sync_is_used_with_one_warning(make_learner, tmp_path, monkeypatch, number, kind):
    fsync = os.fsync

    def fails(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir() is (kind == "folders"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.warns(LearnerWarning, match="a power failure may lose the newest") as caught:
        make_learner(callbacks=[Checkpoint(tmp_path)]).fit(2)
    assert len(caught) == 1
    assert [checkpoint_file.damage_of(path) for path in tmp_path.glob("*.pt")] == [None, None]


def test_a_disk_that_fails_to_sync_is_a_failed_save(make_learner, tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.warns(LearnerWarning, match="was not written"), pytest.raises(OSError, match="Input/output"):
        make_learner(callbacks=[Checkpoint(tmp_path)]).fit(2)


def read_only(monkeypatch) -> None:
    def fails(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", fails)
    monkeypatch.setattr(checkpoint_file, "write", fails)


def test_a_finished_run_in_a_read_only_folder_is_reported_as_finished(
    make_learner, tmp_path, monkeypatch, capsys
):
    first = make_learner(callbacks=[Checkpoint(tmp_path)])
    first.fit(2)
    read_only(monkeypatch)
    learn = make_learner(callbacks=[Checkpoint(tmp_path)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit(2, resume="auto")
    assert "already finished (epoch 2 of 2)" in capsys.readouterr().out
    assert (learn.global_step, len(learn.history)) == (6, 2)
    assert learn.model.weight.equal(first.model.weight)
    with pytest.raises(OSError, match="Read-only"):
        learn.fit(3, resume="auto")
    assert learn.global_step == 6
