"""QUIC over links that lose, reorder, repeat and damage packets, and over two links of which now one, now the other is there."""

import hashlib
import json
import os
import pathlib
import random
import secrets
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from testlink import ROOT, TestLink

BIN = pathlib.Path(os.environ.get("QTRP_BUILD_DIR", ROOT / "build/release")) / "bin"
TUNNEL, STATS, PUBLIC, SERVICE = 6000, 7500, 7001, 5201  # in namespaces of our own
BYTES = 8_000_000


def data(size, seed):
    return random.Random(seed).randbytes(size)


class Tunnel:
    """A qtrp-server in a and a qtrp-client in b. The service answers a connection's first 4 bytes, a number, with so many bytes that depend on
    it, and a SHA-256 (hex) of all that comes to it meanwhile."""

    def __init__(self, link, directory, address, **server_extra):
        self.link, self.directory, self.address = link, directory, address
        token = secrets.token_hex(16)
        common = {"transport": "quic", "log": {"level": "debug"}, "stats": {"listen": f"127.0.0.1:{STATS}"}}
        configs = {
            "server": common | {"bind": f"{address}:{TUNNEL}", "auth": {"tokens": [token]}, "state_dir": str(directory / "s")} | server_extra,
            "client": common | {"server": f"{address}:{TUNNEL}", "token": token, "state_dir": str(directory / "c"),
                                "proxies": [{"remote_port": PUBLIC, "local_addr": f"127.0.0.1:{SERVICE}"}]}}
        with link.inside("b"):
            self._listener = socket.create_server(("127.0.0.1", SERVICE), backlog=64)
        threading.Thread(target=self._serve, daemon=True).start()
        for name, side in (("server", "a"), ("client", "b")):
            file = directory / f"{name}.yaml"
            file.write_text(json.dumps(configs[name]))
            file.chmod(0o600)
            with open(directory / f"{name}.log", "wb") as log:
                link.popen(side, [BIN / f"qtrp-{name}", "-c", file], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        link.wait_listening("a", PUBLIC, timeout=60)

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    @staticmethod
    def _answer(connection):
        with connection:
            size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
            answer = data(size, size)
            sender = threading.Thread(target=connection.sendall, args=(answer,))
            sender.start()
            digest = hashlib.sha256()
            while part := connection.recv(1 << 16):
                digest.update(part)
            sender.join()
            connection.sendall(digest.hexdigest().encode())

    def exchange(self, down, up):
        """Both directions at once through one user connection; everything must arrive as it was."""
        with self.link.inside("a"):
            user = socket.create_connection((self.address, PUBLIC), timeout=120)
        out = data(up, up + 1)
        expected = hashlib.sha256(out).hexdigest().encode()

        def send():
            user.sendall(down.to_bytes(4, "big") + out)
            user.shutdown(socket.SHUT_WR)

        with user:
            sender = threading.Thread(target=send)
            sender.start()
            parts = []
            while part := user.recv(1 << 16):
                parts.append(part)
            sender.join()
        received = b"".join(parts)
        assert len(received) == down + 64
        assert received[:down] == data(down, down)
        assert received[down:] == expected

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()

    def stats(self, side="a"):
        with self.link.inside(side), urllib.request.urlopen(f"http://127.0.0.1:{STATS}/stats", timeout=5) as answer:
            return json.load(answer)

    def close(self):
        self._listener.close()
        for name in ("server", "client"):
            assert "Sanitizer" not in self.log(name) and "runtime error" not in self.log(name), self.log(name)[-3000:]


@pytest.mark.parametrize("weather", [
    {"loss": 5}, {"reorder": 10, "reorder_by": "8ms"}, {"duplicate": 10}, {"corrupt": 5},
    {"loss": 3, "reorder": 5, "reorder_by": "5ms", "duplicate": 5, "corrupt": 2}],
    ids=["loss", "reordering", "duplication", "corruption", "everything"])
def test_everything_arrives_as_it_was(tmp_path, weather):
    with TestLink(delay="5ms", rate="200M", queue="100ms", **weather) as link:
        tunnel = Tunnel(link, tmp_path, link.address("a"))
        users = [threading.Thread(target=guard, args=(failures := [], tunnel.exchange, BYTES // 4 + i, BYTES // 8 + i)) for i in range(4)]
        for user in users:
            user.start()
        for user in users:
            user.join()
        assert not failures, failures
        assert "connection lost" not in tunnel.log("client")
        tunnel.close()
        seen = link.stats()["a>b"]
        for kind in weather.keys() & {"loss", "reorder", "duplicate", "corrupt"}:
            assert seen[{"loss": "lost", "reorder": "reordered", "duplicate": "duplicated", "corrupt": "corrupted"}[kind]] > 20, seen


def guard(failures, call, *arguments):
    try:
        call(*arguments)
    except (AssertionError, OSError) as error:
        failures.append(repr(error))


def test_a_transfer_survives_a_change_of_the_interface(tmp_path):
    """The client has two ways to the server, 'link0' and 'second'. The one in use is taken down in the middle of transfers in both directions, and
    then the other one: the session moves along, twice, to the worker that has it, and no connection notices."""
    server = "10.78.0.1"
    with TestLink(delay="5ms", rate="100M") as link:
        def ip(side, *arguments):
            link.run(side, ["ip", *arguments])

        ip("a", "link", "add", "second", "type", "veth", "peer", "name", "second", "netns", link.namespace("b"))
        ip("a", "address", "add", f"{server}/32", "dev", "lo")
        ip("a", "address", "add", "10.78.1.1/24", "dev", "second")
        ip("b", "address", "add", "10.78.1.2/24", "dev", "second")
        for side in ("a", "b"):
            ip(side, "link", "set", "second", "up")
            link.run(side, ["tc", "qdisc", "add", "dev", "second", "root", "tbf", "rate", "100mbit", "burst", "64kb", "latency", "50ms"])
        ip("b", "route", "add", server, "via", link.address("a"), "metric", "100")
        ip("b", "route", "add", server, "via", "10.78.1.1", "metric", "200")
        tunnel = Tunnel(link, tmp_path, server, workers=2)
        failures = []
        user = threading.Thread(target=guard, args=(failures, tunnel.exchange, 5 * BYTES, 2 * BYTES))
        user.start()

        def wait(done, what, seconds=30):
            deadline = time.monotonic() + seconds
            while not done():
                assert time.monotonic() < deadline and not failures, f"{what}: {failures} {tunnel.log('client')[-2000:]}"
                time.sleep(0.02)

        def wait_for_bytes(more):
            target = tunnel.stats()["bytes_out"] + more
            wait(lambda: tunnel.stats()["bytes_out"] >= target or not user.is_alive(), "the transfer to go on")

        wait_for_bytes(BYTES)
        ip("b", "link", "set", "link0", "down")
        wait(lambda: f"from {link.address('b')} to 10.78.1.2" in tunnel.log("client"), "the session to move")
        wait_for_bytes(BYTES)
        ip("b", "link", "set", "link0", "up")
        ip("b", "route", "add", server, "via", link.address("a"), "metric", "300")
        ip("b", "link", "set", "second", "down")
        wait(lambda: f"from 10.78.1.2 to {link.address('b')}" in tunnel.log("client"), "the session to move back")
        assert user.is_alive(), "the transfer was over too early to show anything"
        user.join()
        assert not failures, failures
        assert "connection lost" not in tunnel.log("client")
        assert tunnel.stats()["total_connections"] == 1
        tunnel.exchange(1000, 1000)
        tunnel.close()
