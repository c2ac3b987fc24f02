"""Headless Chromium through chromedriver's own protocol (W3C WebDriver), with the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "needs chromium and chromedriver (apt-get install chromium chromium-driver)"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Escape": "\ue00c", "Shift": "\ue008", "Down": "\ue015"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One browser window. `script` returns what the JavaScript returns; `keys` types at whatever has the focus."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.profile = tempfile.mkdtemp(prefix="zoo-browser-")
        assert DRIVER and CHROMIUM
        self.driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        arguments = [*FLAGS, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
        wanted = {"goog:chromeOptions": {"binary": CHROMIUM, "args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        try:
            self._await_driver()
            self.session = f"/session/{self._ask('POST', '/session', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _await_driver(self) -> None:
        for _ in range(300):
            try:
                if self._ask("GET", "/status")["ready"]:
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise TimeoutError("chromedriver did not answer")

    def _ask(self, verb: str, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.base + path, data=data, method=verb, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file, or an address."""
        address = page.as_uri() if isinstance(page, Path) else page
        self._ask("POST", f"{self.session}/url", {"url": "about:blank"})  # a change of the fragment alone would not load the page anew
        self._ask("POST", f"{self.session}/url", {"url": address + fragment})

    def script(self, text: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self._ask("POST", f"{self.session}/execute/sync", {"script": text, "args": list(arguments)})

    def find(self, css: str) -> list[str]:
        """The elements that a selector finds, by their handles."""
        return [found[ELEMENT] for found in self._ask("POST", f"{self.session}/elements", {"using": "css selector", "value": css})]

    def click(self, css: str) -> None:
        """Click the first element that a selector finds, as a mouse would: it must be visible and nothing may cover it."""
        self._ask("POST", f"{self.session}/element/{self.find(css)[0]}/click", {})

    def keys(self, *names: str) -> None:
        """Press and release keys; a name of several letters that is no key is typed."""
        pressed = [letter for name in names for letter in KEYS.get(name, name)]
        actions = [{"type": kind, "value": key} for key in pressed for kind in ("keyDown", "keyUp")]
        self._ask("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait(self, text: str, *arguments: Any, seconds: float = 10) -> Any:
        """Until the script returns something true."""
        end = time.monotonic() + seconds
        while not (found := self.script(text, *arguments)):
            assert time.monotonic() < end, f"not within {seconds} s: {text}"
            time.sleep(0.05)
        return found

    def log(self) -> list[str]:
        """What the console said since the last look."""
        return [line["message"] for line in self._ask("POST", f"{self.session}/se/log", {"type": "browser"})]

    def phone(self, on: bool = True) -> None:
        """A window as narrow as a phone's, or the own one again."""
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        order = {"cmd": f"Emulation.{'set' if on else 'clear'}DeviceMetricsOverride", "params": size if on else {}}
        self._ask("POST", f"{self.session}/goog/cdp/execute", order)

    def screenshot(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def close(self) -> None:
        """End the browser, the driver and the profile."""
        try:
            if self.session:
                self._ask("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            shutil.rmtree(self.profile, ignore_errors=True)
