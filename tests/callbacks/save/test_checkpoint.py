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
import torch
from resumed import in_memory, make
from torch import nn

from callbacks import Callback, Checkpoint, LearnerWarning, Order, on
from learner.files import checkpoint_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def write_fails(monkeypatch, when):
    """Let the disk be full whenever `when(path)` is true."""
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


def test_the_rest_of_a_killed_writer_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "step-000000007.pt.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_text("mine")
    make(tmp_path, data=in_memory).fit(1)
    assert not (tmp_path / "step-000000007.pt.tmp").exists()
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
        pytest.warns(LearnerWarning, match="the next interval tries again"),
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


def test_an_error_in_a_state_dict_names_its_callback(tmp_path):
    class Broken(Callback):
        def state_dict(self):
            raise KeyError("lost")

    learn = make(tmp_path, data=in_memory, callbacks=(Broken(),))
    with pytest.raises(KeyError) as caught:
        learn.fit(1)
    assert "in Broken.state_dict" in "".join(caught.value.__notes__)


@on("after_step")
def go_bad(learn):
    if learn.global_step == 3:
        with torch.no_grad():
            learn.model[0].weight[0, 0] = float("nan")


def test_nan_weights_are_never_written(tmp_path):
    learn = make(tmp_path, data=in_memory, callbacks=(go_bad,))
    with pytest.raises(FloatingPointError, match=r"step-000000003.pt was not written: '0.weight' holds NaN"):
        learn.fit(1)
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt"]


def test_a_buffer_may_be_infinite_like_a_mask(tmp_path):
    learn = make(data=in_memory)
    learn.model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    learn.save(tmp_path / "mine.pt")


@on("after_step")
def spoil_bank(learn):
    if learn.global_step == 2:
        learn.model.bank.fill_(float("nan"))


def test_a_buffer_that_becomes_nan_is_reported_once(tmp_path):
    learn = make(tmp_path, data=in_memory, callbacks=(spoil_bank,))
    learn.model.register_buffer("bank", torch.zeros(2))
    with pytest.warns(LearnerWarning, match=r"step-000000002.pt holds NaN in 'bank'") as caught:
        learn.fit(1)
    assert sum("'bank'" in str(each.message) for each in caught) == 1


def test_a_buffer_that_was_nan_at_the_start_is_not_reported(tmp_path, recwarn):
    learn = make(tmp_path / "run", data=in_memory, callbacks=(spoil_bank,))
    learn.model.register_buffer("bank", torch.full((2,), torch.nan))
    learn.save(tmp_path / "before.pt")
    learn.fit(1)
    learn.save(tmp_path / "after.pt")
    assert not [each for each in recwarn if "holds NaN" in str(each.message)]


def test_the_best_is_kept_beside_the_latest(tmp_path):
    values = [5.0, 1.0, 3.0, 4.0, 5.0]

    @on("after_epoch", order=Order.MEASURE)
    def set_loss(learn):
        learn.results["valid_loss"] = values[learn.epoch]

    learn = make(tmp_path, data=in_memory, every="1 epoch", keep=2, best="valid_loss")
    learn.remove_callbacks(learn.callbacks.early_stopping)
    learn.fit(5, callbacks=[set_loss])
    assert names(tmp_path) == ["best-000000010.pt", "best.pt", "step-000000020.pt", "step-000000025.pt"]
    assert (tmp_path / "best.pt").samefile(tmp_path / "best-000000010.pt")
    assert (learn.callbacks[Checkpoint].best, learn.callbacks[Checkpoint].best_epoch) == (1.0, 1)
    learn.load(tmp_path / "best-000000010.pt")
    assert learn.global_step == 10


def test_the_best_of_a_resumed_run_is_that_of_all_its_epochs(tmp_path):
    options = {"data": in_memory, "every": "1 epoch", "best": "train_loss"}
    first = make(tmp_path, **options)
    first.fit(1)
    learn = make(tmp_path, **options)
    learn.callbacks[Checkpoint]._best.min_delta = 1e6  # nothing can be better than what was
    with pytest.warns(LearnerWarning, match="planned"):
        learn.fit(2, resume="auto")
    assert learn.callbacks[Checkpoint].best == first.history[0]["train_loss"]
    assert [name for name in names(tmp_path) if name.startswith("best-")] == ["best-000000005.pt"]


def test_a_relative_folder_is_relative_to_where_the_fit_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    @on("after_batch")
    def move(learn):
        os.chdir(tmp_path / "elsewhere")

    make(Path("a folder"), data=in_memory).fit(1, callbacks=[move])
    assert names(tmp_path / "a folder")[-1] == "step-000000005.pt"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folder": 3}, "pass the name of a folder"),
        ({"folder": ""}, "pass the name of a folder"),
        ({"folder": "a", "keep": 0}, "the number of files that stay"),
        ({"folder": "a", "keep": True}, "the number of files that stay"),
        ({"folder": "a", "every": "often"}, "write a positive number"),
        ({"folder": "a", "best": 3}, "pass a result's name"),
        ({"folder": "a", "best": "valid_loss", "mode": "up"}, "there are 'min' and 'max'"),
    ],
)
def test_invalid_settings_are_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Checkpoint(**arguments)


def test_a_monitored_result_that_is_not_measured_is_refused_before_the_first_step(tmp_path):
    learn = make(tmp_path, data=in_memory, best="valid_acuracy")
    with pytest.raises(
        ValueError, match=r"Checkpoint\(best='valid_acuracy'\): nothing of that name is measured"
    ):
        learn.fit(1)
    assert learn.global_step == 0
