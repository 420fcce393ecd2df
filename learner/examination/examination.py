"""`learn.check()`: check a learner on one batch, and leave it unchanged."""

from __future__ import annotations

import copy
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from callbacks.core.contract import OPERATIONS, Callback, Cancel, LearnerWarning, Order
from callbacks.core.output import print_line
from callbacks.model.named import named_tensors
from callbacks.optim.optimizers import set_mode
from callbacks.record.bar import bar_of
from callbacks.record.metrics import Metrics
from callbacks.results.best import check_measured
from learner.checks.data_checks import is_one_shot
from learner.checks.optimizer_checks import all_zero
from learner.checks.preflight import problems_before_fit, training_problems
from learner.data.loaders import n_batches_of
from learner.examination import exams, trials
from learner.examination.report import WIDTH, Report
from learner.state import membership
from learner.state.attributes import pass_state, restore_pass_state
from learner.state.protocol import FullLearner

BATCH_EVENTS = (
    "before_batch",
    "after_pred",
    "after_loss",
    "before_backward",
    "after_backward",
    "before_step",
    "after_step",
)


def check(learn: FullLearner) -> Report:
    """Check a learner without a batch, then on one in a sandbox; print the report, and return it."""
    if learn.fitting:
        raise RuntimeError("learn.check() was called during a fit: call it before or after.")
    report = Report()
    exams.describe_learner(learn, report)
    report.add(problems_before_fit(learn, n_epochs=1))
    if learn.optimizer is not None and all_zero(learn.optimizer):
        report.warn("lr is 0: unless a schedule raises it, nothing is trained.")
    if can_run(learn, report):
        absent = [each for each in learn.callbacks if not takes_part(each)]
        with torch.inference_mode(False), torch.enable_grad(), recorded(report), without_trace(learn, report):
            examine_batch(learn, report, absent)
    elif learn.optimizer is not None:
        examine_optimizer(learn, report)
    print_line(str(report))
    return report


def examine_optimizer(learn: FullLearner, report: Report, absent: Iterable[Callback] = ()) -> None:
    """Report the optimizer and its problems. All callbacks count, as they may hold further optimizers."""
    present = learn.callbacks
    learn.loop.connect(learn, [*present, *absent])
    exams.count_trained(learn, report)
    report.add(training_problems(learn))
    learn.loop.connect(learn, present)


def can_run(learn: FullLearner, report: Report) -> bool:
    """Can a batch be taken, and can the model be restored afterwards?"""
    if n_batches_of(learn.data.train) == 0:
        return False
    if is_one_shot(learn.data.train):
        report.warn(
            "the training data can be read only once, so it lasts one epoch; no batch was taken from it, and "
            "what needs a batch was not checked."
        )
        return False
    tensors = [*learn.model.parameters(), *learn.model.buffers()]
    if any(map(is_lazy, tensors)):
        report.warn(
            "the model has lazy layers, which take their shape from the first batch; what needs a batch was "
            "not checked. Call learn.predict(inputs) once, then check again."
        )
        return False
    return not any(tensor.is_inference() for tensor in tensors)


def examine_batch(learn: FullLearner, report: Report, absent: Iterable[Callback]) -> None:
    """Run the checks that need a batch, each after those that it depends on.

    `absent` are the callbacks that take no part in a batch; only the names of their results are checked.
    """
    batch: Any = None

    def take_batch() -> bool:
        nonlocal batch
        batch = first_batch(learn.data, learn.data.train)
        return batch is not None or report.add([ValueError("the training data has no batch.")])

    if not attempt(learn, report, "the first batch", take_batch):
        return
    if not start_training(learn, report, absent):
        return
    if not attempt(learn, report, "the batch", lambda: exams.loss_of(learn, report, exams.copied(batch))):
        attempt(learn, report, "numbers", lambda: report.add(exams.number_problems(learn)), is_extra=True)
        return
    with bar_of("learn.check()", "check") as draw:
        for n_done, (name, exam) in enumerate(trials.AFTER_LOSS.items()):
            draw(n_done, len(trials.AFTER_LOSS))
            run = partial(exam, learn, report, exams.copied(batch))
            attempt(learn, report, name, run, is_extra=name not in trials.ORDINARY)
    if learn.data.valid is not None and not is_one_shot(learn.data.valid):
        attempt(learn, report, "validation", lambda: exams.validation(learn, report, first_batch))


