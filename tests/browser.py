"""Headless Chromium, driven over the DevTools protocol through two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Thread
from time import monotonic
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root and containers cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
WAIT_S = 60.0
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page in a new browser, whose profile is in the folder. Skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    # The browser reads from file 3 and writes to file 4. Other shells know no files above 9.
    line = f'exec "$@" 3<&{commands} 4>&{answers}'
    environment = os.environ | {"HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "none:"}
    process = subprocess.Popen(
        ["bash", "-c", line, "bash", program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
        pass_fds=(commands, answers),
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    os.close(commands)
    os.close(answers)
    try:
        yield Page(to_browser, from_browser, folder)
    finally:
        os.close(to_browser)  # which ends the browser
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


class Page:
    """A page, and a person in front of it."""

    def __init__(self, to_browser: int, from_browser: int, folder: Path):
        self.to_browser, self.from_browser = to_browser, from_browser
        self.downloads = folder / "downloads"
        self.session: str | None = None
        self.calls = 0
        self.answers: dict[int, dict[str, Any]] = {}
        self.problems: list[str] = []  # what the page wrote to the console, and what the policy has blocked
        self.changed, self.ended = Condition(), False
        Thread(target=self._read, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol. Raises RuntimeError if it fails."""
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": parameters}
        if self.session and not method.startswith("Browser."):
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        with self.changed:
            self.changed.wait_for(lambda: self.ended or message["id"] in self.answers, WAIT_S)
            answer = self.answers.pop(self.calls, {"error": "no answer"})
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = WAIT_S) -> None:
        """Wait until an expression is true."""
        end = monotonic() + seconds
        # The page itself looks every few milliseconds, so that short moments are not missed.
        look = f"""new Promise((done) => {{
          const end = Date.now() + 500;
          (function look() {{
            const found = Boolean({script});
            if (found || Date.now() > end) done(found);
            else setTimeout(look, 15);
          }})();
        }})"""
        while not self.evaluate(look):
            if monotonic() > end:
                raise AssertionError(f"not true within {seconds} s: {script}\n{self.text()}")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def text(self, selector: str = "body") -> str:
        """The visible text of an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Click with the mouse on the middle of an element, once it is visible and nothing covers it."""
        find = f"""(() => {{
          const element = document.querySelector({json.dumps(selector)});
          if (!element?.checkVisibility()) return null;
          element.scrollIntoView({{block: 'center', behavior: 'instant'}});
          const box = element.getBoundingClientRect();
          const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
          return element.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
        }})()"""
        self.wait_for(find)
        x, y = self.evaluate(find)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
            self.call(
                "Input.dispatchKeyEvent", type=kind, **code, **({"text": text} if kind == "keyDown" else {})
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose_files(self, selector: str, paths: Sequence[Path]) -> None:
        """Choose files in the dialog of an <input>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, selector: str, paths: Sequence[Path]) -> None:
        """Drop files on an element."""
        box = self.evaluate(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=box["x"] + 20, y=box["y"] + 20, data=data)

    def tab_to(self, name: str) -> None:
        """Press the tabulator until the element with this id is focused; "" is the next one without an id."""
        for _ in range(60):
            self.press("Tab")
            if self.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"the keyboard cannot reach {name}")

    def offline(self, lost: bool) -> None:
        """Cut the network, or bring it back."""
        rates = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=lost, **rates)

    def screen(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window, and whether the system is dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> None:
        with open(self.from_browser, "rb") as pipe:
            rest = b""
            while chunk := pipe.read1(1 << 20):
                *messages, rest = (rest + chunk).split(b"\0")
                for message in messages:
                    self._take(json.loads(message))
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        with self.changed:
            if "id" in message:
                self.answers[message["id"]] = message
                self.changed.notify_all()
            elif message["method"] == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(parameters["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
