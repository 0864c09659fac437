#!/usr/bin/env python3
"""Keeps a tunnel under mixed load for an hour (or --seconds) and watches what should stay flat: memory, descriptors and threads of both
daemons, and a small message's round trip. Writes soak.csv and soak.svg into --out, and fails if the end is worse than the beginning.

    python3 bench/soak.py                             an hour: tls, epoll, 2 workers, 2 tunnels
    python3 bench/soak.py --seconds 300 --crypto chacha20 --transport net --out build/soak

The load: 500 connections that stay open, waves of users that come and go (every tenth with a reset), a download and an upload without end,
and the client killed and started again now and then (--kill, seconds). What every user sends must come back byte for byte."""

import argparse
import contextlib
import csv
import json
import os
import pathlib
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

from contestants import write_secret

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("QTRP_BUILD_DIR", ROOT / "build/release"))
SERIES = ["server_rss_kb", "client_rss_kb", "server_fds", "client_fds", "server_threads", "client_threads", "p50_ms", "p99_ms"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Soak:
    def __init__(self, options):
        self.options = options
        self.out = pathlib.Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.processes, self.failures, self.rows = {}, [], []
        self.done = threading.Event()
        self.up = threading.Event()  # clear while the client is being replaced
        self.waves = self.transferred = 0
        self.round_trips = []
        self.lock = threading.Lock()

    # --- what runs ---

    def start(self):
        service = self.spawn("service", [BUILD / "tests/qtrp-load", "serve"], stdout=subprocess.PIPE)
        echo = int(service.stdout.readline())
        token = secrets.token_hex(24)
        self.public, self.stats = free_port(), {"server": free_port(), "client": free_port()}
        common = {"transport": self.options.transport, "crypto": self.options.crypto, "workers": 2, "log": {"level": "info"}}
        bind = f"127.0.0.1:{free_port()}"
        configs = {
            "server": common | {"bind": bind, "auth": {"tokens": [token]}},
            "client": common | {"server": bind, "token": token, "tunnels": 2,
                                "proxies": [{"remote_port": self.public, "local_addr": f"127.0.0.1:{echo}"}]}}
        for name, config in configs.items():
            config |= {"stats": {"listen": f"127.0.0.1:{self.stats[name]}"}, "state_dir": str(self.out / f"{name}-state")}
            write_secret(self.out / f"{name}.yaml", json.dumps(config))
            self.start_daemon(name)
        self.wait_for_tunnel()

    def spawn(self, name, argv, **options):
        started = self.processes[name] = subprocess.Popen([*map(str, argv)], stdin=subprocess.DEVNULL, text=True, **options)
        return started

    def start_daemon(self, name):
        with open(self.out / f"{name}.log", "ab") as log:
            self.spawn(name, [BUILD / "bin" / f"qtrp-{name}", "-c", self.out / f"{name}.yaml"], stdout=log, stderr=log)

    def wait_for_tunnel(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.ping() is not None:
                    self.up.set()
                    return
            time.sleep(0.05)
        raise SystemExit("the tunnel does not come up; see " + str(self.out))

    def stop(self):
        self.done.set()
        codes = {}
        for name in ("client", "server", "service"):
            process = self.processes.get(name)
            if process is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                codes[name] = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        for name in ("client", "server"):
            if codes.get(name) != 0:
                self.failures.append(f"{name} ended with {codes.get(name)}")

    # --- load ---

    def ping(self):
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.public), timeout=20) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"x" * 64)
            left = 64
            while left:
                data = connection.recv(left)
                if not data:
                    return None
                left -= len(data)
        return (time.monotonic() - begun) * 1000

    def load(self, *arguments):
        """One run of qtrp-load; a failure counts unless the client was away meanwhile."""
        self.up.wait(60)
        kills = self.kills
        done = subprocess.run([BUILD / "tests/qtrp-load", arguments[0], str(self.public), *map(str, arguments[1:])],
                              capture_output=True, text=True)
        result = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        if result.get("wrong", 0) > 0 or (done.returncode != 0 and kills == self.kills and not self.done.is_set()):
            self.failures.append(f"qtrp-load {arguments}: {done.stdout} {done.stderr}"[:500])
        with self.lock:
            self.transferred += result.get("bytes", 0)
            self.waves += 1

    kills = 0

    def repeat(self, work, gap=0.0):
        def run():
            while not self.done.is_set():
                work()
                self.done.wait(gap)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def pinger(self):
        kills = self.kills
        try:
            took = self.ping() if self.up.wait(60) else None
        except OSError:
            took = None
        if took is None:
            if kills == self.kills and not self.done.is_set():
                self.failures.append("a ping was lost while the client was up")
            return
        with self.lock:
            self.round_trips.append(took)

    def killer(self):
        if self.done.wait(self.options.kill):
            return
        self.up.clear()
        self.kills += 1
        self.processes["client"].kill()
        self.processes["client"].wait()
        self.start_daemon("client")
        self.wait_for_tunnel()
        self.kills += 1

    # --- watching ---

    def sample(self, began):
        row = {"seconds": round(time.monotonic() - began, 1)}
        for name in ("server", "client"):
            pid = self.processes[name].pid
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
                row[f"{name}_rss_kb"], row[f"{name}_threads"] = int(fields["VmRSS"].split()[0]), int(fields["Threads"])
                row[f"{name}_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
            except (OSError, KeyError):  # being replaced
                return
        with self.lock:
            times, self.round_trips = sorted(self.round_trips), []
        if times:
            row["p50_ms"], row["p99_ms"] = round(statistics.median(times), 2), round(times[int(0.99 * (len(times) - 1))], 2)
        self.rows.append(row)

    def run(self):
        self.start()
        began = time.monotonic()
        until = began + self.options.seconds
        threads = [self.repeat(lambda: self.load("hold", 500, 1000, 5), 1), self.repeat(lambda: self.load("churn", 300, 5000, 50), 0.5),
                   self.repeat(lambda: self.load("churn", 2, 20_000_000, 1), 0.5), self.repeat(self.pinger, 0.05)]
        if self.options.kill:
            threads.append(self.repeat(self.killer))
        step = max(1.0, self.options.seconds / 600)
        while time.monotonic() < until and not self.failures:
            time.sleep(min(step, max(0.0, until - time.monotonic())))
            self.sample(began)
            for name in ("server", "client"):
                if self.up.is_set() and self.processes[name].poll() not in (None, -9):
                    self.failures.append(f"{name} ended with {self.processes[name].returncode}")
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.stats['server']}/stats", timeout=5) as answer:
                self.total = json.load(answer)["total_connections"]
        self.done.set()
        for thread in threads:
            thread.join(60)
        self.stop()
        self.judge()

    def judge(self):
        """The last quarter against the second one: what grows without end shows, what warms up does not."""
        n = len(self.rows)
        print(f"{n} samples, {self.waves} waves, {getattr(self, 'total', '?')} connections, {self.transferred / 1e9:.2f} GB each way, "
              f"{self.kills // 2} kills")
        for name in SERIES:
            early = [row[name] for row in self.rows[n // 4:n // 2] if name in row]
            late = [row[name] for row in self.rows[3 * n // 4:] if name in row]
            if not early or not late:
                self.failures.append(f"{name}: no samples")
                continue
            a, b = statistics.median(early), statistics.median(late)
            room = {"rss_kb": (0.1, 8192), "fds": (0.1, 300), "threads": (0, 1), "ms": (1.0, 20)}[name.split("_", 1)[1] if "ms" not in name else "ms"]
            flat = b <= a * (1 + room[0]) + room[1]
            print(f"  {name:16} {a:12.2f} -> {b:12.2f}  {'flat' if flat else 'GROWS'}")
            if not flat:
                self.failures.append(f"{name} grows: {a} -> {b}")
        with open(self.out / "soak.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["seconds", *SERIES])
            writer.writeheader()
            writer.writerows(self.rows)
        (self.out / "soak.svg").write_text(plot(self.rows))
        print(f"  {self.out / 'soak.csv'}, {self.out / 'soak.svg'}")
        for failure in self.failures:
            print("FAILED:", failure)


def plot(rows):
    """One small diagram a series, as SVG."""
    width, height, gap = 900, 110, 26
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{(height + gap) * len(SERIES) + gap}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    end = max((row["seconds"] for row in rows), default=1) or 1
    for i, name in enumerate(SERIES):
        points = [(row["seconds"], row[name]) for row in rows if name in row]
        top = max((value for _, value in points), default=1) or 1
        y = gap + i * (height + gap)
        line = " ".join(f"{10 + (width - 20) * at / end:.1f},{y + height * (1 - value / top):.1f}" for at, value in points)
        parts.append(f'<text x="10" y="{y - 6}">{name}, 0 to {top:g}, {end:g} s</text>'
                     f'<rect x="10" y="{y}" width="{width - 20}" height="{height}" fill="none" stroke="#bbb"/>'
                     f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>')
    return "\n".join([*parts, "</svg>\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--crypto", default="tls", choices=["tls", "chacha20", "none"])
    parser.add_argument("--transport", default="epoll", choices=["net", "epoll", "quic"])
    parser.add_argument("--kill", type=float, default=0, help="kill the client every so many seconds (0: never)")
    parser.add_argument("--out", default=str(BUILD / "soak"))
    soak = Soak(parser.parse_args())
    try:
        soak.run()
    finally:
        soak.done.set()
        for process in soak.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    sys.exit(1 if soak.failures else 0)


if __name__ == "__main__":
    main()
