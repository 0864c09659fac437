#!/usr/bin/env python3
"""What `pool` is for: a local service that is itself far from the client. User, server and client in one network namespace, the service in another,
the test link between. Times each new connection from connect() to the first answer, with and without connections kept ready, in turns. Needs root.

    cmake --build --preset release && sudo python3 bench/pool.py
    sudo python3 bench/pool.py --delay 0 --pool 0,1,8"""

import argparse
import json
import pathlib
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/link"))

from contestants import write_secret  # noqa: E402
from testlink import ROOT, TestLink  # noqa: E402
from traffic import echo_service  # noqa: E402

TUNNEL, PUBLIC, SERVICE = 6000, 7000, 5202


def ask(link):
    """Milliseconds from connect() to the answer."""
    with link.inside("a"):
        begun = time.monotonic()
        connection = socket.create_connection(("127.0.0.1", PUBLIC), timeout=20)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(bytes(64))
        if len(connection.recv(64, socket.MSG_WAITALL)) != 64:
            raise RuntimeError("the connection was closed")
        return (time.monotonic() - begun) * 1e3


def measure(options, pool):
    """Times of new connections, one after another."""
    token = secrets.token_hex(24)
    common = {"transport": options.transport, "log": {"level": "warn"}}
    with TestLink(delay=f"{options.delay}ms") as link, tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        echo_service(link, "b", SERVICE, link.address("b"))
        configs = {"server": common | {"bind": f"127.0.0.1:{TUNNEL}", "auth": {"tokens": [token]}, "state_dir": str(directory / "s")},
                   "client": common | {"server": f"127.0.0.1:{TUNNEL}", "token": token, "state_dir": str(directory / "c"), "pool": pool,
                                       "proxies": [{"remote_port": PUBLIC, "local_addr": f"{link.address('b')}:{SERVICE}"}]}}
        for name, config in configs.items():
            file = write_secret(directory / f"{name}.yaml", json.dumps(config))
            link.popen("a", [options.bin / f"qtrp-{name}", "-c", file], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        link.wait_listening("a", PUBLIC, timeout=30)
        ask(link)
        time.sleep(options.gap)  # what users do: the pool fills up again meanwhile
        times = []
        for _ in range(options.count):
            times.append(ask(link))
            time.sleep(options.gap)
        return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=20, help="between client and service, one way, ms")
    parser.add_argument("--pool", default="0,4", help="sizes to compare")
    parser.add_argument("--count", type=int, default=40, help="connections a round")
    parser.add_argument("--gap", type=float, default=0.1, help="seconds between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", default="epoll")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    options = parser.parse_args()
    sizes = [int(size) for size in options.pool.split(",")]
    times = {size: [] for size in sizes}
    for _ in range(options.rounds):
        for size in sizes:
            times[size] += measure(options, size)
    print(f"{2 * options.delay:g} ms between client and service; ms from connect() to the first answer\n\n| pool | p50 | p99 |\n|---|---|---|")
    for size, found in times.items():
        found.sort()
        print(f"| {size} | {statistics.median(found):.2f} | {found[int(len(found) * 0.99)]:.2f} |")


if __name__ == "__main__":
    main()
