"""A headless Chromium driven by the DevTools protocol over a pipe (--remote-debugging-pipe): JSON messages, each ended by a zero byte."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

from lab import SLOW, wait_until

PROGRAM = shutil.which("chromium-headless-shell") or shutil.which("chromium")


class Chromium:
    def __init__(self, directory):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        log = open(directory / "chromium.log", "wb")
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", PROGRAM, "--headless", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run", "--ignore-certificate-errors",
             f"--user-data-dir={directory / 'chromium'}", "--remote-debugging-pipe", "about:blank"],
            pass_fds=(commands, answers), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for descriptor in (commands, answers):
            os.close(descriptor)
        log.close()
        self._received, self._next, self.events = b"", 1, []

    def close(self):
        os.close(self._commands)
        self._process.terminate()
        try:
            self._process.wait(10 * SLOW)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)

    def _message(self, deadline):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            part = os.read(self._answers, 1 << 16)
            assert part, "Chromium has ended"
            self._received += part
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        number, self._next = self._next, self._next + 1
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data):]
        deadline = time.monotonic() + 30 * SLOW
        while True:
            answer = self._message(deadline)
            if answer.get("id") != number:
                self.events.append(answer)
                continue
            assert "error" not in answer, answer["error"]
            return answer["result"]

    def open(self, url):
        return Page(self, url)


class Page:
    def __init__(self, browser, url):
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def run(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression, timeout=20):
        """Until the expression is true; what it refers to may not be there yet."""
        whole = f"(() => {{ try {{ return !!({expression}); }} catch {{ return false; }} }})()"
        return wait_until(lambda: self.run(whole), f"the page: {expression}", timeout)

    def text(self, element):
        return self.run(f"document.getElementById('{element}').innerText")

    def show_as(self, width, height, scheme="light", mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, file, whole=True):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    def requested(self):
        """Every address that the page has asked for."""
        return [e["params"]["request"]["url"] for e in self._browser.events if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self):
        """Errors of scripts, and what the browser refused (the content security policy)."""
        return [e for e in self._browser.events if e.get("method") == "Runtime.exceptionThrown" or
                (e.get("method") == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"
                 and e["params"]["entry"]["source"] != "network")]
