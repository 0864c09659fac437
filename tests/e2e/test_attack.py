"""Attackers, with a plan: floods that must not keep a real client out, recordings played again, connections spliced, somebody in
between who changes what passes, a stolen configuration. Nonsense at the tunnel port is in test_hostile, a man in the middle with a
certificate of his own in test_faults."""

import contextlib
import random
import socket
import threading
import time

import pytest

from lab import CIPHERS, SLOW, TRANSPORT, ask_echo, connect, echo_works, open_ports_of, receive_all, receive_exactly, wait_until
from test_faults import Link, over, tunnel_port, works
from wire import WireClient

ENCRYPTED = [cipher for cipher in CIPHERS if cipher != "none"]
BEGINNINGS = {  # of a handshake that never goes on
    "none": b"QTRP\x01\x02",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(70)),
    "chacha20": bytes(8) + b"\x00\x30" + bytes(40),
}


def stranger(port, source):
    """A connection to the tunnel port from another address of this machine."""
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    connection.bind((source, 0))
    connection.settimeout(30 * SLOW)
    connection.connect(("127.0.0.1", port))
    return connection


# Floods

def test_ten_thousand_half_open_handshakes_do_not_stop_a_real_client(lab, cipher):
    """They keep coming while a real client connects, from three addresses; a session goes on, and memory is bounded."""
    server, _, port = lab.tunnel(lab.echo(), crypto=cipher)
    target = tunnel_port(server)
    memory = server.resident_kb()
    half_open, enough, problems = [], threading.Event(), []

    def flood(source):
        try:
            while not enough.is_set():
                one = stranger(target, source)
                with contextlib.suppress(ConnectionError):
                    one.sendall(BEGINNINGS[cipher])
                half_open.append(one)
                if len(half_open) > count + 1000:  # descriptors of our own are bounded as well
                    half_open.pop(0).close()
        except OSError as error:
            problems.append(error)

    count = 10_000 if SLOW == 1 else 3_000
    flooders = [threading.Thread(target=flood, args=(f"127.0.0.{n}",)) for n in (2, 3, 4)]
    user = connect(port)
    try:
        for one in flooders:
            one.start()
        wait_until(lambda: len(half_open) >= count or problems, f"{count} half-open handshakes", 60)
        begun = time.monotonic()
        newcomer = lab.client(server, [lab.echo()], name="newcomer")
        assert ask_echo(newcomer.config["proxies"][0]["remote_port"])
        assert time.monotonic() - begun < 5 * SLOW
        user.sendall(b"as if nothing were")
        assert receive_exactly(user, 18) == b"as if nothing were"
        server.wait_log(r"have not authenticated; the oldest are dropped")
        # 1024 for each worker, of 100 KiB or so while OpenSSL shakes hands, and some that are on their way out.
        assert server.resident_kb() < memory + 300_000 * SLOW
        assert server.stats()["active_clients"] == 2
    finally:
        enough.set()
        for one in flooders:
            one.join()
        for one in (user, *half_open):
            one.close()
    assert not problems


def test_guessing_is_slowed_by_address_and_the_right_token_is_not(lab):
    """Forty guesses from one address: each `denied` waits longer. Whoever knows the token gets in at once, from there too."""
    server = lab.server(crypto="none")  # as the hand-made client does
    waits = []

    def guess():
        with WireClient(tunnel_port(server), "a guess") as wire:
            begun = time.monotonic()
            assert not wire.authenticate()["ok"]
            waits.append(time.monotonic() - begun)

    guesses = [threading.Thread(target=guess) for _ in range(40)]
    for one in guesses:
        one.start()
    wait_until(lambda: len(waits) >= 3, "the first answers")
    begun = time.monotonic()
    with WireClient(tunnel_port(server), lab.token) as wire:
        assert wire.authenticate()["ok"]
    assert time.monotonic() - begun < 0.9 * SLOW
    for one in guesses:
        one.join()
    assert len(waits) == 40
    assert sorted(waits)[4] > 1.5 and max(waits) > 7  # 0, 0, 0, 1, 2, 4, 8, 8, ...
    assert server.stats()["active_clients"] == 0


