"""What a user connection may rely on: order and completeness, half-close, resets that stay resets, and independence from its
neighbours."""

import asyncio
import hashlib
import os
import socket
import threading
import time

import pytest

from lab import CIPHERS, FASTEST, SLOW, body, connect, digest_all, receive_all, receive_exactly, reset, wait_until

MB = 1_000_000


# Half-close

def test_user_half_closes_and_waits_for_the_answer(lab, cipher):
    """cat file | nc host port: the service sees the end, and its answer still comes."""
    def digest_then_body(connection):
        digest, size = digest_all(connection)
        connection.sendall(f"{digest} {size}\n".encode() + body(2 * MB, seed=2))

    _, _, port = lab.tunnel(lab.service(digest_then_body), crypto=cipher)
    sent = body(3 * MB)
    with connect(port) as user:
        user.sendall(sent)
        user.shutdown(socket.SHUT_WR)
        answer = receive_all(user)
    line, _, rest = answer.partition(b"\n")
    assert line.decode() == f"{hashlib.sha256(sent).hexdigest()} {len(sent)}"
    assert rest == body(2 * MB, seed=2)


def test_service_half_closes_and_goes_on_reading(lab, cipher):
    got = []

    def greet_then_read(connection):
        connection.sendall(b"that is all from here")
        connection.shutdown(socket.SHUT_WR)
        got.append(digest_all(connection))

    _, _, port = lab.tunnel(lab.service(greet_then_read), crypto=cipher)
    sent = body(3 * MB)
    with connect(port) as user:
        assert receive_all(user) == b"that is all from here"
        user.sendall(sent)
        user.shutdown(socket.SHUT_WR)
        wait_until(lambda: got, "the service to see the end")
    assert got == [(hashlib.sha256(sent).hexdigest(), len(sent))]


def outcome_of_connecting(port):
    """The same for a new connection; the reset may come before connect() has returned."""
    try:
        with connect(port) as user:
            return outcome_of(user)
    except ConnectionResetError:
        return "reset"


def test_an_empty_connection_ends_cleanly(lab):
    _, _, port = lab.tunnel(lab.echo())
    with connect(port) as user:
        user.shutdown(socket.SHUT_WR)
        assert receive_all(user) == b""


# Resets

def outcome_of(connection):
    """How the other side ended the connection: 'end' or 'reset'."""
    try:
        receive_all(connection)
        return "end"
    except ConnectionResetError:
        return "reset"


def test_a_users_reset_reaches_the_service_as_a_reset(lab, cipher):
    seen = []

    def service(connection):
        connection.sendall(receive_exactly(connection, 5))
        seen.append(outcome_of(connection))

    _, _, port = lab.tunnel(lab.service(service), crypto=cipher)
    user = connect(port)
    user.sendall(b"hello")
    receive_exactly(user, 5)
    reset(user)
    wait_until(lambda: seen, "the service to see the reset")
    assert seen == ["reset"]


def test_a_services_reset_reaches_the_user_as_a_reset(lab, cipher):
    def service(connection):
        connection.sendall(receive_exactly(connection, 5))
        connection.recv(1)
        reset(connection)

    _, _, port = lab.tunnel(lab.service(service), crypto=cipher)
    with connect(port) as user:
        user.sendall(b"hello")
        receive_exactly(user, 5)
        user.sendall(b"!")
        assert outcome_of(user) == "reset"


def test_a_reset_in_the_middle_of_a_download_is_no_clean_end(lab, cipher):
    def service(connection):
        connection.sendall(body(4 * MB))
        reset(connection)

    _, _, port = lab.tunnel(lab.service(service), crypto=cipher)
    assert outcome_of_connecting(port) == "reset"


def test_a_reset_of_the_user_in_the_middle_of_an_upload(lab, cipher):
    seen = []

    def service(connection):
        connection.sendall(b"go")
        seen.append(outcome_of(connection))

    _, _, port = lab.tunnel(lab.service(service), crypto=cipher)
    user = connect(port)
    receive_exactly(user, 2)  # or the reset might come before the server has accepted the connection
    user.sendall(body(MB))
    reset(user)
    wait_until(lambda: seen, "the service to see the end")
    assert seen == ["reset"]


def time_to_fill(connection):
    """Waits until something has arrived, without taking it."""
    connection.recv(1, socket.MSG_PEEK)


