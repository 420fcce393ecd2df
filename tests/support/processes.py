"""Other processes of Python for tests about processes. They start in 20 ms where Linux can fork them."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SETTINGS = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}", "OMP_NUM_THREADS": "1"}
TIMEOUT = 100


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with the arguments that follow `python` on a command line, to its end."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def start(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, **options: Any) -> Any:
    """Start Python with the library importable; what is returned has the methods of a `Popen`.

    Args:
        arguments: `-c CODE`, `-m MODULE` or a file, and further arguments.
        cwd: its working folder.
        env: variables that are added to the environment.
        options: `stdin`, `stdout` and `stderr`, which are pipes by default, and `start_new_session`.
    """
    environment = {**os.environ, **SETTINGS, **(env or {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    if sys.platform == "linux":
        return Forked(list(arguments), str(cwd or Path.cwd()), environment, **options)
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=environment, text=True, **options)


def in_forks(folder: Path) -> dict[str, str]:
    """The variables with which torchrun starts its processes here in 20 ms, too.

    Args:
        folder: where the program that it starts in place of Python is written.
    """
    if sys.platform != "linux":
        return {}
    program, starter = folder / "python", Path(__file__).with_name("as_fork.py")
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S '{starter}' \"$@\"\n")
    program.chmod(0o700)
    return {"PYTHON_EXEC": str(program), "FORK_SERVER": server()}


class Forked:
    """A fork of the program `forked.py`."""

    def __init__(
        self, arguments: list[str], cwd: str, env: dict, stdin=0, stdout=0, stderr=0, start_new_session=False
    ):
        request = {"arguments": arguments, "cwd": cwd, "env": env, "start_new_session": start_new_session}
        self.returncode: int | None = None
        ours, theirs = zip(*map(self.opened, (stdout, stderr)), strict=True)
        self.stdout, self.stderr = ours
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(server())
        descriptors = [stdin or os.open(os.devnull, os.O_RDONLY), *theirs]
        socket.send_fds(self.connection, [json.dumps(request).encode() + b"\n"], descriptors)
        for given, descriptor in zip((stdin, stdout, stderr), descriptors, strict=True):
            if given in (0, subprocess.PIPE):
                os.close(descriptor)
        self.answers = self.connection.makefile("r")
        self.pid = int(self.answers.readline())

    def opened(self, given: Any) -> tuple[Any, int]:
        """Our end, and the descriptor of the other process."""
        if given != subprocess.PIPE:
            return None, given if isinstance(given, int) else given.fileno()
        read, write = os.pipe()
        return os.fdopen(read, encoding="utf-8"), write

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = TIMEOUT) -> tuple[str | None, str | None]:
        read = [stream and stream.read() for stream in (self.stdout, self.stderr)]
        self.wait(timeout)
        return read[0], read[1]

    def wait(self, timeout: float = TIMEOUT) -> int:
        if self.returncode is None:
            self.connection.settimeout(timeout)
            self.returncode = os.waitstatus_to_exitcode(int(self.answers.readline()))
            for each in (self.answers, self.connection, self.stdout, self.stderr):
                if each is not None:
                    each.close()
        return self.returncode


@functools.cache
def server() -> str:
    """The address of the program that forks, which is started with the first process."""
    if "FORK_SERVER" in os.environ:
        return os.environ["FORK_SERVER"]
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, str(ROOT / "tests" / "support" / "forked.py"), str(folder / "socket")]
    environment = {**os.environ, **SETTINGS}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, stdout=subprocess.DEVNULL)
    atexit.register(shutil.rmtree, folder)
    atexit.register(end, process)
    while not (folder / "socket").exists():
        assert process.poll() is None, "forked.py has ended"
        time.sleep(0.02)
    return str(folder / "socket")


def end(process: subprocess.Popen) -> None:
    """Close its input, with which it ends."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(TIMEOUT)
