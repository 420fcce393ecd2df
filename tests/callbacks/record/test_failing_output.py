"""Failing output does not end a training, and an error in a callback does not lose a checkpoint."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny import notes

from callbacks import (
    Callback,
    CancelFit,
    Checkpoint,
    CSVLogger,
    JSONLines,
    LearnerWarning,
    LogRMSE,
    Metrics,
    Order,
    PlotSnapshots,
    Progress,
    Recorder,
    ScalarLogger,
    ZeroGrad,
    on,
)

SHOWN = (ZeroGrad, Metrics, Recorder, Progress)


class Full(io.TextIOBase):
    """A stream to a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Terminal(Full):
    """A terminal that has been closed."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


class Gone(Full):
    """A pipe without a reader."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def weight(learn) -> float:
    return learn.model.weight.item()


@pytest.mark.parametrize("make_stream", [Full, Gone, closed])
def test_a_failing_standard_output_is_one_warning_and_the_training_completes(
    make_learner, monkeypatch, make_stream
):
    expected = make_learner()
    expected.fit(4)
    learn = make_learner(defaults=SHOWN, callbacks=[LogRMSE("1 step")])
    monkeypatch.setattr(sys, "stdout", make_stream())
    with pytest.warns(LearnerWarning, match=r"sys\.stdout: writing the output failed") as caught:
        learn.fit(4)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (learn.global_step, weight(learn)) == (12, weight(expected))


