#!/usr/bin/env python3
"""Compares tunnels on loopback, side by side in one run: throughput, requests, new connections, latency, CPU per GB, memory per idle
connection and time to the first proxied byte. Rounds are interleaved (every contestant once, then again in another order) and medians
printed, because a shared machine's absolute figures wander; ratios within one run are what counts, and CPU and memory columns hold even
beside other work.

    bash cmake/install-deps.sh build test bench
    python3 bench/loopback.py --quick                    a few minutes
    python3 bench/loopback.py --only 'epoll|frp'         some of them
    python3 bench/loopback.py --against 'rathole tcp'    ratios to that one
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from contestants import everyone, wait_bound

TICKS = os.sysconf("SC_CLK_TCK")

# Column: heading, how a value is printed, whether more is better.
COLUMNS = {
    "up1": ("1 stream up Gbit/s", "{:.1f}", True),
    "down1": ("1 stream down", "{:.1f}", True),
    "up8": ("8 streams up", "{:.1f}", True),
    "down8": ("8 streams down", "{:.1f}", True),
    "cpu": ("CPU s per GB, up / down mean", "{:.2f}", False),
    "rps": ("64 keep-alive req/s", "{:,.0f}", True),
    "p50": ("p50 ms", "{:.2f}", False),
    "p99": ("p99 ms", "{:.1f}", False),
    "cpu_request": ("CPU us per request", "{:.1f}", False),
    "cps": ("new conn/s", "{:,.0f}", True),
    "cpu_connection": ("CPU us per new conn", "{:.0f}", False),
    "lone": ("1 conn p50 us", "{:.0f}", False),
    "idle_server": ("KB per idle conn, server", "{:.1f}", False),
    "idle_client": ("client", "{:.1f}", False),
    "start": ("start to first byte ms", "{:.0f}", False),
}


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run(*arguments, timeout):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]}: {done.stderr.strip() or done.stdout.strip()[-300:]}")
    return done.stdout


def http_get(port, timeout=2):
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def wait_for(predicate, what, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if predicate():
                return
        time.sleep(0.001)
    raise RuntimeError(f"no {what} within {seconds} s")


def cpu_seconds(processes):
    total = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def private_kb(process):
    with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean", "Private_Dirty")))


class Services:
    """The local services: nginx with one small file, one that accepts and holds connections, and a port for iperf3."""

    def __init__(self, directory):
        self.iperf, self.web, self.hold = free_ports(3)
        (directory / "www").mkdir()
        (directory / "www" / "x").write_text("x" * 128)
        user = "user root;" if os.getuid() == 0 else ""
        (directory / "nginx.conf").write_text(f"""
            daemon off; pid {directory}/nginx.pid; error_log stderr; {user} worker_processes 1; worker_rlimit_nofile 20000;
            events {{ worker_connections 15000; }}
            http {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
              uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s; keepalive_requests 1000000000; tcp_nodelay on;
              server {{ listen 127.0.0.1:{self.web} backlog=4096; root {directory}/www; }} }}""")
        hold = ("import select,socket,resource\n"
                "resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n"
                f"s = socket.create_server(('127.0.0.1', {self.hold}), backlog=4096)\n"
                "kept, wait = {}, select.epoll()\nwait.register(s, select.EPOLLIN)\n"
                "while True:\n for fd, _ in wait.poll():\n"
                "  if fd != s.fileno():\n   kept.pop(fd).close()\n   continue\n"  # nobody writes to it: it ended
                "  c, _ = s.accept()\n  kept[c.fileno()] = c\n  wait.register(c, select.EPOLLIN)\n"
                "  try: c.send(b'k')\n  except OSError: pass\n")
        with open(directory / "services.log", "wb") as log:
            start = lambda *arguments: subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.processes = [start("/usr/sbin/nginx", "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf")),
                              start(sys.executable, "-c", hold)]
        wait_for(lambda: http_get(self.web), "nginx")

    def close(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def iperf(port, services, seconds, streams, down, processes):
    """Gbit/s that arrived, and the daemons' CPU seconds per GB. A server of its own each time: after a test that was cut off, an old one
    may say that it is busy."""
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", str(services.iperf), "-B", "127.0.0.1"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_bound(services.iperf)
        return _iperf(port, seconds, streams, down, processes)
    finally:
        server.kill()
        server.wait()


def _iperf(port, seconds, streams, down, processes):
    before = cpu_seconds(processes)
    arguments = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", seconds, "-P", streams, "-J"] + (["-R"] if down else [])
    answer = json.loads(run(*arguments, timeout=seconds + 30))
    if "sum_received" not in answer["end"]:
        raise RuntimeError(f"iperf3: {answer.get('error', 'no result')}")
    received = answer["end"]["sum_received"]
    spent = cpu_seconds(processes) - before
    return received["bits_per_second"] / 1e9, spent / max(received["bytes"] / 1e9, 1e-9)


def wrk(port, seconds, connections, processes, *headers):
    """Requests per second, p50 and p99 in seconds, the daemons' CPU seconds per request."""
    before = cpu_seconds(processes)
    text = run("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *(f"-H{h}" for h in headers), f"http://127.0.0.1:{port}/x",
               timeout=seconds + 30)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    if errors := re.search(r"Non-2xx.*|Socket errors.*", text):
        print(f"    wrk: {errors[0]}", file=sys.stderr)

    def percentile(p):
        value, unit = re.search(rf"{p}%\s+([\d.]+)(us|ms|s)", text).groups()
        return float(value) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit]
    requests = int(re.search(r"(\d+) requests in", text)[1])
    return rate, percentile(50), percentile(99), (cpu_seconds(processes) - before) / max(requests, 1)


