"""A real Chromium without a screen, driven over the DevTools protocol through its pipe: no driver, no port.

Messages are JSON, each ended by a zero byte, on the browser's descriptors 3 and 4 (``--remote-debugging-pipe``).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_GUARD_SECONDS = 60.0
# Gives two pipes the numbers that the browser expects, and becomes the browser.
_GIVE_PIPES = """
import os, sys
for given, number in zip(sys.argv[1:3], (103, 104)): os.dup2(int(given), number)
for given, number in ((103, 3), (104, 4)): os.dup2(given, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page at a time. Every wait is for a condition and has a deadline."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to = to_browser
        self._from = from_browser
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self._context: str | None = None
        self.complaints: list[str] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Leave the page for an empty one in a profile of its own: nothing is stored, cached or complained of."""
        self._session = None
        if self._context is not None:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.complaints.clear()
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept if they complain."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._hear(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], _GUARD_SECONDS)
            assert ready, "the browser says nothing"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") != self._session:
            return  # of a page that was left
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
            self.complaints.append(event["params"]["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; a promise is awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str) -> Any:
        """Ask until the value is truthy."""
        give_up = time.monotonic() + _GUARD_SECONDS
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < give_up, f"never came about: {expression}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Load a page in full."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def screen(self, width: int, height: int, scheme: str, *, mobile: bool = False) -> None:
        """Choose the window's size in CSS pixels and the colour scheme, light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """Run a browser with a fresh profile."""
    its_input, to_browser = os.pipe()
    from_browser, its_output = os.pipe()
    command = [sys.executable, "-S", "-c", _GIVE_PIPES, str(its_input), str(its_output), program]
    command += ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
    command += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    process = subprocess.Popen(
        command, pass_fds=(its_input, its_output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        # The end of its pipe ends the browser with all its processes, so that nobody writes into the profile any more.
        os.close(to_browser)
        try:
            process.wait(_GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_browser)
