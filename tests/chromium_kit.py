"""Headless Chromium for tests: a page to serve, and a tab driven over a pipe with real keys, clicks, downloads."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_SECONDS = 20.0
_CODES = {
    "Enter": 13,
    "Escape": 27,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    " ": 32,
}
_TEXTS = {"Enter": "\r"}
_AT_REST = """(async () => {
  const node = document.querySelector(%s), rest = () => new Promise((done) => setTimeout(done, 40));
  node.scrollIntoView({ block: "center", behavior: "instant" });
  for (let before = ""; ;) {
    await rest();
    const { x, y, width, height } = node.getBoundingClientRect(), at = [x + width / 2, y + height / 2];
    const hit = document.elementFromPoint(...at);
    if (before === String(at) && hit && (node.contains(hit) || hit.contains(node))) return at;
    before = String(at);
  }
})()"""


def chromium() -> str:
    """The path of Chromium; the test is skipped where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("Debian's chromium is not installed")
    return found


class Site:
    """A local server of one page, the headers that it sends, and the paths that it was asked for."""

    def __init__(self) -> None:
        self.page = b""
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(site.page)))
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(site.page)

            def log_message(self, format: str, *args: object) -> None:
                """The test has its own record."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Pipe:
    """The messages to and from a browser: JSON objects that end with a zero byte."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._rest, self._last = reading, writing, b"", 0

    def post(self, message: dict[str, Any]) -> int:
        self._last += 1
        os.write(self._writing, json.dumps({"id": self._last, **message}).encode() + b"\0")
        return self._last

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._reading], [], [], _SECONDS)[0], "the browser says nothing"
            data = os.read(self._reading, 1 << 16)
            assert data, "the browser is gone"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))


class Tab:
    """One page of a browser. events: what the browser told of, of all its pages."""

    def __init__(self, pipe: _Pipe, events: list[dict[str, Any]], downloads: Path) -> None:
        self._pipe, self.events, self.downloads = pipe, events, downloads
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        self.send("Emulation.setEmulatedMedia", features=still)
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def another(self) -> Tab:
        """A second page of the same browser."""
        return Tab(self._pipe, self.events, self.downloads)

    def post(self, method: str, **params: Any) -> int:
        """Send a command and do not wait for its answer; its number."""
        message: dict[str, Any] = {"method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        return self._pipe.post(message)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command; what else comes meanwhile is kept in `events`."""
        number = self.post(method, **params)
        while (found := self._pipe.receive()).get("id") != number:
            self.events.append(found)
        assert "error" not in found, (method, found["error"])
        return dict(found["result"])

    def event(self, *methods: str, since: int) -> dict[str, Any]:
        """The first of these events of this page among `events[since:]`, waited for."""
        while True:
            for one in self.events[since:]:
                if one.get("method") in methods and one.get("sessionId") == self._session:
                    return one
            self.events.append(self._pipe.receive())

    def open(self, url: str) -> None:
        since = len(self.events)
        self.send("Page.navigate", url=url)
        self.event("Page.loadEventFired", since=since)
        assert self.run("document.documentElement.dataset.ready") == "yes"

    def reload(self) -> None:
        since = len(self.events)
        self.send("Page.reload")
        self.event("Page.loadEventFired", since=since)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Keys by their names (`Enter`, `y`); `Control+z` with that key held."""
        for key in keys:
            held, _, name = key.rpartition("+") if len(key) > 1 else ("", "", key)
            text = "" if held else _TEXTS.get(name, name if len(name) == 1 else "")
            code = _CODES.get(name, ord(name.upper()) if len(name) == 1 else 0)
            event = {"key": name, "windowsVirtualKeyCode": code, "modifiers": 2 if held == "Control" else 0}
            self.send(
                "Input.dispatchKeyEvent",
                type="keyDown",
                **event,
                **({"text": text} if text else {}),
            )
            self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Text into the field that has the focus."""
        self.send("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """The middle of an element, by the mouse, once the page has come to rest."""
        box = self.run(_AT_REST % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an input of the page."""
        node = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.send("DOM.setFileInputFiles", files=[str(path)], objectId=node["result"]["objectId"])

    def downloaded(self, name: str) -> bytes:
        """The content of a file that the page gave to the reader; it is taken away, so that a next one can come."""
        path, end = self.downloads / name, time.monotonic() + _SECONDS
        while not path.exists():
            assert time.monotonic() < end, sorted(self.downloads.iterdir())
            self.run("1")
            time.sleep(0.02)
        content = path.read_bytes()
        path.unlink()
        return content

    def problems(self) -> list[str]:
        """What the browser complained of: exceptions, refused scripts and styles."""
        self.run("1")
        return [
            str(event["params"])
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or (event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error")
        ]


@contextlib.contextmanager
def open_tab(folder: Path, *flags: str) -> Iterator[Tab]:
    """A browser with a profile and a download folder of its own in `folder`; ended at the end."""
    (orders, to_browser), (from_browser, answers) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (orders, answers)]  # off the numbers 3 and 4
    for end in (orders, answers):
        os.close(end)
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    command = [
        chromium(),
        *FLAGS,
        "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}",
        *flags,
    ]
    browser = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *command],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in ends:
        os.close(end)
    try:
        tab = Tab(_Pipe(from_browser, to_browser), [], downloads)
        yield tab
        tab.send("Browser.close")
        browser.wait(timeout=_SECONDS)
    finally:
        browser.kill()
        browser.wait()
        os.close(to_browser)
        os.close(from_browser)
