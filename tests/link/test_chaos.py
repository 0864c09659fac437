"""The tunnel over a link that loses, reorders, duplicates and damages packets, or whose client gets another address: what was sent
arrives, byte for byte, or the connection is reset."""

import random
import socket
import time

import pytest

from test_tunnel import ECHO, Tunnel
from testlink import TestLink

FAULTS = {
    "30 % loss": {"loss": 30},
    "reordered": {"reorder": 30, "reorder_by": "15ms"},
    "duplicated": {"duplicate": 30},
    "damaged": {"corrupt": 5},
    "all at once": {"loss": 3, "reorder": 10, "reorder_by": "10ms", "duplicate": 10, "corrupt": 1},
}


def there_and_back(link, size, seed, timeout=60):
    """`size` random bytes to the echo behind the tunnel; returns how many seconds it took."""
    sent = random.Random(seed).randbytes(size)
    with link.inside("a"):
        user = socket.create_connection((link.address("a"), ECHO), timeout=20)
    begun = time.monotonic()
    with user:
        user.settimeout(timeout)
        at, got = 0, bytearray()
        while len(got) < size:
            if at < size and at - len(got) < 60_000:  # less than any buffer on the way: no deadlock
                user.sendall(sent[at:at + 10_000])
                at += 10_000
                continue
            data = user.recv(1 << 16)
            assert data, f"closed after {len(got)} of {size} bytes"
            got += data
    assert got == sent
    return time.monotonic() - begun


@pytest.mark.parametrize("crypto", ["tls", "none"])
@pytest.mark.parametrize("what", FAULTS)
def test_everything_arrives_over_a_bad_link(tmp_path, what, crypto):
    with TestLink(delay="5ms", rate="50M", queue="100ms") as link:
        tunnel = Tunnel(link, tmp_path, transport="epoll", crypto=crypto)
        link.set(**FAULTS[what])
        there_and_back(link, 150_000, seed=1)
        assert "lost" not in tunnel.log("client")
        assert tunnel.stats("a")["active_clients"] == 1
        link.set(loss=0, reorder=0, duplicate=0, corrupt=0)


@pytest.mark.parametrize("transport", ["net", "epoll"])
def test_a_client_whose_address_changes_comes_back(tmp_path, transport):
    """As after a new lease: packets of the old connection go nowhere, the new one comes from elsewhere."""
    with TestLink(delay="5ms", rate="100M") as link:
        tunnel = Tunnel(link, tmp_path, transport=transport, keepalive={"interval": "1s"})
        there_and_back(link, 50_000, seed=1)
        before = tunnel.stats("a")["tunnels"][0]["address"]
        shown = link.run("b", ["ip", "-o", "-4", "addr", "show"]).stdout
        device = next(line.split()[1] for line in shown.splitlines() if link.address("b") in line)
        link.run("b", ["ip", "addr", "del", f"{link.address('b')}/24", "dev", device])
        link.run("b", ["ip", "addr", "add", "10.77.0.77/24", "dev", device])
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            tunnels = tunnel.stats("a")["tunnels"]
            if tunnels and tunnels[0]["address"].startswith("10.77.0.77:"):
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"no tunnel from the new address (before: {before})\n" + tunnel.log("client"))
        there_and_back(link, 50_000, seed=2)
