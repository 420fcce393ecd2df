"""A progress bar that makes room for other output."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from callbacks.core.warning import is_output_error
from callbacks.record.notebook import Replaced

SOON = 1.0  # seconds in which nothing needs a bar


class Bar:
    """A bar that tqdm draws: on standard error in a terminal, below the cell in a notebook.

    In a notebook the bar is a separate output that is replaced, so a saved notebook contains no trail
    of bars. In a terminal, writing to standard output or error clears the bar first, and the next `draw`
    shows it again. `close` removes it and restores the streams. The displayed clock starts at `begun`, as of
    `time.monotonic()`.
    """

    def __init__(self, total: int | None, *, begun: float, unit: str = "batch"):
        self._bar = tqdm_class()(
            total=total,
            bar_format=layout(total is not None),
            unit=unit,
            leave=False,
            file=ReplacedOutput() if in_notebook() else sys.stderr,
            nrows=20,  # tqdm hides bars below the screen, and some pseudo-terminals have no height
            delay=1e-9,  # with any delay it is not drawn at once
        )
        self._bar.start_t -= time.monotonic() - begun
        self._streams = []
        if not in_notebook():
            there = [name for name in ("stdout", "stderr") if is_usable(getattr(sys, name))]
            self._streams = [BesideBar(name, self._bar) for name in there]

    @property
    def total(self) -> int | None:
        """The number of batches of a full bar."""
        return self._bar.total

    @total.setter
    def total(self, total: int | None) -> None:
        self._bar.total = total

    def draw(self, n: int, title: str, note: str) -> None:
        """Draw the bar at `n` batches, unless other output has not ended its line yet."""
        if all(stream.at_line_start for stream in self._streams):
            self._bar.n = n
            self._bar.ncols = n_columns(self._bar.fp)
            self._bar.set_description_str(title, refresh=False)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """Remove the bar, and restore standard output and error."""
        for stream in self._streams:
            stream.restore()
        self._bar.close()


@contextmanager
def bar_of(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that draws a bar, if one can be shown and this takes more than a second."""
    begun, bar = time.monotonic(), None

    def _draw(n: int, total: int) -> None:
        nonlocal bar
        if time.monotonic() - begun > SOON and can_show_a_bar():
            bar = bar or Bar(total, begun=begun, unit=unit)
            bar.total = total
            bar.draw(n, title, "")

    try:
        yield _draw
    finally:
        if bar is not None:
            bar.close()


class ReplacedOutput(io.TextIOBase):
    """A line of a notebook's output: new text replaces the old."""

    encoding = "utf-8"

    def __init__(self):
        self._output = Replaced()
        self._line = ""

    def write(self, text: str) -> int:
        """Show the text without tqdm's carriage returns."""
        line = text.replace("\r", "").rstrip()
        if text.strip("\r") and line != self._line:
            self._line = line
            self._output.show({"text/plain": line})
        return len(text)


class BesideBar:
    """Standard output or error while a bar is shown: a write clears the bar first."""

    def __init__(self, name: str, bar: Any):
        self._name, self._bar, self._stream = name, bar, getattr(sys, name)
        self._shown_together = is_terminal(self._stream)
        self.at_line_start = True
        setattr(sys, name, self)

    def write(self, text: str) -> int:
        """Write to the stream, on a separate line if the bar is on the same screen."""
        if self._shown_together and text:
            if self.at_line_start:
                self._clear()
            self.at_line_start = text.endswith("\n")
        return self._stream.write(text)

    def _clear(self) -> None:
        """Clear the bar; if that fails, the next `draw` reports it."""
        try:
            self._bar.clear()
        except (OSError, ValueError) as error:
            if not is_output_error(error):
                raise

    def restore(self) -> None:
        """Restore the stream, unless other code has replaced it since."""
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tqdm_class() -> Any:
    """Tqdm's class without the thread that watches bars, because we draw often enough.

    It is used in notebooks too, where tqdm's widget would stay in the saved file and needs ipywidgets.
    """
    from tqdm import tqdm

    return type("UnwatchedBar", (tqdm,), {"monitor_interval": 0})


def layout(known: bool) -> str:
    """The format of the bar; without a total there is nothing to fill."""
    if known:
        return "{desc} |{bar}| {percentage:3.0f}% {elapsed}<{remaining}, {rate_fmt}{postfix}"
    return "{desc} {n_fmt} batches {elapsed}, {rate_fmt}{postfix}"


def n_columns(terminal: Any) -> int:
    """The width of a line: one column less than the terminal, so that the cursor stays on the line."""
    try:
        width = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):  # it has no file descriptor, is closed, or has no size
        width = 0
    return (width or 80) - 1


def can_show_a_bar() -> bool:
    """Is standard error a terminal, or is this a notebook?"""
    return is_terminal(sys.stderr) or in_notebook()


def is_usable(stream: Any) -> bool:
    """Whether a stream exists and is open; under pythonw and in daemons it is None."""
    return stream is not None and not getattr(stream, "closed", False)


def is_terminal(stream: Any) -> bool:
    """Whether a stream exists and is a terminal."""
    return is_usable(stream) and stream.isatty()


def in_notebook() -> bool:
    """Does output go to a notebook, not to a stream in its place? IPython is not imported for this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or "IPKernelApp" not in shell.config:
        return False
    stream = getattr(sys.stdout, "_stream", sys.stdout)  # behind `BesideBar`
    return type(stream).__module__.partition(".")[0] == "ipykernel"
