"""A headless Chromium for tests of pages, driven over a pipe with its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next((found for name in NAMES if (found := shutil.which(name))), None)
CHROMIUM = FOUND if sys.platform != "win32" else None  # where a program does not inherit pipes
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-extensions", "--disable-sync")
LIMIT = 100  # seconds for one answer: a machine under load may need some
BAD_LEVELS = ("error", "warning", "assert")


class Browser:
    """One tab. `problems` lists errors of the page's scripts and files that did not load."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.is_loaded = False
        self.rest = b""
        self.n_sent = 0
        self.session: dict[str, str] = {}
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process, self.to_browser, self.from_browser = start(self.folder.name)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.to_browser)
        os.close(self.from_browser)
        self.folder.cleanup()

    def open(self, address: str) -> None:
        """Load a page, and wait for its pictures and scripts."""
        self.problems.clear()
        self.is_loaded = False
        self.send("Page.navigate", url=address)
        while not self.is_loaded:
            self.note(self.next_message())

    def show(self, width: int, scheme: str, height: int = 900) -> None:
        """Set the size of the screen in pixels, and whether the system is `light` or `dark`."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; a promise is awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what the screen shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self.n_sent += 1
        message = {"id": self.n_sent, "method": method, "params": params, **self.session}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to_browser, data) :]
        while (answer := self.next_message()).get("id") != self.n_sent:
            self.note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def next_message(self) -> dict[str, Any]:
        """An answer or an event."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.from_browser], [], [], LIMIT)
            received = os.read(self.from_browser, 1 << 20) if ready else b""
            assert received, "the browser has ended" if ready else f"no answer within {LIMIT} s"
            self.rest += received
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def note(self, event: dict[str, Any]) -> None:
        """Remember that the page is loaded, or that it has a problem."""
        name, params = event.get("method"), event.get("params", {})
        if name == "Page.loadEventFired":
            self.is_loaded = True
        elif name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif name == "Runtime.consoleAPICalled" and params["type"] in BAD_LEVELS:
            self.problems.append(" ".join(str(each.get("value")) for each in params["args"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif name == "Network.loadingFailed" and not params.get("canceled"):
            self.problems.append(params["errorText"])


def start(folder: str) -> tuple[int, int, int]:
    """The browser's process, with the ends of two pipes; it reads its file 3 and writes its file 4."""
    import fcntl  # is not on Windows

    inwards, to_browser = os.pipe()
    from_browser, outwards = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (inwards, outwards)]  # not 3 or 4 here
    places = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)]
    places += [(os.POSIX_SPAWN_DUP2, end, n) for end, n in zip(ends, (3, 4), strict=True)]
    command = [str(CHROMIUM), *FLAGS, *QUIET, f"--user-data-dir={folder}"]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=places)
    for end in (inwards, outwards, *ends):
        os.close(end)
    return process, to_browser, from_browser