@pytest.mark.parametrize("names", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_process_without_standard_streams_trains_silently(make_learner, monkeypatch, names):
    learn = make_learner(defaults=SHOWN, callbacks=[LogRMSE("1 step")])
    for name in names:
        monkeypatch.setattr(sys, name, None)
    learn.fit(2)
    assert learn.global_step == 6


def test_characters_that_the_output_cannot_encode_are_printed_as_escapes(make_learner, monkeypatch):
    @on("after_train")
    def measure(learn):
        learn.results["größe"] = 1.0

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    make_learner(defaults=SHOWN, callbacks=[measure]).fit(1)
    assert rb"gr\xf6\xdfe" in raw.getvalue()


@pytest.mark.parametrize("stdout", [Terminal, lambda: None, closed, io.StringIO])
def test_a_progress_bar_whose_terminal_disappears_is_one_warning(make_learner, monkeypatch, stdout):
    stdout = stdout()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(sys, "stdout", stdout)
    learn = make_learner(defaults=SHOWN)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(3)
    assert len([each for each in caught if "the bar" in str(each.message)]) == 1
    assert (sys.stdout, sys.stderr, learn.global_step) == (stdout, terminal, 9)


def fails_from_second(values, step):
    if step > 3:
        raise ConnectionError("the tracker is down")


LOGGERS = {
    "CSVLogger": lambda folder: CSVLogger(folder / "log.csv"),
    "JSONLines": lambda folder: JSONLines(folder / "log.jsonl", "1 step"),
    "ScalarLogger": lambda folder: ScalarLogger(fails_from_second),
    "PlotSnapshots": lambda folder: PlotSnapshots(2, every="1 epoch", path=folder / "plot.png"),
}


@pytest.mark.parametrize("kind", LOGGERS)
def test_a_failing_logger_is_one_warning_and_the_training_completes(make_learner, tmp_path, kind):
    folder = tmp_path / "logs"

    @on("before_train")
    def break_folder(learn):
        if learn.epoch == 1 and folder.is_dir():
            folder.rename(tmp_path / "gone")
            folder.write_text("in the way")

    expected = make_learner()
    expected.fit(4)
    learn = make_learner(callbacks=[LOGGERS[kind](folder), break_folder])
    with pytest.warns(LearnerWarning, match=f"{kind}.*the output failed") as caught:
        learn.fit(4)
    assert len(caught) == 1
    assert (learn.global_step, weight(learn)) == (12, weight(expected))


def test_event_files_that_cannot_be_written_are_one_warning(make_learner, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard.writer import SummaryWriter

    from callbacks import TensorBoard

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with pytest.warns(LearnerWarning, match="TensorBoard.*the output failed") as caught:
        make_learner(callbacks=[TensorBoard(tmp_path)]).fit(3)
    assert len(caught) == 1


@pytest.mark.parametrize("error", [KeyError("loss"), ValueError("a bad value"), AttributeError("step")])
def test_a_mistake_in_the_function_of_a_logger_is_an_error(make_learner, error):
    def write(values, step):
        raise error

    with pytest.raises(type(error)):
        make_learner(callbacks=[ScalarLogger(write)]).fit(1)


def test_a_log_that_cannot_be_written_before_the_first_epoch_is_an_error(make_learner, tmp_path):
    (tmp_path / "logs").write_text("in the way")
    for logger in (CSVLogger(tmp_path / "logs" / "log.csv"), JSONLines(tmp_path / "logs" / "log.jsonl")):
        with pytest.raises(OSError, match="logs"):
            make_learner(callbacks=[logger]).fit(1)


def test_a_finished_run_is_reported_even_if_its_logs_cannot_be_written(make_learner, tmp_path, monkeypatch):
    def make():
        return make_learner(callbacks=[Checkpoint(tmp_path / "run"), CSVLogger(tmp_path / "log.csv")])

    make().fit(2)
    path_open = Path.open

    def read_only(path, mode="r", *args, **options):
        if mode[0] != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return path_open(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", read_only)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn = make()
        learn.fit(2, resume="auto")
    assert learn.global_step == 6


# An error in a callback that comes before Checkpoint


def fails_at(event: str, step: int, error: BaseException, *, order=Order.REPORT, state=()):
    class Fails(Callback):
        def after_batch(self, learn):
            self._act(learn, "after_batch")

        def after_epoch(self, learn):
            self._act(learn, "after_epoch")

        def _act(self, learn, now):
            if now == event and learn.global_step == step and not self.has_failed:
                self.has_failed = True
                raise error

    Fails.order, Fails.state, Fails.has_failed, Fails.n = order, state, False, 0
    return Fails()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


@pytest.mark.parametrize(("event", "step"), [("after_batch", 2), ("after_batch", 4), ("after_epoch", 6)])
@pytest.mark.parametrize("order", [Order.MEASURE, Order.REPORT, Order.DECIDE])
def test_an_error_at_a_batchs_or_an_epochs_end_is_raised_after_a_save(
    make_learner, tmp_path, event, step, order
):
    expected = make_learner()
    expected.fit(3)
    callbacks = [fails_at(event, step, RuntimeError("mine"), order=order), Checkpoint(tmp_path, "9 epochs")]
    with pytest.raises(RuntimeError, match="mine") as caught:
        make_learner(callbacks=callbacks).fit(3)
    assert f"in callback Fails.{event}" in notes(caught.value)
    assert names(tmp_path) == [f"step-{step:09}.pt"]
    learn = make_learner(callbacks=[Checkpoint(tmp_path)])
    learn.fit(3, resume="must")
    assert weight(learn) == weight(expected)
    assert learn.history.steps == expected.history.steps
    assert [row["train_loss"] for row in learn.history] == [row["train_loss"] for row in expected.history]


@pytest.mark.parametrize(
    "options",
    [{"order": Order.GRADIENT}, {"state": ("n",)}, {"error": CancelFit()}, {"error": KeyboardInterrupt()}],
    ids=["changes gradients", "keeps state", "cancel", "abort"],
)
def test_a_state_that_may_be_half_updated_is_not_saved(make_learner, tmp_path, options):
    error = options.pop("error", RuntimeError("mine"))
    callbacks = [fails_at("after_batch", 2, error, **options), Checkpoint(tmp_path, "9 epochs")]
    learn = make_learner(callbacks=callbacks)
    try:
        learn.fit(3)
    except type(error):
        assert names(tmp_path) == []
    else:
        assert isinstance(error, CancelFit)
    assert torch.isfinite(learn.model.weight).all()


def test_an_error_of_another_callback_after_the_first_is_noted(make_learner, tmp_path):
    second = fails_at("after_epoch", 3, ValueError("second"), order=Order.DECIDE)
    second.name = "second"
    callbacks = [fails_at("after_epoch", 3, RuntimeError("first")), second, Checkpoint(tmp_path, "9 epochs")]
    with pytest.raises(RuntimeError, match="first") as caught:
        make_learner(callbacks=callbacks).fit(2)
    assert "ValueError: second" in notes(caught.value)
    assert names(tmp_path) == ["step-000000003.pt"]
