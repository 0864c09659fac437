"""Faults between the two daemons and inside the machine: a link that drops, stalls or corrupts, a man in the middle with a certificate of
his own, no descriptors left, a state directory that can't be written. What was acknowledged is never lost, and nothing wrong is delivered."""

import contextlib
import os
import resource
import select
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lab import CIPHERS, SLOW, TRANSPORT, ask_echo, body, connect, echo_works, receive_all, receive_exactly, wait_until

ENCRYPTED = [cipher for cipher in CIPHERS if cipher != "none"]


class Link:
    """A TCP hop between client and server that a test can break. `mangle(data, direction)` may change what passes."""

    def __init__(self, lab, target):
        self.target = target
        self.port = lab.ports.take()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.pairs = []
        self.flow = threading.Event()
        self.flow.set()
        self.mangle = None
        threading.Thread(target=self._accept, daemon=True).start()
        lab.services.append(self)
        self.address, self.errors = f"127.0.0.1:{self.port}", []

    def wrap(self, near, far):
        return near, far

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                near, far = self.wrap(near, socket.create_connection(("127.0.0.1", self.target), timeout=10))
            except OSError:
                near.close()
                continue
            near.settimeout(None)
            far.settimeout(None)
            self.pairs.append((near, far))
            for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source, sink, direction):
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(1 << 16):
                self.flow.wait()
                sink.sendall(self.mangle(data, direction) if self.mangle else data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def drop(self):
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.flow.set()
        self.listener.close()
        self.drop()


def tunnel_port(server):
    return int(server.config["bind"].rsplit(":", 1)[1])


def over(lab, link_type, service, crypto, **config):
    """A server, a client that reaches it through a link, and one proxy."""
    server = lab.server(crypto=crypto, **config)
    link = link_type(lab, tunnel_port(server))
    client = lab.client(server, [service], server=link.address, **config)
    return server, client, link, client.config["proxies"][0]["remote_port"]


def works(port):
    wait_until(lambda: echo_works(port), f"port {port} to work", 30)


if TRANSPORT != "quic":
    def test_a_dropped_link_is_replaced(lab, cipher):
        server, client, link, port = over(lab, Link, lab.echo(), cipher)
        for _ in range(3):
            with connect(port) as user:
                user.sendall(b"hello")
                receive_exactly(user, 5)
                link.drop()
                with pytest.raises(ConnectionResetError):
                    receive_all(user)
            works(port)
        assert server.stats()["active_clients"] == 1

    def test_a_stalled_link_is_given_up_and_replaced(lab, cipher):
        """No FIN, no RST, just nothing: three unanswered pings, then a new tunnel once the link lets one through."""
        server, client, link, port = over(lab, Link, lab.echo(), cipher, keepalive={"interval": "1s"})
        with connect(port) as user:
            user.sendall(b"hello")
            receive_exactly(user, 5)
            link.flow.clear()
            server.wait_stats(lambda stats: stats["active_clients"] == 0, "that the silent client is gone", 15)
            with pytest.raises(ConnectionResetError):
                receive_all(user)
        link.flow.set()
        works(port)

    def test_a_short_stall_costs_nothing(lab, cipher):
        server, client, link, port = over(lab, Link, lab.echo(), cipher)
        with connect(port) as user:
            link.flow.clear()
            user.sendall(body(200_000))
            with pytest.raises(TimeoutError):
                user.settimeout(1.0)
                user.recv(1)
            user.settimeout(20 * SLOW)
            link.flow.set()
            assert receive_exactly(user, 200_000) == body(200_000)

    @pytest.mark.parametrize("direction", ["up", "down"])
    @pytest.mark.parametrize("crypto", ENCRYPTED)
    def test_a_flipped_bit_is_noticed_and_never_delivered(lab, crypto, direction):
        """TCP's checksum is not enough: the record layer refuses the record, the tunnel is replaced, users are reset."""
        blob = body(8_000_000)

        def send(connection):
            with contextlib.suppress(OSError):
                connection.sendall(blob)

        got = []

        def take(connection):
            with contextlib.suppress(OSError):
                while data := connection.recv(1 << 16):
                    got.append(data)

        server, client, link, port = over(lab, Link, lab.service(send if direction == "up" else take), crypto)
        state = {"passed": 0, "done": False}

        def flip(data, way):
            if way != direction or state["done"]:
                return data
            state["passed"] += len(data)
            if state["passed"] < 2_000_000:
                return data
            state["done"] = True
            return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 0x10]) + data[len(data) // 2 + 1:]

        link.mangle = flip
        with connect(port) as user:
            if direction == "up":  # from the client to the server: what the service sends
                with contextlib.suppress(ConnectionResetError):
                    while data := user.recv(1 << 16):
                        got.append(data)
                    pytest.fail("the download ended as if it were complete")
            else:
                with contextlib.suppress(ConnectionError):
                    user.sendall(blob)
                    receive_all(user)
        assert state["done"]
        received = b"".join(got)
        assert len(received) < len(blob)
        assert blob.startswith(received), "something was delivered that was never sent"
        (server if direction == "up" else client).wait_log(r"(record|tls|mac|decrypt|authentic)")
        lab.wait_proxies(server, [port])

    class ManInTheMiddle(Link):
        """Ends the client's TLS with a certificate of his own and opens TLS to the server: sees and relays everything."""

        def wrap(self, near, far):
            inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            inside.load_cert_chain(self.certificate)
            outside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            outside.check_hostname, outside.verify_mode = False, ssl.CERT_NONE
            return _Relayed(inside.wrap_socket(near, server_side=True)), _Relayed(outside.wrap_socket(far))

    class _Relayed:
        """One TLS connection that two threads use, one a direction (an SSL object is not made for that)."""

        def __init__(self, wrapped):
            self.wrapped, self.lock = wrapped, threading.Lock()

        def settimeout(self, _):
            self.wrapped.setblocking(False)

        def recv(self, size):
            while True:
                with self.lock:
                    try:
                        return self.wrapped.recv(size)
                    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                        pass
                select.select([self.wrapped], [], [], 1)

        def sendall(self, data):
            view = memoryview(data)
            while view:
                with self.lock:
                    try:
                        view = view[self.wrapped.send(view):]
                        continue
                    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                        pass
                select.select([], [self.wrapped], [], 1)

        def shutdown(self, how):
            self.wrapped.shutdown(how)

        def close(self):
            self.wrapped.close()

    def test_a_man_in_the_middle_with_his_own_certificate_is_refused_by_the_proof(lab):
        """The client pins nothing and knows no CA. The two TLS sessions have different exporters, so the proof doesn't fit."""
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                        str(lab.dir / "key"), "-out", str(lab.dir / "crt"), "-days", "2", "-subj", "/CN=mitm"], check=True, capture_output=True)
        (lab.dir / "mitm.pem").write_bytes((lab.dir / "key").read_bytes() + (lab.dir / "crt").read_bytes())
        server = lab.server(crypto="tls")
        ManInTheMiddle.certificate = str(lab.dir / "mitm.pem")
        man = ManInTheMiddle(lab, tunnel_port(server))
        service = lab.echo()
        client = lab.client(server, [service], server=man.address, wait=False)
        client.wait_log(r"denied")
        server.wait_log(r"(proof|token|denied)")
        assert man.pairs, "nobody came through the middle"
        assert server.stats()["active_clients"] == 0
        direct = lab.client(server, [service], name="direct")
        assert ask_echo(direct.config["proxies"][0]["remote_port"])


