"""What the end-to-end tests stand on: the two real daemons with generated configuration, local services, free ports, and waiting for
facts (a log line, a statistic, a port) with a deadline instead of sleeping."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import yaml

TRANSPORT = os.environ.get("QTRP_E2E_TRANSPORT", "net")
BIN = pathlib.Path(os.environ.get("QTRP_BIN_DIR", "build/release/bin")).resolve()
HELPERS = BIN.parent / "tests"
SLOW = float(os.environ.get("QTRP_E2E_SLOW", "1"))  # how much longer everything may take (sanitizers)
LARGE = int(os.environ.get("QTRP_E2E_LARGE_MB", "1024")) * 1_000_000  # the large body, bytes
# Over UDP only its silence tells that a killed peer is gone; with the default of 30 s tests would wait for a minute.
DEFAULTS = {"keepalive": {"interval": "2s"}} if TRANSPORT == "quic" else {}
CIPHERS = ["tls"] if TRANSPORT == "quic" else ["none", "tls", "chacha20"]
FASTEST = CIPHERS[0]

_SANITIZER = re.compile(r"(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|terminate called|Assertion .* failed)")


def raise_descriptor_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def wait_until(predicate, what, timeout=15.0):
    """Polls until predicate() is true and returns its value; exceptions of the network count as false."""
    deadline = time.monotonic() + timeout * SLOW
    error = None
    while True:
        try:
            value = predicate()
            if value:
                return value
        except (OSError, urllib.error.URLError, json.JSONDecodeError) as caught:
            error = caught
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout * SLOW:g} s for {what}" + (f" ({error!r})" if error else ""))
        time.sleep(0.01)


class Ports:
    """Free ports below the ephemeral range, so that nobody's outgoing connection takes one, and locked, so that tests that run side by
    side never get the same."""

    def __init__(self):
        self._dir = pathlib.Path(tempfile.gettempdir()) / f"qtrp-e2e-ports.{os.getuid()}"
        self._dir.mkdir(exist_ok=True)
        self._locks = []

    def take(self, count=1):
        """The first of `count` neighbouring free ports."""
        for _ in range(1000):
            first = random.randint(10_000, 32_000 - count)
            locks = []
            for port in range(first, first + count):
                lock = self._lock(port)
                if lock is None:
                    break
                locks.append(lock)
            if len(locks) == count:
                self._locks += locks
                return first
            for lock in locks:
                os.close(lock)
        raise AssertionError("no free port")

    def _lock(self, port):
        lock = os.open(self._dir / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET6, kind) as probe:
                    probe.bind(("::", port))
            return lock
        except OSError:
            os.close(lock)
            return None

    def release(self):
        for lock in self._locks:
            os.close(lock)
        self._locks = []


class Daemon:
    """One running qtrp-server or qtrp-client."""

    def __init__(self, lab, program, name, config, arguments=()):
        self.lab, self.program, self.name, self.config = lab, program, name, config
        self.arguments = list(arguments)
        self.wrapper = []  # the words before the program's, for a daemon that runs under something
        self.environment = {}
        self.config_file = lab.dir / f"{name}.yaml"
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.log_file = lab.dir / f"{name}.log"
        self.process = None
        self.expected_exit = {0}
        self._mark = 0

    def start(self):
        self.expected_exit = {0}
        with open(self.log_file, "ab") as log:
            self._mark = log.tell()
            self.process = subprocess.Popen(
                [*self.wrapper, str(BIN / self.program), "-c", str(self.config_file), *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.environment)
        return self

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        """What this run of the daemon has logged so far."""
        with open(self.log_file, "rb") as log:
            log.seek(self._mark)
            return log.read().decode(errors="replace")

    def mark(self):
        """log() and wait_log() begin here from now on."""
        self._mark = self.log_file.stat().st_size

    def wait_log(self, pattern, timeout=15.0):
        found = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
        return wait_until(lambda: found.search(self.log()), f"{self.name} to log /{pattern}/", timeout)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def stats_port(self):
        return int(self.config["stats"]["listen"].rsplit(":", 1)[1])

    def stats(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.stats_port}/stats", timeout=5 * SLOW) as answer:
            return json.load(answer)

    def wait_stats(self, predicate, what, timeout=15.0):
        def check():
            assert self.alive(), f"{self.name} ended ({self.process.returncode}):\n{self.log()}"
            return predicate(self.stats())
        return wait_until(check, f"{self.name}'s statistics to show {what}", timeout)

    def signal(self, number):
        self.process.send_signal(number)

    def freeze(self):
        """Stopped, every thread, when it returns: the signal alone only asks for it."""
        self.signal(signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        wait_until(lambda: all(t.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for t in tasks.iterdir()), "it to stop")

    def thaw(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """kill -9: nothing is said to anybody."""
        self.process.kill()
        self.process.wait()
        self.expected_exit = {-signal.SIGKILL}

    def wait_exit(self, timeout=15.0):
        try:
            code = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout * SLOW:g} s") from None
        self.expected_exit = {code}  # the test judges it
        return code

    def stop(self):
        """Ends it the polite way; its exit code must be 0."""
        if not self.alive():
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        code = self.wait_exit(20)
        assert code == 0, f"{self.name} ended with {code} after SIGTERM"

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident_kb(self):
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Service:
    """A local TCP service: `handler(connection)` runs in a thread for each connection. What a handler raises fails the test."""

    def __init__(self, lab, handler, host="127.0.0.1", port=0):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._handler = handler
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(4096)
        self.port = self._listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if family == socket.AF_INET6 else f"{host}:{self.port}"
        self.errors = []
        self.connections = []
        self._open = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        lab.services.append(self)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(60 * SLOW)
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            self._handler(connection)
        except Exception as error:  # reported by Lab.close()
            if self._open:
                self.errors.append(error)
        finally:
            connection.close()

    def close(self):
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Lab:
    """One test's world. Everything that it starts is ended by close(), which also judges: clean exits, no sanitizer report, no secret
    in any log."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.ports = Ports()
        self.daemons, self.services, self.processes, self.secrets = [], [], [], []
        self.rooms = []  # control groups, empty once the daemons have ended
        self.token = self.secret()

    def secret(self):
        value = "s3cr3t-" + secrets.token_hex(16)
        self.secrets.append(value)
        return value

    # Daemons

    def server(self, name="server", crypto=FASTEST, start=True, arguments=(), **config):
        """A qtrp-server with sensible defaults; keyword arguments replace whole top-level keys (None removes one)."""
        base = {
            "bind": f"127.0.0.1:{self.ports.take()}",
            "transport": TRANSPORT,
            "crypto": crypto,
            "auth": {"tokens": [self.token]},
            "state_dir": str(self.dir / f"{name}-state"),
            "stats": {"listen": f"127.0.0.1:{self.ports.take()}"},
            "shutdown": {"grace": "1s"},
            "log": {"level": "debug"},
        }
        return self._daemon("qtrp-server", name, DEFAULTS | base | config, start, arguments)

    def client(self, of, proxies, name="client", start=True, arguments=(), wait=True, **config):
        """A qtrp-client of the server `of` (a Daemon or an address). `proxies`: dicts as in the configuration file, or Services, which get a
        free port each. Waits until the server has them all unless told not to."""
        ready = [p if isinstance(p, dict) else {"remote_port": self.ports.take(), "local_addr": p.address} for p in proxies]
        base = {
            "server": of.config["bind"] if isinstance(of, Daemon) else of,
            "transport": TRANSPORT,
            "crypto": of.config["crypto"] if isinstance(of, Daemon) else FASTEST,
            "token": self.token,
            "state_dir": str(self.dir / f"{name}-state"),
            "stats": {"listen": f"127.0.0.1:{self.ports.take()}"},
            "shutdown": {"grace": "1s"},
            "log": {"level": "debug"},
            "proxies": ready,
        }
        if isinstance(of, Daemon) and "mux" in of.config:
            base["mux"] = of.config["mux"]
        client = self._daemon("qtrp-client", name, DEFAULTS | base | config, start, arguments)
        if start and wait and isinstance(of, Daemon):
            self.wait_proxies(of, [p["remote_port"] for p in ready if isinstance(p["remote_port"], int)])
        return client

    def _daemon(self, program, name, config, start, arguments):
        daemon = Daemon(self, program, name, {k: v for k, v in config.items() if v is not None}, arguments)
        self.daemons.append(daemon)
        if start:
            daemon.start()
            if program == "qtrp-server":
                daemon.wait_log("listening for tunnels")
        return daemon

    def wait_proxies(self, server, ports, timeout=15.0):
        for port in ports:
            server.wait_log(rf"listens on \S+:{port or '[0-9]+'}$", timeout)

    def tunnel(self, *services, crypto=FASTEST, **config):
        """The usual case: a server, a client, a proxy for each service. Returns server, client and the public ports."""
        server = self.server(crypto=crypto)
        client = self.client(server, services, **config)
        ports = [proxy["remote_port"] for proxy in client.config["proxies"]]
        return server, client, *ports

    # Services and users

    def service(self, handler, **options):
        return Service(self, handler, **options)

    def echo(self, **options):
        return self.service(echo, **options)

    def process(self, arguments, **options):
        """A helper program (nginx, sshd) that ends with the test."""
        log = open(self.dir / f"{pathlib.Path(arguments[0]).name}.out", "ab")
        with log:
            started = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        self.processes.append(started)
        return started

    def connect(self, port, host="127.0.0.1"):
        return connect(port, host)

    # The end

    def logs(self):
        for daemon in self.daemons:
            if daemon.log_file.exists():
                yield daemon.name, daemon.log_file.read_text(errors="replace")

    def close(self):
        problems = []
        # Clients first: a client whose server is gone is not what these tests are about, unless they say so.
        for daemon in sorted(self.daemons, key=lambda d: d.program):
            try:
                daemon.stop()
            except AssertionError as error:
                problems.append(str(error))
                daemon.kill()
            if daemon.process is not None and daemon.process.returncode not in daemon.expected_exit:
                problems.append(f"{daemon.name} ended with {daemon.process.returncode}")
        for service in self.services:
            service.close()
            problems += [f"local service {service.address}: {error!r}" for error in service.errors]
        for process in self.processes:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for room in self.rooms:
            room.rmdir()
        self.ports.release()
        for name, log in self.logs():
            problems += [f"{name} logged a secret" for secret in self.secrets if secret in log]
            if found := _SANITIZER.search(log):
                problems.append(f"{name}: {found.group(0)}")
        assert not problems, "\n".join(problems)