def endless(connection):
    block = body(1 << 16)
    try:
        while True:
            connection.sendall(block)
    except OSError:
        pass


@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_tunnel_killed_in_the_middle_resets_what_it_carried(lab, cipher, victim):
    """A download whose tunnel dies must not look complete: the side that is left resets its connection."""
    seen, running = [], threading.Event()

    def upload(connection):
        receive_exactly(connection, 100_000)
        running.set()
        seen.append(outcome_of(connection))

    # Over UDP nothing tells that the other end is gone but its silence: a short keep-alive makes that three seconds.
    keepalive = {"keepalive": {"interval": "1s"}}
    server = lab.server(crypto=cipher, **keepalive)
    client = lab.client(server, [lab.service(endless), lab.service(upload)], **keepalive)
    down_port, up_port = (proxy["remote_port"] for proxy in client.config["proxies"])
    with connect(down_port) as down, connect(up_port) as up:
        receive_exactly(down, 100_000)
        sender = threading.Thread(target=endless, args=(up,), daemon=True)
        sender.start()
        assert running.wait(20 * SLOW)
        {"client": client, "server": server}[victim].kill()
        if victim == "client":
            assert outcome_of(down) == "reset"
        else:
            wait_until(lambda: seen, "the service to see the end")
            assert seen == ["reset"]
        sender.join(10 * SLOW)
        assert not sender.is_alive()


@pytest.mark.parametrize("crypto", [FASTEST])
def test_local_service_down_resets_the_user_and_the_log_says_which_and_why(lab, crypto):
    server = lab.server(crypto=crypto)
    port, closed = lab.ports.take(), lab.ports.take()
    client = lab.client(server, [{"name": "shop", "remote_port": port, "local_addr": f"127.0.0.1:{closed}"}])
    assert outcome_of_connecting(port) == "reset"
    line = client.wait_log(rf"^.*shop.*127\.0\.0\.1:{closed}.*$|^.*127\.0\.0\.1:{closed}.*refused.*$")
    assert "refused" in client.log().lower(), line
    # The service comes back: nothing has to be restarted.
    lab.echo(port=closed)
    with connect(port) as user:
        user.sendall(b"again")
        assert receive_exactly(user, 5) == b"again"


def test_a_killed_local_service_resets_its_users(lab):
    """kill -9 of a real process that has unread bytes: the kernel resets, and the user sees that."""
    port = lab.ports.take()
    process = lab.process(["/usr/bin/python3", "-c", f"""
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", {port})); s.listen()
c, _ = s.accept(); c.sendall(b"hello"); c.recv(1, socket.MSG_PEEK); c.sendall(b"seen")
import time; time.sleep(600)
"""])
    wait_until(lambda: port_is_open(port), "the service")
    server = lab.server()
    public = lab.ports.take()
    lab.client(server, [{"remote_port": public, "local_addr": f"127.0.0.1:{port}"}])
    with connect(public) as user:
        receive_exactly(user, 5)
        user.sendall(b"never read")
        receive_exactly(user, 4)
        process.kill()
        assert outcome_of(user) == "reset"


def port_is_open(port):
    """Without connecting: the service above accepts a single connection."""
    with open("/proc/net/tcp") as table:
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in table)


# Independence

def test_a_reader_that_stops_does_not_stop_the_others(lab, cipher):
    blob = body(24 * MB)

    def download(connection):
        connection.sendall(blob)

    _, _, big, small = lab.tunnel(lab.service(download), lab.echo(), crypto=cipher)
    with connect(big) as stopped:
        stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        time_to_fill(stopped)
        begun = time.monotonic()
        slowest, rounds = 0.0, 0
        with connect(small) as user:
            while time.monotonic() < begun + 3:
                asked = time.monotonic()
                user.sendall(b"x" * 1000)
                receive_exactly(user, 1000)
                slowest = max(slowest, time.monotonic() - asked)
                rounds += 1
        with connect(big) as other:
            assert receive_all(other) == blob
        assert slowest < 1.0 * SLOW, f"an echo took {slowest:.2f} s while another reader stood still"
        assert rounds > 50
        assert receive_all(stopped) == blob


