"""A real browser, headless Chromium, driven over chromedriver's HTTP API (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.programs import START_TIMEOUT
from tests.raw import DEADLINE

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="no chromium and chromedriver; get them with: apt-get install chromium chromium-driver",
)

_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=800,700",
]


class Browser:
    """One window; made by ``browser``."""

    def __init__(self, session_url: str) -> None:
        self._url = session_url

    def open(self, url: str) -> None:
        """Load a page."""
        call("POST", f"{self._url}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a JavaScript function and give what it returns."""
        return call("POST", f"{self._url}/execute/sync", {"script": script, "args": arguments})

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async JavaScript function and give what it returns in the end."""
        wrapped = f"""
            const done = arguments[arguments.length - 1]
            const body = async (...args) => {{ {script} }}
            body(...Array.prototype.slice.call(arguments, 0, -1)).then(done, error => done("" + error))
        """
        return call("POST", f"{self._url}/execute/async", {"script": wrapped, "args": arguments})

    def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true, and give its value."""
        deadline = time.monotonic() + DEADLINE
        while not (value := self.run(f"return {expression}")):
            assert time.monotonic() < deadline, f"{expression} is never true:\n{self.text()}"
            time.sleep(0.02)
        return value

    def text(self) -> str:
        """The text that the page shows."""
        text: str = self.run("return document.body.innerText")
        return text

    def screenshot(self, path: Path) -> None:
        """Write a picture of the page as PNG."""
        path.write_bytes(base64.b64decode(call("GET", f"{self._url}/screenshot")))


def call(method: str, url: str, body: object = None, timeout: float = START_TIMEOUT) -> Any:
    """Make one call of the WebDriver API and give its value."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json"} if data else {}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{method} {url}: {error.read().decode()}") from None


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser with an empty profile; afterwards it is gone."""
    assert CHROMEDRIVER is not None, "the test is marked with needs_browser"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            [CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert driver.stdout is not None
            for line in driver.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            else:
                raise AssertionError("chromedriver did not start")
            url = f"http://127.0.0.1:{found[1]}/session"
            options = {"binary": CHROMIUM, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            always = {"browserName": "chrome", "goog:chromeOptions": options}
            session = call("POST", url, {"capabilities": {"alwaysMatch": always}})["sessionId"]
            try:
                yield Browser(f"{url}/{session}")
            finally:
                call("DELETE", f"{url}/{session}")
        finally:
            driver.terminate()
            driver.wait(DEADLINE)
            driver.stdout.close()
