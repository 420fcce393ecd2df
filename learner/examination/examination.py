"""`learn.check()`: a learner examined at length on one batch, without a trace."""

from __future__ import annotations

import copy
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from callbacks.core.contract import OPERATIONS, Callback, Cancel, LearnerWarning, Order
from callbacks.core.registry import listens
from callbacks.model.named import named_tensors
from callbacks.optim.optimizers import set_mode
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
)


def check(learn: FullLearner) -> Report:
    """Examine a learner on one batch, print what was found, and return it."""
    report = examine(learn)
    print(report)
    return report


def examine(learn: FullLearner) -> Report:
    """Look at everything that can be seen without training, then at one batch in a sandbox.

    Raises:
        RuntimeError: a fit is under way.
    """
    if learn.fitting:
        raise RuntimeError("learn.check() was called in the middle of a fit: call it before or after.")
    report = Report()
    exams.describe_learner(learn, report)
    report.take(problems_before_fit(learn, n_epochs=1))
    if learn.optimizer is not None:
        report.take(training_problems(learn))
        if all_zero(learn.optimizer):
            report.warn("lr is 0: unless a schedule raises it, nothing is trained.")
    if can_run(learn, report):
        with torch.inference_mode(False), torch.enable_grad(), recorded(report), without_trace(learn, report):
            examine_batch(learn, report)
    return report


def can_run(learn: FullLearner, report: Report) -> bool:
    """Is there a batch to be had, and a model that can be put back as it was?"""
    if n_batches_of(learn.data.train) == 0:
        return False
    if is_one_shot(learn.data.train):
        report.warn(
            "the training data can be gone through only once, so it is good for one epoch; no "
            "batch was taken, to leave it whole, and what needs one was not examined."
        )
        return False
    tensors = [*learn.model.parameters(), *learn.model.buffers()]
    if any(map(is_lazy, tensors)):
        report.warn(
            "the model has lazy layers, which take their shape from the first batch; what needs "
            "one was not examined. Call learn.predict(inputs) once, then check again."
        )
        return False
    return not any(tensor.is_inference() for tensor in tensors)


def examine_batch(learn: FullLearner, report: Report) -> None:
    """The examinations that need a batch, each after those that it stands on."""
    batch: Any = None

    def take_batch() -> bool:
        nonlocal batch
        batch = first_batch(learn.data, learn.data.train)
        return batch is not None or report.take([ValueError("the training data has no batch.")])

    if not attempt(learn, report, "the first batch", take_batch):
        return
    if not begin(learn, report):
        return
    if not attempt(learn, report, "the batch", lambda: exams.loss_of(learn, report, exams.copied(batch))):
        attempt(learn, report, "numbers", lambda: report.take(exams.number_problems(learn)), is_extra=True)
        return
    for name, exam in trials.AFTER_LOSS.items():
        is_extra = name not in trials.ORDINARY
        attempt(
            learn, report, name, lambda exam=exam: exam(learn, report, exams.copied(batch)), is_extra=is_extra
        )
    if learn.data.valid is not None and not is_one_shot(learn.data.valid):
        attempt(learn, report, "validation", lambda: exams.validation(learn, report, first_batch))


def begin(learn: FullLearner, report: Report) -> bool:
    """Fire the events that come before the first batch, in which callbacks create what they need."""
    for plugin in learn.callbacks:
        attempt(learn, report, "before_fit", lambda plugin=plugin: membership.begin(learn, plugin))
    for event in ("before_epoch", "before_train"):
        if event == "before_train":
            learn.loop.begin_pass(learn, learn.data.train, training=True)
        if not attempt(learn, report, event, lambda event=event: fire(learn, event)):
            return False
    return True


def fire(learn: FullLearner, event: str) -> None:
    """Let callbacks act, but one that runs the whole step at once: here operations run one by one."""
    for hook in learn.callbacks.hooks[event]:
        if not hook.__self__.matches_loop:
            hook(learn)