def idle_memory(port, count, processes):
    """KB of private memory for each of `count` connections that were used once and then do nothing."""
    before = [private_kb(process) for process in processes]
    held = []
    try:
        while len(held) < count:
            batch = []
            for _ in range(min(200, count - len(held))):
                one = socket.create_connection(("127.0.0.1", port), timeout=20)
                batch.append(one)
            for one in batch:
                if one.recv(1) != b"k":
                    raise RuntimeError("a connection ended instead of idling")
            held += batch
        time.sleep(0.5)  # let allocators settle
        return [(private_kb(process) - was) / count for process, was in zip(processes, before)]
    finally:
        for one in held:
            one.close()


def measure(contestant, directory, services, options, result):
    """Puts what it measures into `result`, so that a failure half-way leaves the rest."""
    own = free_ports(5)
    public = free_ports(3)
    targets = (services.iperf, services.web, services.hold)
    begun = time.monotonic()
    processes = contestant.start(directory, own, dict(zip(public, targets))) if contestant else []
    iperf_port, web_port, hold_port = public if contestant else targets
    try:
        wait_for(lambda: http_get(web_port), "first byte")
        if contestant:
            result["start"] = (time.monotonic() - begun) * 1e3
        cpu = []
        for key, streams, down in (("up1", 1, False), ("down1", 1, True), ("up8", 8, False), ("down8", 8, True)):
            result[key], spent = iperf(iperf_port, services, options.seconds, streams, down, processes)
            if streams == 1:
                cpu.append(spent)
        if contestant:
            result["cpu"] = statistics.mean(cpu)
        result["rps"], p50, p99, per_request = wrk(web_port, options.seconds, 64, processes)
        result["p50"], result["p99"] = p50 * 1e3, p99 * 1e3
        result["cps"], _, _, per_connection = wrk(web_port, options.seconds, 64, processes, "Connection: close")
        if contestant:
            result["cpu_request"], result["cpu_connection"] = per_request * 1e6, per_connection * 1e6
        _, p50, _, _ = wrk(web_port, 1, 1, processes)
        result["lone"] = p50 * 1e6
        if contestant:
            result["idle_server"], result["idle_client"] = idle_memory(hold_port, options.idle, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def table(rows, cell):
    lines = ["| | " + " | ".join(heading for heading, _, _ in COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in rows:
        lines.append(f"| {name} | " + " | ".join(cell(name, column) for column in COLUMNS) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one-second measurements, 2,000 idle connections")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="length of one measurement")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections")
    parser.add_argument("--only", default="", help="regular expression: which contestants")
    parser.add_argument("--against", default="frp plain, mux", help="the contestant that ratios refer to")
    parser.add_argument("--congestion", help="run in a network namespace of its own whose TCP default is this one (root): where the system's "
                        "default is bbr, its timers are half of what every contestant costs on loopback")
    parser.add_argument("--json", type=pathlib.Path, help="write every single measurement there")
    options = parser.parse_args()
    if options.congestion and "QTRP_BENCH_NAMESPACE" not in os.environ:
        script = f'ip link set lo up && sysctl -qw net.ipv4.tcp_congestion_control={shlex.quote(options.congestion)} && exec "$@"'
        os.environ["QTRP_BENCH_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "sh", "-c", script, "sh", sys.executable, *sys.argv])
    if options.quick:
        options.rounds, options.seconds, options.idle = 1, 1, 2_000
    for program in ("iperf3", "wrk", "/usr/sbin/nginx"):
        if not shutil.which(program):
            sys.exit(f"loopback.py: {program} is missing: bash cmake/install-deps.sh bench")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    ours, peers = everyone()
    contestants = [c for c in ours + peers if re.search(options.only, c.name)]
    present = [c for c in contestants if c.available()]
    for missing in (c.name for c in contestants if c not in present):
        print(f"not on PATH: {missing}", file=sys.stderr)

    results = {}
    with tempfile.TemporaryDirectory(prefix="qtrp-bench-") as temporary:
        directory = pathlib.Path(temporary)
        services = Services(directory)
        try:
            for number in range(options.rounds):
                order = [None, *present] if not options.only or re.search(options.only, "no tunnel") else present
                order = order[number % len(order):] + order[:number % len(order)]
                for contestant in order:
                    name = contestant.name if contestant else "no tunnel"
                    print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
                    place = directory / f"{number}-{re.sub('[^a-z0-9]+', '-', name)}"
                    result = {}
                    try:
                        measure(contestant, place, services, options, result)
                    except (RuntimeError, subprocess.TimeoutExpired, OSError, KeyError) as error:
                        print(f"    {name}: {error}", file=sys.stderr)
                        for log in sorted(place.glob("*.log")):
                            print("\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:]), file=sys.stderr)
                    for key, value in result.items():
                        results.setdefault(name, {}).setdefault(key, []).append(value)
        finally:
            services.close()

    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    rows = [name for name in ["no tunnel", *(c.name for c in contestants)] if name in results]
    median = {name: {key: statistics.median(values) for key, values in columns.items()} for name, columns in results.items()}

    def value(name, column):
        found = median[name].get(column)
        return "" if found is None else COLUMNS[column][1].format(found)

    def ratio(name, column):
        found, base = median[name].get(column), median[options.against].get(column)
        return "" if found is None or not base else f"{found / base:.2f}"

    print(f"{os.cpu_count()} cores, Linux {os.uname().release}; medians of {options.rounds}, {options.seconds} s each, "
          f"{options.idle:,} idle connections\n")
    print(table(rows, value))
    if options.against in median:
        print(f"\nRatios to {options.against}\n")
        print(table(rows, ratio))


if __name__ == "__main__":
    main()
