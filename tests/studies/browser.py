"""A real browser without a window, driven through its own DevTools protocol over two pipes.

Nothing but the standard library: Chromium reads NUL-separated JSON from its descriptor 3 and
writes it to 4 (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "TANDEM_REQUIRE_BROWSER"
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    # Everything is read from one file of our own; as root Chromium has no sandbox to offer.
    "--no-sandbox",
)
_SECONDS = 60.0


def find_browser() -> str:
    """The browser's path; skips without one, and fails where TANDEM_REQUIRE_BROWSER is set."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    said = f"none of {', '.join(NAMES)} is installed"
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {said}")
    pytest.skip(said)


class Tab:
    """One tab. said: console messages, exceptions and the browser's own complaints about the page.
    asked: every address that the page asked for."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self._loaded = False
        self.said: list[str] = []
        self.asked: list[str] = []

    def attach(self) -> None:
        """Open the tab and listen to it."""
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        attached = self.do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def open(
        self,
        path: Path,
        *,
        width: int,
        height: int = 900,
        dark: bool = False,
        media: str = "screen",
        scripts: bool = True,
    ) -> None:
        """Show a file as wide as a window or a phone, and wait until it is drawn."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.do("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.said.clear()
        self.asked.clear()
        self._loaded = False
        self.do("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + _SECONDS
        while not self._loaded:
            self._hear(deadline)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page, a promise's value included."""
        found = self.do(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self, path: Path, *, most: int = 16000) -> Path:
        """A screenshot of the whole page, from its top, as PNG. most: pixels of its height."""
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"]}
        clip["height"] = min(size["height"], most)
        shot = self.do(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        self._last += 1
        order: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            order["sessionId"] = self._session
        os.write(self._write, json.dumps(order).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while True:
            answer = self._hear(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _hear(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._read], [], [], left)[0], "no answer in time"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser is gone"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(one.get("value")) for one in about["args"]))
        elif event == "Runtime.exceptionThrown":
            self.said.append(json.dumps(about["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.said.append(about["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"])


@contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A browser with one tab, its own files in `folder`, and gone afterwards."""
    program = find_browser()
    orders_in, orders_out = os.pipe()
    answers_in, answers_out = os.pipe()

    def as_its_own() -> None:
        # Copies first: either may already be number 3 or 4.
        reads, writes = os.dup(orders_in), os.dup(answers_out)
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    process = subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=as_its_own,
        close_fds=False,
    )
    os.close(orders_in)
    os.close(answers_out)
    try:
        tab = Tab(orders_out, answers_in)
        tab.attach()
        yield tab
        tab._session = None
        tab.do("Browser.close")
        process.wait(timeout=_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(orders_out)
        os.close(answers_in)
