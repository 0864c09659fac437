"""Load: ten thousand users at once, and twenty thousand that come and go, each with a text of its own that must come back byte for byte.
Afterwards everything is as it was."""

import json
import resource
import subprocess

import pytest

from lab import CIPHERS, HELPERS, SLOW, ask_echo, wait_until

SCALE = 1 if SLOW == 1 else 0.1
# Each of the four processes (users, server, client, service) holds every connection once.
assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 10_500 * SCALE, "too few descriptors; raise the hard limit (ulimit -Hn)"


@pytest.fixture
def tunnel(lab):
    """Returns start(cipher, **config): server, client, public port; with an echo for thousands behind them."""
    def start(cipher, **config):
        service = subprocess.Popen([str(HELPERS / "qtrp-load"), "serve"], stdout=subprocess.PIPE, text=True)
        lab.processes.append(service)
        port = service.stdout.readline().strip()
        server = lab.server(crypto=cipher, start=False, log={"level": "info"}, **{k: v for k, v in config.items() if k != "tunnels"})
        client = lab.client(server, [{"remote_port": lab.ports.take(), "local_addr": f"127.0.0.1:{port}"}], start=False,
                            log={"level": "info"}, **config)
        for daemon in (server, client):
            daemon.start()
        public = client.config["proxies"][0]["remote_port"]
        wait_until(lambda: ask_echo(public), "the tunnel")
        for daemon in (server, client):
            daemon.wait_stats(lambda stats: stats["active_connections"] == 0, "no connection")
        return server, client, public
    return start


def users(how, port, *arguments):
    done = subprocess.run([str(HELPERS / "qtrp-load"), how, str(port), *map(str, arguments)], capture_output=True, text=True,
                          timeout=200 * SLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    print(how, result)
    return result


def check_after(server, client, before, connections, size):
    for daemon in (server, client):
        stats = daemon.wait_stats(lambda s: s["active_connections"] == 0, "that all have left") and daemon.stats()
        assert stats["total_connections"] == connections + 1
        assert stats["bytes_in"] == stats["bytes_out"] == size + 4  # and the first user's ping
        wait_until(lambda: daemon.descriptors() <= before[daemon] + 20, f"{daemon.name}'s descriptors to be closed")


@pytest.mark.parametrize("cipher, more", [(CIPHERS[0], {}), ("tls", {"workers": 2, "tunnels": 2})])
def test_ten_thousand_connections_at_once(tunnel, cipher, more):
    server, client, port = tunnel(cipher, **more)
    before = {daemon: daemon.descriptors() for daemon in (server, client)}
    count = int(10_000 * SCALE)
    result = users("hold", port, count, 4000, 3)
    assert (result["completed"], result["failed"], result["wrong"]) == (count, 0, 0)
    check_after(server, client, before, count, count * 4000 * 3)


def test_twenty_thousand_that_come_and_go(tunnel):
    server, client, port = tunnel("tls", workers=2, tunnels=2)
    before = {daemon: daemon.descriptors() for daemon in (server, client)}
    memory = []
    steps = 4
    count = int(20_000 * SCALE) // steps
    for step in range(steps):
        result = users("churn", port, count, 2000, 200 * (step + 1))
        assert (result["completed"], result["failed"], result["wrong"]) == (count, 0, 0)
        memory.append((server.resident_kb(), client.resident_kb()))
    check_after(server, client, before, count * steps, count * steps * 2000)
    print("resident KB after each step:", memory)
    for side in (0, 1):
        assert memory[-1][side] < memory[0][side] + 60_000 * SLOW, "memory grows with connections that are gone"
