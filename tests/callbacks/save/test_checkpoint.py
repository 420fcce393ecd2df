"""Checkpoints of a fit: when they are written, on bad disks, and what they may contain."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import textwrap
import warnings
from pathlib import Path

import processes
import pytest
from resumed import in_memory, make
from torch import nn

from callbacks import Callback, Checkpoint, LearnerWarning, on
from learner.files import checkpoint_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def write_fails(monkeypatch, when):
    """The disk is full whenever `when(path)` is true."""
    write = checkpoint_file.write

    def full(path, contents, **options):
        if when(path):
            error = OSError(28, "No space left on device")
            error.add_note("1,000 bytes are needed and 10 are free.")
            raise error
        write(path, contents, **options)

    monkeypatch.setattr(checkpoint_file, "write", full)


def test_older_files_are_removed_only_after_a_newer_one_is_written(tmp_path, monkeypatch):
    write, there = checkpoint_file.write, []

    def look(path, contents, **options):
        write(path, contents, **options)
        there.append(len(names(tmp_path)))

    monkeypatch.setattr(checkpoint_file, "write", look)
    make(tmp_path, data=in_memory, keep=1).fit(2)
    assert names(tmp_path) == ["step-000000010.pt"]
    assert there[1:9] == [2] * 8


def test_all_files_are_kept_with_keep_none(tmp_path):
    make(tmp_path, data=in_memory, keep=None).fit(2)
    assert len(names(tmp_path)) == 10


@pytest.mark.parametrize("name", ["step-000000007.pt.0123abcd-12345-89abcdef.tmp", "step-000000007.pt.tmp"])
def test_the_rest_of_a_killed_writer_is_removed_and_nothing_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"half")
    (tmp_path / "notes.tmp").write_text("mine")
    make(tmp_path, data=in_memory).fit(1)
    assert not (tmp_path / name).exists()
    assert (tmp_path / "notes.tmp").read_text() == "mine"


def test_a_full_disk_does_not_end_the_training_and_is_reported(tmp_path, monkeypatch):
    write_fails(monkeypatch, lambda path: path.name == "step-000000003.pt")
    learn = make(tmp_path, data=in_memory)
    with pytest.warns(LearnerWarning, match=r"step-000000003.pt was not written.*No space left.*are needed"):
        learn.fit(1)
    assert names(tmp_path) == ["step-000000002.pt", "step-000000004.pt", "step-000000005.pt"]


def test_a_disk_that_stays_full_ends_the_training_and_leaves_the_files_intact(tmp_path, monkeypatch):
    write_fails(monkeypatch, lambda path: path.name > "step-000000002.pt")
    learn = make(tmp_path, data=in_memory)
    with (
        pytest.warns(LearnerWarning, match="saving is tried again after the next interval"),
        pytest.raises(OSError, match="No space") as caught,
    ):
        learn.fit(1)
    assert "2 in a row" in "".join(caught.value.__notes__)
    assert learn.global_step == 4
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt"]


def test_after_a_failed_last_save_the_weights_can_be_saved_elsewhere(tmp_path, monkeypatch):
    learn = make(tmp_path / "run", data=in_memory, every="1 epoch")
    write_fails(monkeypatch, lambda path: path.parent.name == "run")
    with pytest.raises(OSError, match="No space") as caught:
        learn.fit(1)
    assert "learn.save('elsewhere.pt')" in "".join(caught.value.__notes__)
    learn.save(tmp_path / "elsewhere.pt")


def fail(learn):
    raise ConnectionError("the data server does not answer")


@pytest.mark.parametrize(
    ("event", "ends", "kind"),
    [
        ("after_loss", lambda learn: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
        ("after_loss", lambda learn: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt),
        ("after_batch", fail, ConnectionError),
    ],
    ids=["SIGTERM", "Ctrl-C", "error"],
)
@pytest.mark.parametrize("full_from", [1, 2])
def test_a_failed_last_save_does_not_change_how_a_fit_ends(
    tmp_path, monkeypatch, event, ends, kind, full_from
):
    ending = on(event, name="ending")(lambda learn: learn.batch_idx == 1 and ends(learn))
    write_fails(monkeypatch, lambda path: f"step-{full_from:09}.pt" <= path.name < "step-9")
    learn = make(tmp_path, data=in_memory)
    with warnings.catch_warnings(record=True, action="always") as caught, pytest.raises(kind) as ended:
        learn.fit(1, callbacks=[ending])
    words = [str(each.message) for each in caught if "was not written" in str(each.message)]
    assert len(words) == 3 - full_from
    assert "the fit ends here" in words[-1]
    assert "next interval" not in words[-1]
    if kind is SystemExit:
        assert ended.value.code == 143


FILE_SIZE_LIMIT = """
    import resource, signal, sys, warnings
    from pathlib import Path
    from resumed import in_memory, make
    learn = make(Path(sys.argv[1]), data=in_memory)
    size = 0

    from callbacks import on
    @on("after_batch")
    def limit(learn):
        if learn.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    learn.fit(1, callbacks=[limit])