# Recordings

class Recorder(Link):
    """Keeps what the client says, connection by connection."""

    def __init__(self, lab, target):
        super().__init__(lab, target)
        self.said = bytearray()
        self.mangle = self.keep

    def keep(self, data, direction):
        if direction == "up":
            self.said += data
        return data


def test_a_recorded_session_cannot_be_played_again(lab, cipher):
    """All that a real client said, byte by byte, to the same server: it does not become a client by it."""
    server, client, link, port = over(lab, Recorder, lab.echo(), cipher)
    assert ask_echo(port)
    recorded = bytes(link.said)
    assert len(recorded) > 200
    client.stop()
    server.wait_stats(lambda stats: stats["active_clients"] == 0, "that the client has left")
    server.mark()
    for size in (len(recorded), len(recorded) // 2, 200):
        with connect(tunnel_port(server)) as replay:
            replay.settimeout(15 * SLOW)
            with contextlib.suppress(ConnectionError):
                replay.sendall(recorded[:size])
                replay.shutdown(socket.SHUT_WR)
                while replay.recv(1 << 16):
                    pass
    assert not echo_works(port)
    assert server.stats()["active_clients"] == 0
    assert "connected, token" not in server.log()
    if cipher == "none":
        server.wait_log(r"denied: replayed")


class Crossing(Link):
    """Once crossed, what one client says goes to the other one's connection, and the other way round."""

    def __init__(self, lab, target):
        super().__init__(lab, target)
        self.crossed = False

    def _pump(self, source, sink, direction):
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(1 << 16):
                to = sink
                if self.crossed and direction == "up":
                    to = next(far for near, far in self.pairs if near is not source)
                to.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("crypto", ENCRYPTED)
def test_spliced_connections_are_noticed(lab, crypto):
    """Two sessions of the same token; in the middle of them their records are exchanged. Nothing is delivered to the wrong one."""
    server = lab.server(crypto=crypto, keepalive={"interval": "1s"})  # so that both say something soon
    link = Crossing(lab, tunnel_port(server))
    users = []
    for name in ("one", "two"):
        client = lab.client(server, [lab.echo()], name=name, server=link.address, keepalive={"interval": "1s"})
        users.append(connect(client.config["proxies"][0]["remote_port"]))
        users[-1].sendall(name.encode())
        assert receive_exactly(users[-1], len(name)) == name.encode()
    link.crossed = True
    for user in users:
        user.sendall(b"secret")
    for user in users:
        with pytest.raises(ConnectionResetError):
            assert receive_all(user) == b"", "something of the other's was delivered"
        user.close()
    server.wait_log(r"disconnected: .*(record|tls|mac|decrypt|authentic)")


# Somebody in between

@pytest.mark.parametrize("crypto", CIPHERS)
def test_an_impostor_server_is_left_and_learns_nothing_of_use(lab, crypto):
    """A server with another token: the client's services are never dialed, whatever the cipher."""
    service = lab.echo()
    impostor = lab.server(crypto=crypto, auth={"tokens": [lab.secret()]})
    client = lab.client(impostor, [service], wait=False)
    client.wait_log(r"(denied|does not authenticate|closed the connection|reset|does not know the token)")
    impostor.wait_log(r"(denied|refused)")
    assert impostor.stats()["active_clients"] == 0
    assert not service.connections


@pytest.mark.parametrize("crypto", ENCRYPTED)
def test_every_changed_bit_of_the_handshake_ends_it(lab, crypto):
    """A bit flipped anywhere in the first bytes of either side: no session comes of it. (But for the version in a TLS record's header,
    which is to be ignored: RFC 8446, section 5.1.)"""
    server = lab.server(crypto=crypto)
    service = lab.echo()
    link = Link(lab, tunnel_port(server))
    chance = random.Random(5)
    # Noise: hint, length, key and tag, the same again, then the first record. TLS: hellos, then what is encrypted.
    spots = [("up", 3), ("up", 9), ("up", 20), ("up", 50), ("down", 3), ("down", 10), ("down", 45)] + [
        (chance.choice(["up", "down"]), chance.randrange(3, 48 if crypto == "chacha20" else 120)) for _ in range(5)]
    for way, spot in spots:
        passed = {"up": 0, "down": 0}

        def flip(data, direction):
            at = spot - passed[direction]
            passed[direction] += len(data)
            if direction != way or not 0 <= at < len(data):
                return data
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1:]

        link.mangle = flip
        client = lab.client(server, [service], name=f"{way}{spot}", server=link.address, wait=False, connect_timeout="1s")
        # Its first try: a byte that promises more than comes ends with the time limit.
        client.wait_log(r"error")
        assert f"connected, {TRANSPORT}" not in client.log()
        assert server.stats()["active_clients"] == 0, f"bit {spot} {way}"
        client.stop()
    assert not service.connections


