"""A program that has imported the library and runs others in its forks; see `processes.py`.

A fork ends like Python: with an exit code, a traceback, a signal, and everything that happens at exit.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys

import matplotlib.figure  # noqa: F401
import preloaded  # noqa: F401

N_DESCRIPTORS = 3


def serve(path: str) -> dict:
    """Accept requests until standard input closes; returns one, in a process that is to run it."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    gc.freeze()  # so that a fork does not collect all that is imported when it ends
    while True:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks that wait are not waited for
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            return wait_for(connection)
        connection.close()


def wait_for(connection: socket.socket) -> dict:
    """Report how another fork ends; returns the request in that fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    received, descriptors, _, _ = socket.recv_fds(connection, 2**20, N_DESCRIPTORS)
    while not received.endswith(b"\n"):
        received += connection.recv(2**20)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return json.loads(received)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(b"%d\n" % child)
    connection.sendall(b"%d\n" % os.waitpid(child, 0)[1])
    os._exit(0)


def prepare(request: dict) -> list[str]:
    """Set up this process as Python sets up a new one; returns the arguments of the program."""
    if request["start_new_session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = list(dict.fromkeys(["", *filter(None, own), *sys.path[1:]]))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream.isatty(), write_through="PYTHONUNBUFFERED" in os.environ)
    return request["arguments"]


def run(kind: str, *arguments: str) -> None:
    """Run `-c CODE`, `-m MODULE` or a file."""
    main = vars(sys.modules["__main__"])
    if kind == "-m":
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), main)
    else:
        sys.argv = [kind, *arguments]
        sys.path[0] = os.path.dirname(os.path.abspath(kind))  # noqa: PTH100, PTH120
        main["__file__"] = kind
        with open(kind, "rb") as file:  # noqa: PTH123
            exec(compile(file.read(), kind, "exec"), main)


if __name__ == "__main__":
    run(*prepare(serve(sys.argv[1])))