def open_ports_of(stats):
    return {proxy["port"] for proxy in stats["proxies"] if proxy["open"]}


def connect(port, host="127.0.0.1"):
    connection = socket.create_connection((host, port), timeout=30 * SLOW)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection):
    """Closes with a reset instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def receive_exactly(connection, size):
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(1 << 18, size - len(data)))
        assert part, f"the connection ended after {len(data)} of {size} bytes"
        data += part
    return bytes(data)


def receive_all(connection):
    """Everything up to the clean end. A reset raises ConnectionResetError."""
    parts = []
    while part := connection.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def digest_all(connection):
    """SHA-256 (hex) and length of everything up to the clean end."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(1 << 18))
    while n := connection.recv_into(buffer):
        digest.update(buffer[:n])
        size += n
    return digest.hexdigest(), size


def echo(connection):
    with contextlib.suppress(OSError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def body(size, seed=1):
    """`size` reproducible bytes without structure."""
    return random.Random(seed).randbytes(size)


def ask_echo(port, data=b"ping", host="127.0.0.1"):
    """True if an echo service answers through `port`."""
    with connect(port, host) as connection:
        connection.sendall(data)
        return receive_exactly(connection, len(data)) == data


def echo_works(port, host="127.0.0.1"):
    """Like ask_echo, but a failure is False; for wait_until."""
    try:
        return ask_echo(port, host=host)
    except (OSError, AssertionError):
        return False
