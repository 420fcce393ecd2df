"""A process that fails, hangs or is killed ends all of them, with an error that names it."""

from __future__ import annotations

import os
import signal
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.in_ranks import in_ranks
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException

from callbacks import Callback, Checkpoint, Order
from callbacks.distributed.distributed import Distributed
from learner import Data, Learner
from learner.files import checkpoint_file


class At(Callback):
    """Does something once in the third batch, on rank 1."""

    def __init__(self, act: Any):
        super().__init__()
        self.act = act

    def after_batch(self, learn: Any) -> None:
        if learn.ranks.rank == 1 and learn.training and learn.epoch == 0 and learn.batch_idx == 2:
            self.act()


def learner_of(*callbacks: Any, seed: int = 3, width: int = 1, n_items: int = 40, lr: float = 0.1) -> Learner:
    torch.manual_seed(0)
    x = torch.randn(n_items, 2)
    data = Data.from_tensors(x, x.sum(1, keepdim=True).repeat(1, width), 8, valid=0.25, seed=seed)
    sgd = partial(torch.optim.SGD, lr=lr)
    return Learner(nn.Linear(2, width), data, nn.functional.mse_loss, sgd, [Distributed(), *callbacks])


def error_of(*given: Any, callbacks: Any = (), epochs: int = 2, **settings: Any) -> tuple[str, float]:
    """The error of a fit with its notes, and the seconds that it took."""
    begin, frozen = time.monotonic(), settings.pop("frozen", False)
    learn = learner_of(*given, *callbacks, **settings)
    learn.model.bias.requires_grad_(not frozen)
    try:
        learn.fit(epochs)
    except BaseException as error:  # noqa: BLE001
        lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        lines += ["ended by the launcher"] if getattr(error, "is_ended", False) else []
        return "\n".join(lines), time.monotonic() - begin
    return "", time.monotonic() - begin


def fail() -> None:
    raise ArithmeticError("too high")


def test_an_error_in_a_hook_names_rank_event_callback_epoch_and_batch_to_the_others() -> None:
    (words, seconds), (own, _), (third, _) = in_ranks(3, error_of, At(fail))
    assert own.startswith("ArithmeticError: too high")
    for each in (words, third):
        assert "OtherRankError: rank 1 failed, so rank" in each
        assert (
            "ArithmeticError: too high\n  in callback At.after_batch\n  at epoch 0/2, batch 2/4, train"
            in each
        )
    assert seconds < 20


def test_the_same_error_on_all_ranks_keeps_its_type_and_is_noted() -> None:
    found = in_ranks(2, error_of, AtAll())
    assert all(words.startswith("ValueError: odd") for words, _ in found)
    assert ["rank 0 has raised the same error" in words for words, _ in found] == [False, True]


class AtAll(Callback):
    def after_batch(self, learn: Any) -> None:
        raise ValueError("odd")


def test_an_error_before_the_first_batch_does_not_leave_the_others_waiting() -> None:
    (words, _), (own, _) = in_ranks(2, error_of, BeforeFit())
    assert own.startswith("ArithmeticError")
    assert "in callback BeforeFit.before_fit" in words


class BeforeFit(Callback):
    def before_fit(self, learn: Any) -> None:
        if learn.ranks.rank == 1:
            fail()


def test_a_hanging_rank_is_named_with_its_place_and_its_line() -> None:
    (words, seconds), _ = in_ranks(2, error_of, At(partial(time.sleep, 4.5)), limit=1)
    assert "rank 0, which waited: at epoch 0/2, batch 3/4, train" in words
    assert "rank 1 is alive; for" in words
    assert "at epoch 0/2, batch 2/4, train, in callback At.after_batch, test_failing_ranks.py:" in words
    assert seconds < 20


def kill() -> None:
    time.sleep(1.5)  # more than a heartbeat
    os.kill(os.getpid(), signal.SIGKILL)


def write_error(folder: Path, ignores: bool, *callbacks: Any) -> None:
    if ignores:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    words, _ = error_of(*callbacks)
    (folder / os.environ["RANK"]).write_text(words)


def words_after_a_kill(folder: Path, *, ignores: bool) -> str:
    """What rank 0 raises when rank 1 is killed; the launcher then sends it SIGTERM, which it may ignore."""
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_ranks(2, write_error, folder, ignores, At(kill))
    return (folder / "0").read_text()


def test_a_killed_rank_is_named_with_its_last_place(tmp_path: Path) -> None:
    words = words_after_a_kill(tmp_path, ignores=True)
    assert (
        "rank 1 does not answer: it was killed, or its machine is lost. It was last seen at epoch 0/2"
        in words
    )
    assert "ended by the launcher" not in words


