"""Connections kept ready (`pool`) and several tunnels for one client (`tunnels`)."""

import threading

from lab import TRANSPORT, ask_echo, connect, digest_all, echo, receive_exactly, wait_until


class Counting:
    """An echo service that knows its connections."""

    def __init__(self, lab, after_accept=None):
        self.open, self.total, self._lock = 0, 0, threading.Lock()
        self._after_accept = after_accept
        self.service = lab.service(self._serve)

    def _serve(self, connection):
        with self._lock:
            self.open += 1
            self.total += 1
        try:
            if self._after_accept is None:
                echo(connection)
        finally:
            with self._lock:
                self.open -= 1


def test_a_pool_keeps_connections_ready_and_fills_up_again(lab):
    counting = Counting(lab)
    port = lab.ports.take()
    server = lab.server()
    lab.client(server, [{"remote_port": port, "local_addr": counting.service.address}], pool=3)
    wait_until(lambda: counting.open == 3, "three connections without any user")
    with connect(port) as user:
        user.sendall(b"x")
        assert user.recv(1) == b"x"
        wait_until(lambda: counting.open == 4, "the user's connection and three ready ones")
        assert counting.total == 4  # the user was given a ready one


def test_a_service_that_closes_silent_connections_is_not_called_in_a_loop(lab):
    counting = Counting(lab, after_accept="close")
    port = lab.ports.take()
    server = lab.server()
    client = lab.client(server, [{"remote_port": port, "local_addr": counting.service.address}], pool=2)
    wait_until(lambda: counting.total >= 1, "the first try")
    seen = counting.total
    assert client.alive()
    assert seen <= 4
    with connect(port) as user:  # a user is served all the same: by a connection of his own
        assert user.recv(1) == b""


def test_brutal_over_tcp_brings_a_second_tunnel(lab):
    service, port = lab.echo(), lab.ports.take()
    server = lab.server()
    brutal = {"enabled": True, "target_mbps": 50, "mode": "pacer"}
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}], brutal=brutal)
    expected = 1 if TRANSPORT == "quic" else 2
    client.wait_stats(lambda stats: len(stats["tunnels"]) == expected, f"{expected} tunnels")
    assert ask_echo(port)


def test_users_are_spread_over_the_tunnels(lab):
    service = lab.echo()
    port = lab.ports.take()
    server = lab.server()
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}], tunnels=3)
    client.wait_stats(lambda stats: len(stats["tunnels"]) == 3, "three tunnels")
    users = [connect(port) for _ in range(9)]
    try:
        for user in users:
            user.sendall(b"hello")
            assert user.recv(5) == b"hello"
        server.wait_stats(lambda stats: stats["active_connections"] == 9, "nine connections")
        assert [tunnel["active_connections"] for tunnel in server.stats()["tunnels"]] == [3, 3, 3]
    finally:
        for user in users:
            user.close()
    assert ask_echo(port)


def test_users_keep_off_the_tunnel_with_a_download(lab):
    done = threading.Event()

    def flood(connection):
        while not done.is_set():
            connection.sendall(bytes(65536))

    service, flooding = lab.echo(), lab.service(flood)
    port, bulk_port = lab.ports.take(), lab.ports.take()
    server = lab.server()
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}, {"remote_port": bulk_port, "local_addr": flooding.address}], tunnels=2)
    client.wait_stats(lambda stats: len(stats["tunnels"]) == 2, "two tunnels")
    users = []

    with connect(bulk_port) as bulk:
        receive_exactly(bulk, 1 << 20)
        reader = threading.Thread(target=digest_all, args=(bulk,))
        reader.start()
        try:
            for _ in range(5):
                users.append(connect(port))
                users[-1].sendall(b"hello")
                assert receive_exactly(users[-1], 5) == b"hello"
            server.wait_stats(lambda stats: stats["active_connections"] == 6, "six connections")
            assert sorted(tunnel["active_connections"] for tunnel in server.stats()["tunnels"]) == [1, 5]
        finally:
            done.set()
            reader.join()
            for user in users:
                user.close()