def processor_seconds(daemon):
    with open(f"/proc/{daemon.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("which", ["server", "client"])
def test_running_out_of_descriptors_neither_spins_nor_kills(lab, which):
    """With 64 descriptors and 100 users, some users wait or are reset; nobody burns the processor; afterwards all is well."""
    def hold(connection):
        with contextlib.suppress(OSError):
            connection.recv(1)

    limit = (64, 64)
    server = lab.server()
    server_pid = server.pid
    echo, held = lab.echo(), lab.service(hold)
    client = lab.client(server, [echo, held])
    echo_port, hold_port = (proxy["remote_port"] for proxy in client.config["proxies"])
    victim = {"server": server, "client": client}[which]
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, limit)
    users = []
    try:
        for _ in range(100):
            with contextlib.suppress(ConnectionResetError):  # a user whom the client has no descriptor for
                users.append(connect(hold_port))
        wait_until(lambda: victim.descriptors() >= 60, "the descriptors to be used up")
        before = processor_seconds(victim)
        begun = time.monotonic()
        with contextlib.suppress(TimeoutError, ConnectionError):
            users[-1].settimeout(1.5)
            users[-1].recv(1)
        while time.monotonic() < begun + 1.5:
            select.select([], [], [], begun + 1.5 - time.monotonic())
        assert processor_seconds(victim) - before < 0.5 * SLOW, "it spins"
        assert victim.alive()
    finally:
        for user in users:
            user.close()
    works(echo_port)
    assert server.pid == server_pid


def test_a_state_directory_that_cannot_be_written_is_a_warning(lab):
    """As root nothing is read-only, so the directory is a place where nobody can make one."""
    server = lab.server(state_dir="/proc/qtrp")
    server.wait_log(r"warn.*(/proc/qtrp|state)")
    client = lab.client(server, [lab.echo()], state_dir="/proc/qtrp")
    client.wait_log(r"warn.*(/proc/qtrp|state)")
    assert ask_echo(client.config["proxies"][0]["remote_port"])
