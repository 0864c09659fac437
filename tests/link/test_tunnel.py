"""The product over a long, lossy or busy link: server and user in one namespace, client and service in the other. Loose bounds; bench/lossy.py
has the figures."""

import json
import os
import pathlib
import re
import secrets
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from testlink import ROOT, TestLink
from traffic import echo_service, message_times

BIN = pathlib.Path(os.environ.get("QTRP_BUILD_DIR", ROOT / "build/release")) / "bin"
TUNNEL, STATS, BULK, ECHO = 6000, 7500, 7001, 7002  # in the server's namespace, which is ours alone
BULK_SERVICE, ECHO_SERVICE = 5201, 5202             # in the client's


class Tunnel:
    """A qtrp-server in a and a qtrp-client in b; iperf3 and an echo behind the client."""

    def __init__(self, link, directory, echo=True, **common):
        self.link, self.directory = link, directory
        token = secrets.token_hex(16)
        common = {"log": {"level": "info"}, "stats": {"listen": f"127.0.0.1:{STATS}"}, **common}
        server = common | {"bind": f"{link.address('a')}:{TUNNEL}", "auth": {"tokens": [token]}, "state_dir": str(directory / "s")}
        client = common | {"server": f"{link.address('a')}:{TUNNEL}", "token": token, "state_dir": str(directory / "c"), "proxies": [
            {"remote_port": BULK, "local_addr": f"127.0.0.1:{BULK_SERVICE}"},
            {"remote_port": ECHO, "local_addr": f"127.0.0.1:{ECHO_SERVICE}"}]}
        for name, side, config in (("server", "a", server), ("client", "b", client)):
            file = directory / f"{name}.yaml"
            file.write_text(json.dumps(config))
            file.chmod(0o600)
            with open(directory / f"{name}.log", "wb") as log:
                link.popen(side, [BIN / f"qtrp-{name}", "-c", file], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        link.popen("b", ["iperf3", "-s", "-p", BULK_SERVICE], stdout=subprocess.DEVNULL)
        if echo:
            echo_service(link, "b", ECHO_SERVICE)
        for side, port in (("b", BULK_SERVICE), ("a", BULK), ("a", ECHO)):
            link.wait_listening(side, port, timeout=30)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()

    def stats(self, side):
        with self.link.inside(side), urllib.request.urlopen(f"http://127.0.0.1:{STATS}/stats", timeout=5) as answer:
            return json.load(answer)

    def download(self, seconds, ramp=4):
        argv = ["iperf3", "-c", self.link.address("a"), "-p", BULK, "-R", "-J", "-O", ramp, "-t", seconds]
        done = self.link.run("a", argv, timeout=seconds + ramp + 60)
        return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e6

    def messages(self, seconds):
        return message_times(self.link, "a", self.link.address("a"), ECHO, seconds)


def wait_until(condition, seen, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)


@pytest.mark.parametrize("crypto", ["tls", "none"])
def test_brutal_carries_a_download_over_a_lossy_link(tmp_path, crypto):
    with TestLink(delay="50ms", rate="200M", queue="100ms", loss=5) as link:
        tunnel = Tunnel(link, tmp_path, transport="epoll", crypto=crypto, brutal={"enabled": True, "target_mbps": 100})
        assert tunnel.download(6) > 60
        assert "congestion control: brutal (" in tunnel.log("client")
        shown = json.dumps(tunnel.stats("b"))
        assert '"brutal (' in shown


def test_tunnels_that_share_a_target_let_one_download_have_it(tmp_path):
    with TestLink(delay="50ms", rate="200M", queue="100ms") as link:
        tunnel = Tunnel(link, tmp_path, brutal={"enabled": True, "target_mbps": 100})
        wait_until(lambda: len(tunnel.stats("b")["tunnels"]) == 2, "Brutal brings a second tunnel")
        assert tunnel.download(3, ramp=3) > 80


def test_a_small_message_does_not_wait_for_what_a_brutal_download_lost(tmp_path):
    with TestLink(delay="50ms", rate="200M", queue="100ms", loss=2) as link:
        tunnel = Tunnel(link, tmp_path, transport="epoll", brutal={"enabled": True, "target_mbps": 60})
        timers = []

        def quiet_timer_is_short():
            """Of either end's two tunnels one waits less than the kernel's 200 ms and a round trip before it sends a packet again: the one without the download."""
            for side in "ab":
                shown = link.run(side, ["ss", "-tinH", "sport" if side == "a" else "dport", "=", f":{TUNNEL}"]).stdout
                timers[:] = sorted(float(rto) for rto in re.findall(r"\brto:([0-9.]+)", shown))
                if len(timers) != 2 or timers[0] >= 280:
                    return False
            return True
        wait_until(lambda: len(tunnel.stats("b")["tunnels"]) == 2, "Brutal brings a second tunnel")
        before = threading.Thread(target=lambda: [tunnel.messages(3) for _ in range(2)])
        before.start()
        wait_until(quiet_timer_is_short, timers)
        before.join()
        bulk = []
        loader = threading.Thread(target=lambda: bulk.append(tunnel.download(8, ramp=1)))
        loader.start()
        times = tunnel.messages(4)
        loader.join()
        assert bulk[0] > 30
        assert statistics.median(times) < 150  # in one tunnel it is two round trips


def test_a_small_message_does_not_wait_behind_a_paced_download(tmp_path):
    with TestLink(delay="20ms", rate="100M", queue="100ms") as link:
        tunnel = Tunnel(link, tmp_path, transport="epoll", crypto="tls", brutal={"enabled": True, "target_mbps": 70})
        idle = tunnel.messages(2)
        loaded = []
        pinger = threading.Thread(target=lambda: loaded.extend(tunnel.messages(6)))
        pinger.start()
        assert tunnel.download(4, ramp=2) > 40
        pinger.join()
        assert len(loaded) > 20
        assert statistics.median(loaded) < 1.5 * statistics.median(idle)


@pytest.mark.parametrize("brutal, most", [(None, 2), ({"enabled": True, "target_mbps": 80}, 1.5)], ids=["bbr", "brutal"])
def test_a_hundred_quiet_streams_do_not_wait_behind_a_download(tmp_path, brutal, most):
    """The median; bench/fairness.py has the tail, which a busy machine and BBR's own pauses make."""
    with TestLink(delay="20ms", rate="100M", queue="100ms") as link:
        tunnel = Tunnel(link, tmp_path, transport="epoll", crypto="tls", echo=False, **({"brutal": brutal} if brutal else {}))
        chatter = [sys.executable, ROOT / "tests/link/chatter.py"]
        link.popen("b", [*chatter, "serve", ECHO_SERVICE])
        link.wait_listening("b", ECHO_SERVICE)
        talk = [*chatter, "send", link.address("a"), ECHO, 100]
        idle = json.loads(link.run("a", [*talk, 2], timeout=60).stdout)
        bulk = []
        loader = threading.Thread(target=lambda: bulk.append(tunnel.download(5, ramp=2)))
        loader.start()
        loaded = json.loads(link.run("a", [*talk, 4], timeout=60).stdout)
        loader.join()
        assert bulk[0] > 40  # it did load the link
        assert loaded["p50"] < most * idle["p50"], (idle, loaded)


def test_it_outlives_a_stalled_and_a_broken_link(tmp_path):
    with TestLink(delay="10ms", rate="100M") as link:
        tunnel = Tunnel(link, tmp_path, keepalive={"interval": "1s"})
        assert tunnel.messages(0.5)
        link.command("stall")
        time.sleep(1)  # the outage itself
        link.command("up")
        assert tunnel.messages(0.5)
        assert "connection lost" not in tunnel.log("client")
        link.command("down")
        wait_until(lambda: "connection lost" in tunnel.log("client"), "the client took the tunnel for alive", timeout=30)
        link.command("up")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                assert tunnel.messages(0.3)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(tunnel.log("client"))


def test_speedtest_finds_what_the_link_carries_each_way(tmp_path):
    with TestLink("b>a rate=40M", "a>b rate=90M", delay="10ms", queue="100ms") as link:
        # Brutal is configured, far below: the test does without it.
        tunnel = Tunnel(link, tmp_path, brutal={"enabled": True, "target_mbps": 5})
        done = link.run("b", [BIN / "qtrp-client", "speedtest", "--seconds", 3, "-c", tmp_path / "client.yaml"], timeout=60)
        found = {way: float(done.stdout.split(way)[1].split()[0]) for way in ("download", "upload")}
        assert 60 < found["download"] < 90 and 27 < found["upload"] < 40, done.stdout
        for file, way in (("server.yaml", "download"), ("client.yaml", "upload")):
            assert f"{file}:  brutal: {{enabled: true, target_mbps: {int(found[way] * 0.9)}" in done.stdout
        # The tunnel that was there has gone on.
        assert tunnel.messages(0.3)
        assert "connection lost" not in tunnel.log("client")
