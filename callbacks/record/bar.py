"""A progress bar that leaves room for what others print."""

from __future__ import annotations

import io
import os
import sys
import time
import warnings
from typing import Any

from callbacks.core.warning import is_output_error


class Bar:
    """A bar that tqdm draws: on standard error in a terminal, below the cell in a notebook.

    In a notebook it is an output of its own, which is replaced and not written on, so that a notebook that is
    run and kept holds no trail of bars. In a terminal, what is written to standard output or error wipes it
    first, and it comes again with the next `draw`. `close` takes it away and puts everything back.

    Args:
        total: when it is full, in batches; None where that is not known.
        begun: when the clock that it shows began, as of `time.monotonic()`.
    """

    def __init__(self, total: int | None, *, begun: float):
        tqdm = tqdm_class()
        self._is_widget = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
        self._bar = tqdm(
            total=total,
            bar_format=layout(total is not None),
            unit="batch",
            leave=False,
            file=ReplacedOutput() if in_notebook() and not self._is_widget else sys.stderr,
            dynamic_ncols=self._is_widget,  # as wide as the cell; of text, `draw` sets the width
            nrows=20,  # tqdm hides bars that it thinks below the screen; a pseudo-terminal may tell no height
            delay=1e-9,  # any delay keeps it from being drawn at once
        )
        self._bar.start_t -= time.monotonic() - begun
        self._streams = []
        if not in_notebook():
            there = [name for name in ("stdout", "stderr") if is_usable(getattr(sys, name))]
            self._streams = [BesideBar(name, self._bar) for name in there]

    @property
    def total(self) -> int | None:
        """When it is full, in batches."""
        return self._bar.total

    @total.setter
    def total(self, total: int | None) -> None:
        self._bar.total = total

    def draw(self, n: int, title: str, note: str) -> None:
        """Draw it at so many batches, unless someone has begun a line and not ended it yet."""
        if all(stream.at_line_start for stream in self._streams):
            self._bar.n = n
            if not self._is_widget:
                self._bar.ncols = n_columns(self._bar.fp)
            self._bar.set_description_str(title, refresh=False)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """Wipe it, and put standard output and error back."""
        for stream in self._streams:
            stream.put_back()
        self._bar.close()


class ReplacedOutput(io.TextIOBase):
    """A line of a notebook's output: what is written takes the place of what was there."""

    encoding = "utf-8"

    def __init__(self):
        self._output: Any = None
        self._line = ""

    def write(self, text: str) -> int:
        """Show the text, less the returns with which tqdm goes to the line's beginning."""
        line = text.replace("\r", "").rstrip()
        if text.strip("\r") and line != self._line:
            self._line = line
            self._show({"text/plain": line})
        return len(text)

    def _show(self, data: dict[str, str]) -> None:
        if self._output is not None:
            self._output.update(data, raw=True)
            return
        from IPython.display import display

        self._output = display(data, raw=True, display_id=True)


class BesideBar:
    """Standard output or error beside a bar: what is written there wipes the bar first.

    Args:
        name: `"stdout"` or `"stderr"`; `sys` has this object there until `put_back`.
        bar: tqdm's, which is drawn on the stream itself.
    """

    def __init__(self, name: str, bar: Any):
        self._name, self._bar, self._stream = name, bar, getattr(sys, name)
        self._shown_together = is_terminal(self._stream)
        self.at_line_start = True
        setattr(sys, name, self)

    def write(self, text: str) -> int:
        """Write to the stream, on a line of its own where the bar is on the same screen."""
        if self._shown_together and text:
            if self.at_line_start:
                self._clear()
            self.at_line_start = text.endswith("\n")
        return self._stream.write(text)

    def _clear(self) -> None:
        """Wipe the bar; where it cannot be, the next `draw` reports that."""
        try:
            self._bar.clear()
        except (OSError, ValueError) as error:
            if not is_output_error(error):
                raise

    def put_back(self) -> None:
        """Put the stream itself back, unless someone else has put another one there since."""
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tqdm_class() -> Any:
    """The bar for where we are, without tqdm's thread that watches bars: we draw often enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets a notebook gets a bar of text, which is no fault
        from tqdm.auto import tqdm

    return type("UnwatchedBar", (tqdm,), {"monitor_interval": 0})


def layout(known: bool) -> str:
    """What the bar shows; without a total there is nothing to fill."""
    if known:
        return "{desc} |{bar}| {percentage:3.0f}% {elapsed}<{remaining}, {rate_fmt}{postfix}"
    return "{desc} {n_fmt} batches {elapsed}, {rate_fmt}{postfix}"


def n_columns(terminal: Any) -> int:
    """How wide a line may be: one column less than the terminal, so that the cursor stays on the line."""
    try:
        width = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):  # it has no file descriptor, is closed, or does not say
        width = 0
    return (width or 80) - 1


def can_show_a_bar() -> bool:
    """Is standard error a terminal, or this a notebook?"""
    return is_terminal(sys.stderr) or in_notebook()


def is_usable(stream: Any) -> bool:
    """Whether a stream exists and is open; under pythonw and in daemons it is None."""
    return stream is not None and not getattr(stream, "closed", False)


def is_terminal(stream: Any) -> bool:
    """Whether a stream exists and is a terminal."""
    return is_usable(stream) and stream.isatty()


def in_notebook() -> bool:
    """Is this a notebook's kernel? IPython is not imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
