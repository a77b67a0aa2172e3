"""A headless Chromium that opens files, driven over a pipe (the DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
_PATIENCE = 120.0  # seconds


class Browser:
    """One page. Use as a context manager.

    Attributes:
      requests: every address that was asked for.
      errors: errors and warnings on the console, and uncaught exceptions.

    Args:
      profile: an empty directory.
    """

    def __init__(self, profile: Path):
        assert BROWSER is not None
        self.requests: list[str] = []
        self.errors: list[str] = []
        ours, theirs = os.pipe(), os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]

        # Chromium reads from 3 and writes to 4. A function between fork and exec would do, too, but
        # JAX, which another test of this process may have loaded, warns of forks.
        wired = f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", wired, "bash", BROWSER, *options, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(ours[0], theirs[1]),
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read, self._rest, self._number = ours[1], theirs[0], b"", 0
        self._loaded = False
        self._session: str | None = None
        pages = self._call("Target.getTargets")["targetInfos"]
        page = next(x["targetId"] for x in pages if x["type"] == "page")
        arguments = {"targetId": page, "flatten": True}
        self._session = self._call("Target.attachToTarget", arguments)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, path: Path, *, width: int, dark: bool = False, script: bool = True) -> None:
        """Opens a file in a window of ``width`` pixels, and waits until it is loaded."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"features": scheme})
        self._call("Emulation.setScriptExecutionDisabled", {"value": not script})
        self._loaded = False
        self._call("Page.navigate", {"url": path.resolve().as_uri()})
        end = time.monotonic() + _PATIENCE
        while not self._loaded:
            self._hear(self._next(end))

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        arguments = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", arguments)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key, as ``Tab`` or ``Enter``."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", {"type": "keyDown", **about, **text})
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **about})

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Writes a picture of the page as PNG."""
        arguments = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self._call("Page.getLayoutMetrics")["cssContentSize"]
            arguments["clip"] = {**size, "scale": 1}
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", arguments)["data"]))

    def _call(self, method: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments or {}}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while (answer := self._next(end)).get("id") != self._number:
            self._hear(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = end - time.monotonic()
            assert left > 0 and select.select([self._read], [], [], left)[0], "no answer in time"
            some = os.read(self._read, 1 << 20)
            assert some, "the browser has ended"
            self._rest += some
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, about = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Log.entryAdded":
            self.errors.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.errors.append(str(about["args"]))
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"]))
