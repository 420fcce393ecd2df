"""Runs Python's arguments in a fork of the server, and ends as the fork ends; see `processes.in_forks`."""

from __future__ import annotations

import os
import signal
import sys

import processes

if __name__ == "__main__":
    process = processes.start(*(each for each in sys.argv[1:] if each != "-u"), stdout=1, stderr=2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