@pytest.mark.parametrize("what, at, value", [("version", 4, 2), ("mux", 5, 3), ("no extensions", 7, 0), ("other frames", 10, 1)])
@pytest.mark.parametrize("way", ["up", "down"])
def test_the_preface_cannot_be_talked_down(lab, way, what, at, value):
    """Over crypto none, where it can be changed at all: the proofs cover both prefaces."""
    server = lab.server(crypto="none")
    service = lab.echo()
    link = Link(lab, tunnel_port(server))
    seen = {"up": 0, "down": 0}

    def change(data, direction):
        first = seen[direction] == 0
        seen[direction] += len(data)
        if direction != way or not first:
            return data
        assert data[:4] == b"QTRP" and data[at] != value
        return data[:at] + bytes([value]) + data[at + 1:]

    link.mangle = change
    client = lab.client(server, [service], server=link.address, wait=False)
    expected = {"version": "version differs", "mux": "mux differs"}.get(what, "denied" if way == "up" else "does not know the token")
    (server if way == "up" and what in ("version", "mux") else client).wait_log(expected)
    assert not service.connections


# A stolen configuration

def test_a_stolen_token_opens_no_ports_of_other_clients(lab):
    thiefs = lab.secret()
    allowed, port = lab.ports.take(), lab.ports.take()
    server = lab.server(auth={"tokens": [{"token": lab.token, "name": "owner"}, {"token": thiefs, "name": "stolen", "ports": [allowed]}]})
    service, trap = lab.echo(), lab.service(lambda connection: connection.sendall(b"trap"))
    owner = lab.client(server, [{"remote_port": port, "local_addr": service.address}])
    wanted = [{"remote_port": port, "local_addr": trap.address}, {"remote_port": 0, "local_addr": trap.address, "name": "any"},
              {"remote_port": allowed, "local_addr": trap.address}]
    # With the owner's instance id: from a backup of its state directory, say.
    thief = lab.client(server, wanted, name="thief", token=thiefs, wait=False, state_dir=owner.config["state_dir"])
    lab.wait_proxies(server, [allowed])
    server.wait_log(rf"port {port} is not allowed")
    assert open_ports_of(server.stats()) == {port, allowed}
    assert ask_echo(port)
    owner.kill()  # also when the owner is away
    wait_until(lambda: open_ports_of(server.stats()) == {allowed}, "that the owner's port is closed")
    thief.wait_log(r"port_not_allowed")
    assert not echo_works(port)
    owner.start()
    works(port)


def test_a_copied_state_directory_takes_nothing_from_a_living_client(lab):
    """The same token and the same instance id as well: the owner answers, so it keeps what it has."""
    server, owner, port = lab.tunnel(lab.echo())
    with connect(port) as user:
        user.sendall(b"mine")
        assert receive_exactly(user, 4) == b"mine"
        trap = lab.service(lambda connection: connection.sendall(b"trap"))
        thief = lab.client(server, [{"remote_port": port, "local_addr": trap.address}], name="thief", wait=False,
                           state_dir=owner.config["state_dir"])
        thief.wait_log(r"port_in_use")
        server.wait_log(r"same instance id is alive")
        user.sendall(b"still")
        assert receive_exactly(user, 5) == b"still"
    assert ask_echo(port)
