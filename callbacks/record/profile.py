"""Profile some steps of a fit with torch.profiler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from callbacks.core.contract import OPERATIONS, Callback, LearnerProtocol, Order
from callbacks.core.output import Output, print_line
from callbacks.core.settings import check_count
from callbacks.core.warning import warn
from callbacks.history.paths import as_path

if TYPE_CHECKING:
    from torch.profiler import profile


class Profile(Callback):
    """Record some training steps of a fit with `torch.profiler`, and write them as a trace file.

    Open the file, `steps-3-7.json` for the third to the seventh batch of the fit, in a browser with
    https://ui.perfetto.dev, or in Chrome at chrome://tracing. It contains the operations of the loop, such as
    `forward` and `backward`, by name; the wait for the next batch lies between two of the profiler's steps. A
    table of the slowest functions is printed. Recording slows these steps down, but no others. If a fit ends
    early, or with an error, the steps that were recorded completely are written.

    A step here is one training batch. A resumed fit starts counting at 0.

    Args:
        folder: where the file is written; the folder is created.
        n_steps: the number of recorded steps.
        wait: the number of steps before recording.
        warm_up: the number of steps after that which are recorded and discarded, because the profiler's first
            steps are slow.
        top: the number of functions in the table, those with the most own time first; 0 prints none.
        shapes: also record the shapes of tensors.
        memory: also record the allocation of memory.

    Attributes:
        path: the trace file; None until it is written.
        table: the table, of at most 79 columns; empty until then.

    Raises:
        TypeError, ValueError: a setting cannot be used.
        RuntimeError: in `before_fit`, another profiler is running.
    """

    only_observes = True
    order = Order.SAVE  # runs last, so that a recorded step contains all callbacks
    surrounds = OPERATIONS

    def __init__(
        self,
        folder: str | Path = "profile",
        *,
        n_steps: int = 5,
        wait: int = 1,
        warm_up: int = 2,
        top: int = 10,
        shapes: bool = False,
        memory: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.folder = as_path("Profile", "folder", folder, "the name of a folder, such as 'profile'")
        self.n_steps = check_count("Profile", "n_steps", n_steps, 1)
        self.wait = check_count("Profile", "wait", wait, 0)
        self.warm_up = check_count("Profile", "warm_up", warm_up, 0)
        self.top = check_count("Profile", "top", top, 0)
        self.shapes, self.memory = shapes, memory
        self.path: Path | None = None
        self.table = ""
        self._reset()

    def _reset(self) -> None:
        self._profiler: profile | None = None
        self._folder: Path | None = None
        self._n_done = 0  # training batches of this fit

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._stop()
        self.path, self.table = None, ""
        if not learn.ranks.is_first:
            return
        check_alone(self, learn)
        self._folder = self.folder.absolute()  # now, because the fit may change the working directory
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"Profile(folder={str(self.folder)!r}): this is a file; pass a folder.")
        profiler = make_profiler(self)
        profiler.start()
        self._profiler = profiler

    def surround(self, learn: LearnerProtocol, operation: str) -> AbstractContextManager[Any]:
        return nullcontext() if self._profiler is None else torch.profiler.record_function(operation)

    def after_batch(self, learn: LearnerProtocol) -> None:
        if self._profiler is None or not learn.training:
            return
        self._n_done += 1
        if self._n_done == self.wait + self.warm_up + self.n_steps:
            self._finish()
        else:
            self._profiler.step()

    def after_fit(self, learn: LearnerProtocol) -> None:
        if self._profiler is None or learn.resumed:  # the rest of a resumed fit may be short
            return
        if self._n_done <= self.wait + self.warm_up:
            warn(
                f"Profile recorded nothing: the fit ended after {self._n_done} training batches, and "
                f"recording starts after {self.wait + self.warm_up}. Lower wait or "
                "warm_up, or train longer."
            )

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        if self._profiler is not None and self._n_done > self.wait + self.warm_up:
            self._finish()
        self._stop()

    def _finish(self) -> None:
        """End the recording, write the file, print the table."""
        profiler, folder, n_done = self._profiler, self._folder, self._n_done
        assert profiler is not None
        assert folder is not None
        self._stop()
        path = folder / f"steps-{self.wait + self.warm_up + 1}-{n_done}.json"
        with Output(f"Profile: the trace {path}"):
            folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
            self.path = path
        self.table = table_of(profiler, self.top or 10)
        if self.top:
            print_line(self.table)

    def _stop(self) -> None:
        profiler = self._profiler
        self._reset()
        if profiler is not None:
            profiler.stop()


def make_profiler(settings: Profile) -> profile:
    """A profiler with the callback's settings, for the CPU and the accelerator if there is one."""
    from torch import profiler

    action = profiler.ProfilerAction
    first = settings.wait + settings.warm_up

    def schedule(n_done: int) -> profiler.ProfilerAction:  # torch's own warns if warm_up is 0
        if not settings.wait <= n_done < first + settings.n_steps:
            return action.NONE
        return action.WARMUP if n_done < first else action.RECORD

    return profiler.profile(
        schedule=schedule,
        record_shapes=settings.shapes,
        profile_memory=settings.memory,
        acc_events=True,
    )


def table_of(profiler: profile, top: int) -> str:
    """The functions with the most own time; on an accelerator, its time.

    The profiler's own marks, such as those of a step, are left out.
    """
    events = [each for each in profiler.key_averages() if not each.key.startswith("ProfilerStep")]
    on_device = any(each.self_device_time_total for each in events)

    def own_time(event: Any) -> float:
        return event.self_device_time_total if on_device else event.self_cpu_time_total

    total = sum(map(own_time, events)) or 1.0
    lines = [
        f"{'own time on ' + ('the device' if on_device else 'the CPU'):43}{'calls':>8}{'ms':>12}{'share':>8}"
    ]
    for event in sorted(events, key=own_time, reverse=True)[:top]:
        spent = own_time(event)
        lines.append(f"{event.key:42.42} {event.count:8}{spent / 1000:12.3f}{spent / total:8.0%}")
    return "\n".join(lines)


def check_alone(callback: Profile, learn: LearnerProtocol) -> None:
    """Raise an error for a second profiler: torch has one at a time."""
    others = [each.name for each in learn.callbacks if isinstance(each, Profile) and each is not callback]
    if others:
        raise RuntimeError(
            f"two callbacks profile, {callback.name!r} and {others[0]!r}, and torch can run only one "
            "profiler at a time: leave one of them out."
        )
    if torch.autograd._profiler_enabled():  # pyright: ignore[reportPrivateImportUsage]
        raise RuntimeError(
            "Profile: another profiler is running, and torch can run only one at a time: call fit "
            "outside its block, or leave Profile out."
        )
