"""TestLink: two network namespaces joined by a link of given delay, rate, queue and loss (qtrp-testlink). For tests and benchmarks.

    with TestLink(delay="50ms", rate="200M", queue="100ms", loss=5) as link:
        server = link.popen("a", ["iperf3", "-s", "-1"])
        link.run("b", ["iperf3", "-c", link.address("a")])
        link.set("a>b", loss=0)
        link.command("stall")

Side "a" is 10.77.0.1 and fd77::1, side "b" 10.77.0.2 and fd77::2. Delays are one way: delay="50ms" makes a round trip of 100 ms.
Needs root. Every process that is still running in the namespaces when the link stops is killed.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import select
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_binary(name="qtrp-testlink"):
    """The test link's program: $QTRP_TESTLINK, $QTRP_BUILD_DIR/tests, or the first of the presets' build directories that has it."""
    if name == "qtrp-testlink" and "QTRP_TESTLINK" in os.environ:
        return pathlib.Path(os.environ["QTRP_TESTLINK"])
    directories = [pathlib.Path(os.environ["QTRP_BUILD_DIR"])] if "QTRP_BUILD_DIR" in os.environ else []
    directories += [ROOT / "build" / preset for preset in ("release", "debug", "asan", "tsan")]
    for directory in directories:
        if (directory / "tests" / name).exists():
            return directory / "tests" / name
    raise FileNotFoundError(f"{name} is not built: cmake --build --preset release --target {name}")


def _setns(descriptor):
    """os.setns() came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


class TestLink:
    __test__ = False  # not a pytest class

    def __init__(self, *settings, **both):
        """Settings as qtrp-testlink takes them ("a>b loss=5"), and name=value for both directions."""
        self._arguments = [*settings, *(f"{name}={value}" for name, value in both.items())]
        self._process = None
        self._children = []
        self._buffer = b""

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self._process = subprocess.Popen(
            [str(find_binary()), *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            self._sides = json.loads(self._read_line())
        except Exception:
            self._process.kill()
            raise
        return self

    def stop(self):
        """Ends what runs in the namespaces, removes them, and returns the statistics."""
        if self._process is None:
            return None
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for side in ("a", "b"):
            self._kill_rest(side)
        process, self._process = self._process, None
        try:
            rest, _ = process.communicate(b"quit\n", timeout=20)
            return json.loads(rest.splitlines()[-1]) if rest.strip() else None
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise

    def namespace(self, side):
        return self._sides[side]["namespace"]

    def address(self, side, family=4):
        return self._sides[side]["address" if family == 4 else "address6"]

    def command(self, line):
        """Sends one command and waits until it has taken effect; "stats" returns the statistics."""
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._read_line()
        if answer.startswith("error"):
            raise ValueError(f"{line}: {answer}")
        return json.loads(answer) if answer.startswith("{") else None

    def set(self, direction="", **settings):
        """set(loss=5), set("a>b", delay="20ms", rate="50M")"""
        for name, value in settings.items():
            self.command(f"{direction} {name}={value}")

    def stats(self):
        return self.command("stats")

    def argv(self, side, argv):
        return ["ip", "netns", "exec", self.namespace(side), *map(str, argv)]

    def popen(self, side, argv, **options):
        """A process in the side's namespace; killed when the link stops."""
        child = subprocess.Popen(self.argv(side, argv), **options)
        self._children.append(child)
        return child

    def run(self, side, argv, timeout=60, check=True, **options):
        options.setdefault("capture_output", True)
        options.setdefault("text", True)
        return subprocess.run(self.argv(side, argv), timeout=timeout, check=check, **options)

    def sysctl(self, side, **values):
        """sysctl("a", net__ipv4__tcp_congestion_control="cubic"): two underscores stand for a dot."""
        for name, value in values.items():
            self.run(side, ["sysctl", "-qw", f"{name.replace('__', '.')}={value}"])

    def wait_listening(self, side, port, protocol="tcp", timeout=10):
        """Returns when something listens on the port; no connection is made."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.run(side, ["ss", "-Hln", "-t" if protocol == "tcp" else "-u", f"sport = :{port}"]).stdout
            if found.strip():
                return
            time.sleep(0.02)
        raise TimeoutError(f"nothing listens on {protocol} port {port} of side {side}")

    @contextlib.contextmanager
    def inside(self, side):
        """Puts the calling thread into the side's namespace, so that the sockets it makes are there."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.namespace(side)}", os.O_RDONLY)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(here)
        finally:
            os.close(here)
            os.close(there)

    def _read_line(self, timeout=20):
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                if ready:
                    raise RuntimeError("qtrp-testlink ended: " + self._process.stderr.read().decode().strip())
                raise TimeoutError("qtrp-testlink does not answer")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def _kill_rest(self, side):
        found = subprocess.run(["ip", "netns", "pids", self.namespace(side)], capture_output=True, text=True).stdout
        for pid in map(int, found.split()):
            if pid not in (os.getpid(), self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