def attempt(
    learn: FullLearner, report: Report, name: str, exam: Callable[[], Any], *, is_extra: bool = False
) -> bool:
    """Run one examination and report what it raises; False if those after it cannot run.

    Args:
        learn: the learner.
        report: the report to extend.
        name: of the examination.
        exam: the function to run.
        is_extra: does it do more than a fit does? Then what it raises is not an error of the learner.
    """
    try:
        return exam() is not False
    except Cancel as cancel:
        report.facts[name] = f"not examined: a callback raised {type(cancel).__name__}"
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a learner is what the report is for
        if is_extra:
            said = textwrap.shorten(next(iter(str(error).splitlines()), ""), 2 * WIDTH)
            report.facts[name] = f"not examined: {type(error).__name__}: {said}"
        else:
            report.errors.append(exams.shown_error(error, learn))
    return False


def first_batch(data: Any, loader: Any) -> Any:
    """A copy of the first batch, or None; a loader that keeps its workers is left without them."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None
    return exams.copied(next(iter(data.batches(loader)), None))


# Without a trace


@contextmanager
def recorded(report: Report) -> Iterator[None]:
    """Put warnings into the report instead of showing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    report.take(
        warning.message
        if isinstance(warning.message, LearnerWarning)
        else LearnerWarning(f"{warning.category.__name__}: {warning.message}")
        for warning in caught
        if isinstance(warning.message, Warning)
    )


@contextmanager
def without_trace(learn: FullLearner, report: Report) -> Iterator[None]:
    """A sandbox with the plug-ins that take part in a batch; it also puts back what a sandbox does not."""
    kept, optimizer = pass_state(learn), learn.optimizer
    fitting, started = learn.fitting, learn.loop.started
    plugins = tuple(learn.callbacks)
    states = [(generator, generator.get_state()) for generator in generators_of(learn.data)]
    with learn.sandbox(), on_its_device(learn.model), loss_kept(learn.loss_func):
        learn.loop.connect(learn, filter(takes_part, plugins))
        learn.fitting, learn.epoch, learn.n_epochs = True, 0, max(1, learn.n_epochs)
        learn.loop.started = []
        if learn.optimizer is None:  # plug-ins may rely on one
            learn.optimizer = torch.optim.SGD([*learn.model.parameters(), torch.zeros(1)], lr=0.0)
        set_mode(learn.optimizer, training=True)
        try:
            yield
        finally:
            for plugin in membership.last_first(learn):
                attempt(learn, report, "cleanup_fit", lambda plugin=plugin: plugin.cleanup_fit(learn))
            restore_pass_state(learn, kept)
            learn.optimizer, learn.fitting, learn.loop.started = optimizer, fitting, started
            learn.loop.connect(learn, plugins)
            for generator, state in states:
                generator.set_state(state)


def takes_part(plugin: Callback) -> bool:
    """Does a plug-in have a part in a batch, and does it neither report, decide nor save?"""
    if any(hasattr(plugin, operation) for operation in OPERATIONS) or plugin.order <= Order.GRADIENT:
        return True
    return plugin.order == Order.MEASURE and any(listens(plugin, event) for event in BATCH_EVENTS)


def generators_of(data: Any) -> list[torch.Generator]:
    """The random generators that loaders hold."""
    found: dict[int, torch.Generator] = {}
    for loader in (data.train, data.valid):
        batch_sampler = getattr(loader, "batch_sampler", None)
        holders = (
            loader,
            getattr(loader, "sampler", None),
            batch_sampler,
            getattr(batch_sampler, "sampler", None),
        )
        for holder in holders:
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


@contextmanager
def loss_kept(loss_func: Any) -> Iterator[None]:
    """Put back what a loss function learns or counts, where it is a module."""
    tensors = named_tensors(loss_func).values() if isinstance(loss_func, nn.Module) else ()
    copies = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in copies:
                tensor.copy_(old)


@contextmanager
def on_its_device(model: nn.Module) -> Iterator[None]:
    """Move a model back to where it was, where a plug-in moves it."""
    devices = [(name, tensor.device) for name, tensor in named_tensors(model).items()]
    try:
        yield
    finally:
        now = named_tensors(model)
        for name, device in devices:
            if name in now and now[name].device != device:
                now[name].data = now[name].data.to(device)