def test_a_stopped_reader_stops_the_sender(lab):
    """Back-pressure from end to end: what a service can send to a user who doesn't read is bounded by windows and socket buffers."""
    sent = [0]

    def count(connection):
        connection.settimeout(1.5)
        block = bytes(1 << 16)
        try:
            while sent[0] < 400 * MB:
                sent[0] += connection.send(block)
        except (TimeoutError, ConnectionError):
            pass

    service = lab.service(count)
    server, client, port = lab.tunnel(service)
    with connect(port) as user:
        time_to_fill(user)
        wait_until(lambda: service.connections and service.connections[0].fileno() == -1, "the sender to stand still", 30)
        assert sent[0] < 64 * MB


def test_two_hundred_parallel_transfers_both_ways(lab, cipher):
    """Each user sends a body of its own size, the service answers with its digest and as many bytes of its own."""
    def service(connection):
        size = int.from_bytes(receive_exactly(connection, 8), "big")
        digest = hashlib.sha256(receive_exactly(connection, size)).digest()
        connection.sendall(digest + hashlib.shake_128(digest).digest(size))

    server, _, port = lab.tunnel(lab.service(service), crypto=cipher)

    async def transfer(i):
        content = os.urandom(1000 + (i * 7919) % 300_000)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(len(content).to_bytes(8, "big") + content)
        answer = await reader.readexactly(32 + len(content))
        assert await reader.read() == b""
        writer.close()
        digest = hashlib.sha256(content).digest()
        assert answer == digest + hashlib.shake_128(digest).digest(len(content)), f"transfer {i}"
        return len(content)

    async def everything():
        return sum(await asyncio.wait_for(asyncio.gather(*(transfer(i) for i in range(200))), 90 * SLOW))

    total = asyncio.run(everything())
    stats = server.wait_stats(lambda stats: stats["active_connections"] == 0 and stats, "no connection")
    assert stats["bytes_in"] == total + 200 * 8
    assert stats["bytes_out"] == total + 200 * 32


def test_two_thousand_open_connections(lab):
    """All open at once, each used before and after the others came; then all gone, with their descriptors."""
    count = 2000

    async def serve(reader, writer):
        while data := await reader.read(1 << 12):
            writer.write(data)
        writer.close()

    server, client = lab.server(), None
    port = lab.ports.take()

    async def main():
        nonlocal client
        listener = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
        local = listener.sockets[0].getsockname()[1]
        client = await asyncio.to_thread(lab.client, server, [{"remote_port": port, "local_addr": f"127.0.0.1:{local}"}])
        before = server.descriptors(), client.descriptors()

        async def ask(connection, i):
            reader, writer = connection
            writer.write(i.to_bytes(4, "big"))
            assert await reader.readexactly(4) == i.to_bytes(4, "big")

        connections = []
        for start in range(0, count, 100):
            batch = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(100)))
            await asyncio.gather(*(ask(connection, start + i) for i, connection in enumerate(batch)))
            connections += batch
        await asyncio.gather(*(ask(connection, i) for i, connection in enumerate(connections)))
        assert (await asyncio.to_thread(server.stats))["active_connections"] == count
        for _, writer in connections:
            writer.close()
        await asyncio.to_thread(server.wait_stats, lambda stats: stats["active_connections"] == 0, "no connection", 30)
        await asyncio.to_thread(wait_until, lambda: server.descriptors() <= before[0] + 2 and client.descriptors() <= before[1] + 2,
                                "the descriptors to be closed", 30)
        listener.close()

    async def limited():
        await asyncio.wait_for(main(), 120 * SLOW)

    asyncio.run(limited())


def test_bytes_survive_every_chunking(lab, cipher):
    """One byte at a time, odd sizes, and large blocks over one connection, echoed in order."""
    _, _, port = lab.tunnel(lab.echo(), crypto=cipher)
    content = body(400_000)
    with connect(port) as user:
        received = []
        reader = threading.Thread(target=lambda: received.append(receive_all(user)), daemon=True)
        reader.start()
        at = 0
        for size in [1] * 300 + [2, 3, 5, 7, 11, 13, 17, 1000, 1447, 4095, 4096, 4097, 16383, 16384, 16385, 65519, 65535, 65536, 65537]:
            user.sendall(content[at:at + size])
            at += size
        user.sendall(content[at:])
        user.shutdown(socket.SHUT_WR)
        reader.join(30 * SLOW)
    assert received == [content]
