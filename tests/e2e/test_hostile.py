"""Strangers at the tunnel port while a session goes on: each is turned away with one line in the log, and nobody else notices."""

import os
import random
import socket
import ssl
import time

import pytest

from lab import SLOW, TRANSPORT, ask_echo, connect, echo_works, open_ports_of, receive_all, receive_exactly, reset, wait_until


class Session:
    """A session with one user connection that stays open; check() proves that both still work."""

    def __init__(self, lab, crypto):
        self.server, self.client, self.port = lab.tunnel(lab.echo(), crypto=crypto)
        self.tunnel_port = int(self.server.config["bind"].rsplit(":", 1)[1])
        self.user = connect(self.port)
        self.check()

    def check(self):
        data = os.urandom(50_000)
        self.user.sendall(data)
        assert receive_exactly(self.user, len(data)) == data
        assert ask_echo(self.port)
        assert self.server.stats()["active_clients"] == 1

    def stranger(self):
        return connect(self.tunnel_port)


@pytest.fixture
def session(lab, cipher):
    made = Session(lab, cipher)
    yield made
    made.check()
    made.user.close()


def closed_by_peer(connection, timeout=15):
    """Waits until the server has closed it, whatever it says before."""
    connection.settimeout(timeout * SLOW)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


if TRANSPORT != "quic":
    def test_a_plain_browser_is_turned_away(session):
        with session.stranger() as browser:
            browser.sendall(b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n")
            assert closed_by_peer(browser)
        session.server.wait_log(r"127\.0\.0\.1:\d+")

    def test_random_bytes_are_turned_away(session):
        """Two hundred strangers with all kinds of nonsense, many at once; one log line each at most a few."""
        random.seed(7)
        strangers = []
        for i in range(200):
            stranger = session.stranger()
            try:
                stranger.sendall(random.randbytes(random.choice([1, 2, 17, 300, 5000, 100_000])))
                if i % 3 == 0:
                    stranger.shutdown(socket.SHUT_WR)
            except OSError:  # reset already; shutdown() of a reset socket says ENOTCONN, which is no ConnectionError
                pass
            strangers.append(stranger)
        session.check()
        for i, stranger in enumerate(strangers):
            if i % 2:
                reset(stranger)
            else:
                closed_by_peer(stranger)
                stranger.close()

    def test_silent_strangers_are_dropped_and_harm_nobody(lab, session):
        """Connections that say nothing: given up after ten seconds, while real clients come and go."""
        strangers = [session.stranger() for _ in range(300)]
        other = lab.client(session.server, [lab.echo()], name="other")
        assert ask_echo(other.config["proxies"][0]["remote_port"])
        other.stop()
        begun = time.monotonic()
        for stranger in strangers:
            closed_by_peer(stranger, 15)
            stranger.close()
        assert time.monotonic() - begun < 15 * SLOW

    def test_a_tls_probe_learns_nothing_and_is_dropped(lab):
        """A scanner that completes a TLS handshake and then speaks HTTP gets no answer but the end."""
        session = Session(lab, "tls")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(session.stranger()) as probe:
            assert probe.version() == "TLSv1.3"
            probe.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            probe.settimeout(15 * SLOW)
            said = b""
            try:
                while part := probe.recv(1 << 16):
                    said += part
            except OSError:
                pass
            assert b"HTTP" not in said and len(said) < 1000
        session.check()
        session.user.close()

    def test_older_tls_is_refused(lab):
        session = Session(lab, "tls")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError):
            context.wrap_socket(session.stranger())
        session.check()
        session.user.close()


def test_wrong_tokens_in_numbers_do_not_disturb_a_session(lab, session):
    """Several clients with a wrong token that keep trying: each is denied, a good one still gets in."""
    for i in range(5):
        lab.client(session.server, [lab.echo()], name=f"wrong{i}", token=lab.secret(), wait=False)
    session.server.wait_log(r"denied|proof|token")
    session.check()
    good = lab.client(session.server, [lab.echo()], name="good")
    assert ask_echo(good.config["proxies"][0]["remote_port"])
    good.stop()
    session.server.wait_stats(lambda stats: stats["active_clients"] == 1, "that the good client has left")


# The wire by hand, crypto: none. First that the hand-made client is a good one; then what a good one would never say.