def test_a_rank_that_a_launcher_ends_after_a_kill_does_not_wait_for_reports(tmp_path: Path) -> None:
    words = words_after_a_kill(tmp_path, ignores=False)
    assert "rank 0 was interrupted while it waited for the other ranks" in words
    assert "rank 1 at epoch 0/2, batch 2/4, train, in callback At" in words
    assert "ended by the launcher" in words


def test_after_an_error_on_all_ranks_the_next_fit_trains() -> None:
    assert in_ranks(2, fit_after_error) == [4, 4]


def fit_after_error() -> int:
    learn = learner_of()
    with suppress(ValueError):
        learn.fit(1, callbacks=[AtAll()])
    learn.global_step = 0
    learn.fit(1)
    return learn.global_step


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_rank_saves_and_ends_all_with_its_exit_code(number: int, code: int, tmp_path) -> None:
    found = in_ranks(2, ended_by, tmp_path, At(partial(signal.raise_signal, number)))
    assert found == [(code, 4), (code, 4)]
    assert (tmp_path / "run/step-000000004.pt").is_file()


def ended_by(folder: Path, act: Callback) -> tuple[Any, int]:
    """The exit code and the steps."""
    learn = learner_of(act, Checkpoint(folder / "run"))
    try:
        learn.fit(2)
    except SystemExit as ending:
        return ending.code, learn.global_step
    except KeyboardInterrupt:
        return 130, learn.global_step
    return 0, learn.global_step


def warnings_after_restart() -> list[str]:
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    with warnings.catch_warnings(record=True) as shown:
        learner_of().fit(1)
    return [str(each.message) for each in shown]


def test_a_script_that_is_started_again_and_does_not_resume_is_reported_once() -> None:
    (words,), silence = in_ranks(2, warnings_after_restart)
    assert "restart 1), but this fit does not resume" in words
    assert silence == []


def with_full_disk(folder: Path, n_failures: int) -> tuple[str, int]:
    """The error and the steps of a fit in which the first writes fail on the first rank."""
    write, failures = checkpoint_file.write, iter(range(n_failures))

    def written(*args: Any) -> None:
        if os.environ["RANK"] == "0" and next(failures, None) is not None:
            raise OSError(28, "No space left on device")
        write(*args)

    checkpoint_file.write = written
    learn = learner_of(Checkpoint(folder / "run"))
    try:
        learn.fit(4)
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}", learn.global_step
    return "", learn.global_step


def test_a_disk_that_is_full_once_ends_no_rank(tmp_path: Path) -> None:
    assert in_ranks(2, with_full_disk, tmp_path, 1) == [("", 16), ("", 16)]
    assert (tmp_path / "run/step-000000016.pt").is_file()


def test_a_disk_that_stays_full_ends_all(tmp_path: Path) -> None:
    (own, n_steps), (words, n_other) = in_ranks(2, with_full_disk, tmp_path, 2)
    assert own.startswith("OSError: [Errno 28]")
    assert "No space left on device" in words
    assert n_steps == n_other == 8


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"width": 2}, "model.weight: (1, 2) float32 on rank 0, 2; (2, 2) float32 on rank 1"),
        ({"n_items": 48}, "data.train, n_items: 30 on ranks 0, 2; 36 on rank 1"),
        ({"seed": 5}, "data.train, content: "),
        ({"epochs": 3}, "epochs: 2 on ranks 0, 2; 3 on rank 1"),
        ({"lr": 0.2}, "optimizer: SGD [{'lr': 0.1,"),
        ({"callbacks": (At(fail),)}, "callbacks: "),
        ({"frozen": True}, "frozen parameters: none on ranks 0, 2; bias on rank 1"),
    ],
)
def test_processes_that_differ_are_refused_by_all_with_what_and_where(own: Any, words: str) -> None:
    for each, _ in in_ranks(3, error_on_one, own):
        assert each.startswith(
            "ValueError: the processes differ, so they would not train the same model:\n  "
        )
        assert words.replace("rank 0, 2", "ranks 0, 2") in each


def error_on_one(own: dict[str, Any]) -> tuple[str, float]:
    """The error of a fit where rank 1 has other settings."""
    return error_of(**own) if os.environ["RANK"] == "1" else error_of()


def test_processes_with_other_weights_and_loggers_train() -> None:
    assert in_ranks(2, trained_from_own_weights) == [8, 8]


def trained_from_own_weights() -> int:
    rank = int(os.environ["RANK"])
    learn = learner_of(*[Logger()][rank:])
    nn.init.constant_(learn.model.weight, rank)
    learn.fit(2)
    return learn.global_step


class Logger(Callback):
    order = Order.REPORT