"""


def run_script(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    return processes.run(str(path), *arguments)


def test_a_file_size_limit_of_the_system_leaves_no_partial_file(tmp_path):
    done = run_script(tmp_path, FILE_SIZE_LIMIT, str(tmp_path / "run"))
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "was not written" in done.stderr
    left = names(tmp_path / "run")
    assert left == ["step-000000001.pt", "step-000000002.pt"]
    assert not list((tmp_path / "run").glob("*.tmp"))
    learn = make(tmp_path / "run", data=in_memory)
    learn.fit(1, resume="must")
    assert learn.global_step == 5


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_an_impossible_folder_is_reported_before_the_first_step(tmp_path, kind):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if kind == "a file" else tmp_path / "file" / "run"
    learn = make(folder, data=in_memory)
    with pytest.raises(OSError, match="file") as caught:
        learn.fit(1)
    assert "pass a folder that can be written to" in "".join(caught.value.__notes__)
    assert learn.global_step == 0


def test_a_deleted_folder_is_created_again(tmp_path):
    @on("after_batch")
    def delete(learn):
        if learn.global_step == 2 and learn.training:
            shutil.rmtree(tmp_path / "run")

    learn = make(tmp_path / "run", data=in_memory)
    with pytest.warns(LearnerWarning, match="was deleted or replaced"):
        learn.fit(1, callbacks=[delete])
    assert names(tmp_path / "run")[-1] == "step-000000005.pt"


SECOND = """
    import sys
    from pathlib import Path
    from resumed import in_memory, make
    make(Path(sys.argv[1]), data=in_memory).fit(1, resume="auto")
"""


def test_a_second_process_is_refused(tmp_path):
    answers = []

    @on("after_batch")
    def start_another(learn):
        if learn.global_step == 2 and learn.training:
            answers.append(run_script(tmp_path, SECOND, str(tmp_path / "run")))

    make(tmp_path / "run", data=in_memory).fit(1, callbacks=[start_another])
    assert answers[0].returncode == 1
    assert f"another process saves to it (process {os.getpid()}" in answers[0].stderr


def test_a_second_learner_of_one_process_is_refused(tmp_path):
    @on("after_batch")
    def start_another(learn):
        make(tmp_path / "run", data=in_memory).fit(1, resume="auto")

    with pytest.raises(RuntimeError, match="another learner of this process"):
        make(tmp_path / "run", data=in_memory).fit(1, callbacks=[start_another])
    make(tmp_path / "run", data=in_memory).fit(1, resume="auto")


def test_a_folder_with_a_run_is_refused_with_two_hints(tmp_path):
    make(tmp_path, data=in_memory).fit(1)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    learn = make(tmp_path, data=in_memory)
    with pytest.raises(FileExistsError, match=r"resume='auto'.*another folder"):
        learn.fit(1)
    assert learn.global_step == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


def test_a_second_fit_of_the_same_learner_continues_in_its_folder(tmp_path):
    learn = make(tmp_path, data=in_memory)
    learn.fit(1)
    learn.fit(1)
    assert names(tmp_path)[-1] == "step-000000010.pt"


class Odd(Callback):
    state = ("thing",)

    def __init__(self, thing):
        super().__init__()
        self.thing = thing


def test_a_state_that_cannot_be_saved_is_refused_by_name(tmp_path):
    learn = make(tmp_path, data=in_memory, callbacks=(Odd({"layers": [nn.Linear(1, 1)]}),))
    with pytest.raises(TypeError, match=r"callbacks\.odd\.thing\.layers\[0\] is of type"):
        learn.fit(1)
    assert not names(tmp_path)


def test_the_name_of_the_best_result_is_a_text(tmp_path):
    for wrong in (True, ""):
        with pytest.raises(TypeError, match=rf"Checkpoint\(best={wrong!r}\): pass a result's name"):
            Checkpoint(tmp_path, best=wrong)