def start_training(learn: FullLearner, report: Report, absent: Iterable[Callback]) -> bool:
    """Fire the events before the first batch, in which callbacks create what they need."""
    for callback in learn.callbacks:
        attempt(learn, report, "before_fit", lambda callback=callback: membership.begin(learn, callback))
    if "optimizer" in report.facts:
        examine_optimizer(learn, report, absent)
    for name, owner in [(name, type(each).__name__) for each in absent for name in each.monitors]:
        attempt(learn, report, "before_fit", partial(check_measured, name, learn, owner))
    for event in ("before_epoch", "before_train"):
        if event == "before_train":
            learn.loop.begin_pass(learn, learn.data.train, training=True)
        if not attempt(learn, report, event, lambda event=event: fire(learn, event)):
            return False
    return True


def fire(learn: FullLearner, event: str) -> None:
    """Call the hooks of an event, except those of `WholeStep`, as operations are called one by one here."""
    for hook in learn.callbacks.hooks[event]:
        if not hook.__self__.matches_loop:
            hook(learn)


def attempt(
    learn: FullLearner, report: Report, name: str, exam: Callable[[], Any], *, is_extra: bool = False
) -> bool:
    """Run one check and report what it raises; return False if the checks after it cannot run.

    If the check `is_extra`, it does more than a fit does, so its errors are not errors of the learner.
    """
    try:
        return exam() is not False
    except Cancel as cancel:
        report.facts[name] = f"not checked: a callback raised {type(cancel).__name__}"
    except Exception as error:  # noqa: BLE001 - the report is for any error of a learner
        if is_extra:
            message = textwrap.shorten(next(iter(str(error).splitlines()), ""), 2 * WIDTH)
            report.facts[name] = f"not checked: {type(error).__name__}: {message}"
        else:
            report.errors.append(exams.shown_error(error, learn))
    return False


def first_batch(data: Any, loader: Any) -> Any:
    """A copy of the first batch, or None if there is none; persistent workers of a loader are not started."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None
    return exams.copied(next(iter(data.batches(loader)), None))


# Without a trace


@contextmanager
def recorded(report: Report) -> Iterator[None]:
    """Add warnings to the report instead of showing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    report.add(
        warning.message
        if isinstance(warning.message, LearnerWarning)
        else LearnerWarning(f"{warning.category.__name__}: {warning.message}")
        for warning in caught
        if isinstance(warning.message, Warning)
    )


@contextmanager
def without_trace(learn: FullLearner, report: Report) -> Iterator[None]:
    """A sandbox with the callbacks that take part in a batch; it also restores what a sandbox does not."""
    kept, fitting, started = pass_state(learn), learn.fitting, learn.loop.started
    with learn.sandbox(), restore_device(learn.model):
        learn.loop.connect(learn, filter(takes_part, learn.callbacks))
        learn.fitting, learn.epoch, learn.n_epochs = True, 0, max(1, learn.n_epochs)
        learn.loop.started = []
        if learn.optimizer is None:  # callbacks may rely on one
            learn.optimizer = torch.optim.SGD([*learn.model.parameters(), torch.zeros(1)], lr=0.0)
        set_mode(learn.optimizer, training=True)
        try:
            yield
        finally:
            for each in membership.last_first(learn):
                attempt(learn, report, "cleanup_fit", lambda each=each: each.cleanup_fit(learn))
            restore_pass_state(learn, kept)
            learn.fitting, learn.loop.started = fitting, started


def takes_part(callback: Callback) -> bool:
    """Does a callback take part in a batch, without reporting or saving, or monitor a result?"""
    if any(hasattr(callback, operation) for operation in OPERATIONS) or callback.order <= Order.GRADIENT:
        return True
    if callback.order == Order.MEASURE:
        measures = isinstance(callback, Metrics) or bool(callback.measures)
        return measures or any(map(callback.listens_to, BATCH_EVENTS))
    return callback.order == Order.DECIDE and bool(callback.monitors)


@contextmanager
def restore_device(model: nn.Module) -> Iterator[None]:
    """Move a model back to its original device, if a callback has moved it."""
    devices = [(name, tensor.device) for name, tensor in named_tensors(model).items()]
    try:
        yield
    finally:
        now = named_tensors(model)
        for name, device in devices:
            if name in now and now[name].device != device:
                now[name].data = now[name].data.to(device)