if TRANSPORT != "quic":
    import msgpack

    from wire import CONTROL, FIN, NOP, PSH, SYN, UPD, WireClient, frame, message, preface

    @pytest.fixture
    def plain(lab):
        made = Session(lab, "none")
        yield made
        made.check()
        made.user.close()

    def authenticated(lab, session):
        wire = WireClient(session.tunnel_port, lab.token)
        assert wire.authenticate()["ok"]
        return wire

    def test_a_client_written_from_the_documentation_works(lab, plain):
        with authenticated(lab, plain) as wire:
            port = lab.ports.take()
            answer = wire.register(1, port)
            assert (answer["code"], answer["port"]) == ("ok", port)
            with connect(port) as user:
                user.sendall(b"over the wire")
                stream, opening = wire.accept()
                assert opening["t"] == "new_conn" and opening["proxy"] == 1
                while len(wire.streams[stream]) < 13:
                    wire.read_frame()
                assert wire.streams[stream] == b"over the wire"
                wire.say(b"and back", stream)
                assert receive_exactly(user, 8) == b"and back"
                wire.send(frame(FIN, stream))
                assert user.recv(1) == b""

    def test_unknown_keys_and_types_are_survived(lab, plain):
        with authenticated(lab, plain) as wire:
            wire.say(message(t="ping", time=7, invented=[1, 2, {"a": b"b"}]))
            wire.say(message(t="invented", what=1))
            kinds = set()
            while not {"pong", "error"} <= kinds:
                kinds.add(wire.next_message()["t"])
            assert wire.register(1, 0)["code"] == "ok"

    def refused(session, wire):
        """Closed, and without having become a client; the log has the address."""
        address = f"127.0.0.1:{wire.socket.getsockname()[1]}"
        assert wire.closed(), "the server keeps the connection"
        wire.socket.close()
        session.server.wait_log(address)
        assert session.server.stats()["active_clients"] == 1

    NONSENSE = {
        "a length of 4 GiB": b"\xff\xff\xff\xff",
        "a length just over the limit": (65537).to_bytes(4, "big"),
        "a length of zero": bytes(4),
        "an array of 4 billion in 5 bytes": b"\0\0\0\5\xdd\xff\xff\xff\xff",
        "a map of 4 billion in 5 bytes": b"\0\0\0\5\xdf\xff\xff\xff\xff",
        "a string of 4 GiB in 5 bytes": b"\0\0\0\5\xdb\xff\xff\xff\xff",
        "60,000 nested arrays": (60_000).to_bytes(4, "big") + b"\x91" * 60_000,
        "no map": b"\0\0\0\1\x01",
        "a truncated map": b"\0\0\0\2\x82\xa1",
        "bytes behind the map": b"\0\0\0\2\x80\x80",
        "a map without a type": message(nothing=1),
        "a proxy without an id": message(t="new_proxy", name="x"),
        "a ping with a text for a time": message(t="ping", time="now"),
    }

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_nonsense_on_the_control_stream_ends_the_session(lab, plain, when):
        """Each before and after authentication, over one running session of somebody else's."""
        memory = resident_kb(plain.server)
        for what, said in NONSENSE.items():
            with WireClient(plain.tunnel_port, lab.token) as wire:
                if when == "after":
                    assert wire.authenticate()["ok"]
                else:
                    wire.begin()
                wire.say(said)
                assert wire.closed(), f"the server keeps a connection that sent {what}"
        plain.server.wait_stats(lambda stats: stats["active_clients"] == 1, "that only the real client is left")
        plain.check()
        assert resident_kb(plain.server) < memory + 50_000 * SLOW

    def resident_kb(daemon):
        with open(f"/proc/{daemon.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def test_a_truncated_message_and_a_goodbye(lab, plain):
        for cut in (1, 3, 4, 5, 20):
            with WireClient(plain.tunnel_port, lab.token) as wire:
                wire.begin()
                wire.say(wire.auth()[:cut])

    def test_a_wrong_proof_is_denied(lab, plain):
        with WireClient(plain.tunnel_port, lab.secret()) as wire:
            body = wire.authenticate()
            assert not body["ok"] and body["error"] == "denied"
            assert wire.closed()
        plain.server.wait_log(r"127\.0\.0\.1")

    def test_a_recorded_auth_cannot_be_used_again(lab, plain):
        with WireClient(plain.tunnel_port, lab.token) as wire:
            wire.begin()
            recorded = wire.auth()
            wire.say(recorded)
            wire.read_preface()
            assert msgpack.unpackb(wire.next_message()["body"])["ok"]
        with WireClient(plain.tunnel_port, lab.token) as replay:
            replay.begin()
            replay.say(recorded)
            replay.read_preface()
            body = msgpack.unpackb(replay.next_message()["body"])
            assert not body["ok"] and body["error"] == "denied"

    @pytest.mark.parametrize("minutes", [-6, 6])
    def test_a_timestamp_off_by_more_than_five_minutes_is_denied_without_a_channel_binding(lab, plain, minutes):
        with WireClient(plain.tunnel_port, lab.token) as wire:
            body = wire.authenticate(time=int((time.time() + 60 * minutes) * 1000))
            assert not body["ok"] and body["error"] == "denied"
            assert abs(body["time"] / 1000 - time.time()) < 60  # the server's time, so that the log can say what is wrong

    def test_the_proof_covers_the_preface(lab, plain):
        """Somebody in the middle who changes what the preface offers breaks the proof."""
        with WireClient(plain.tunnel_port, lab.token) as wire:
            wire.send(preface(max_frame=4096) + frame(SYN, CONTROL))
            wire.say(wire.auth())  # over the preface that was meant
            wire.read_preface()
            assert not msgpack.unpackb(wire.next_message()["body"])["ok"]

    def test_nothing_is_done_before_the_proof(lab, plain):
        port = lab.ports.take()
        with WireClient(plain.tunnel_port, lab.token) as wire:
            wire.begin()
            wire.say(message(t="new_proxy", id=1, name="x", type="tcp", bind="", port=port))
            assert wire.closed()
        assert not echo_works(port)
        assert port not in open_ports_of(plain.server.stats())

    def test_an_unauthenticated_peer_costs_little(lab, plain):
        """It gets one stream and 64 KiB; megabytes of the beginning of a message are not kept."""
        memory = resident_kb(plain.server)
        with WireClient(plain.tunnel_port, lab.token) as wire:
            wire.begin()
            try:
                for _ in range(1000):
                    wire.send(frame(PSH, CONTROL, bytes(60_000)))
            except ConnectionError:
                pass
            assert wire.closed()
        with WireClient(plain.tunnel_port, lab.token) as wire:
            wire.begin()
            try:
                for stream in range(5, 20_005, 2):
                    wire.send(frame(SYN, stream))
                assert wire.closed()
            except ConnectionError:
                pass
        assert resident_kb(plain.server) < memory + 20_000 * SLOW

    HOSTILE_FRAMES = {
        "an unknown command": frame(99, CONTROL),
        "another version": frame(NOP, 0, version=1),
        "a window update of the wrong size": frame(UPD, CONTROL, b"abc") + frame(NOP, 0) * 2,
        "a window update for more than was sent": frame(UPD, CONTROL, (1 << 30).to_bytes(4, "little") * 2),
        "data on a stream that never was": frame(PSH, 4713, b"late"),
        "a stream opened twice": frame(SYN, CONTROL),
        "a stream of the other side's number": frame(SYN, 4712),
    }

    @pytest.mark.parametrize("what", HOSTILE_FRAMES)
    def test_hostile_frames_end_that_session_only(lab, plain, what):
        wire = authenticated(lab, plain)
        with wire:
            try:
                wire.send(HOSTILE_FRAMES[what])
                assert wire.closed(20)
            except ConnectionError:
                pass
        plain.server.wait_stats(lambda stats: stats["active_clients"] == 1, "that only the real client is left")

    def data_stream(lab, wire):
        """A user at a port of the hand-made client, and the stream that the server opened for him."""
        port = lab.ports.take()
        assert wire.register(1, port)["code"] == "ok"
        user = connect(port)
        stream, _ = wire.accept()
        return user, stream

    def test_frames_for_a_stream_that_is_gone_are_ignored(lab, plain):
        """Data, an end and an update that were on their way when the stream ended: a race, no fault."""
        with authenticated(lab, plain) as wire:
            user, stream = data_stream(lab, wire)
            user.shutdown(socket.SHUT_WR)
            wire.send(frame(FIN, stream))
            assert user.recv(1) == b""
            user.close()
            plain.server.wait_stats(lambda stats: stats["active_connections"] == 1, "that only the session's own user is left")
            wire.send(frame(PSH, stream, b"late") + frame(FIN, stream) + frame(UPD, stream, bytes(8)))
            assert wire.register(2, 0)["code"] == "ok"

    def test_data_beyond_the_window_is_not_buffered(lab, plain):
        """The user doesn't read and the peer ignores the window: the session ends, the user is reset, memory stays."""
        memory = resident_kb(plain.server)
        with authenticated(lab, plain) as wire:
            user, stream = data_stream(lab, wire)
            with pytest.raises(ConnectionError):
                for _ in range(4000):
                    wire.send(frame(PSH, stream, bytes(60_000)))
            assert wire.closed()
            plain.server.wait_log(r"beyond its window")
            with pytest.raises(ConnectionResetError):
                receive_all(user)
        assert resident_kb(plain.server) < memory + 60_000 * SLOW

    def test_another_mux_or_version_is_named(lab, plain):
        for fields, pattern in (({"mux": 3}, r"mux differs.*smux.*yamux"), ({"version": 9}, r"version differs.*9")):
            with WireClient(plain.tunnel_port, lab.token, **fields) as wire:
                wire.send(wire.preface)
                assert wire.closed()
            plain.server.wait_log(pattern)
