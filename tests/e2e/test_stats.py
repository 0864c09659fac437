"""GET /stats: exact counters, the promised keys, and plain errors for everything else."""

import http.client
import socket

from lab import TRANSPORT, body, connect, receive_all, receive_exactly


def http_get(port, path="/stats", method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_counters_are_exact(lab, cipher):
    """Known transfers, some of them at once, then the sums to the byte: 'in' is from users to services."""
    def answer_twice(connection):
        connection.sendall(receive_all(connection) * 2)

    server, client, port = lab.tunnel(lab.service(answer_twice), crypto=cipher)
    sizes = [0, 1, 1000, 65_535, 1_234_567]
    for size in sizes:
        with connect(port) as user:
            user.sendall(body(size))
            user.shutdown(socket.SHUT_WR)
            assert len(receive_all(user)) == 2 * size
    stats = server.wait_stats(lambda stats: stats["active_connections"] == 0 and stats, "no connection")
    assert stats["total_connections"] == len(sizes)
    assert stats["bytes_in"] == sum(sizes)
    assert stats["bytes_out"] == 2 * sum(sizes)
    assert stats["active_clients"] == 1
    assert stats["active_proxies"] == 1


def test_the_client_counts_the_same(lab):
    server, client, port = lab.tunnel(lab.echo())
    with connect(port) as user:
        user.sendall(body(100_000))
        receive_exactly(user, 100_000)
    client.wait_stats(lambda s: s["active_connections"] == 0 and s["bytes_in"] == 100_000 and s["bytes_out"] == 100_000
                      and s["total_connections"] == 1, "the transfer")


def test_active_connections_follow(lab):
    server, _, port = lab.tunnel(lab.echo())
    users = [connect(port) for _ in range(5)]
    server.wait_stats(lambda stats: stats["active_connections"] == 5, "five connections")
    for user in users:
        user.close()
    stats = server.wait_stats(lambda stats: stats["active_connections"] == 0 and stats, "no connection")
    assert stats["total_connections"] == 5


def test_every_promised_key_is_there(lab):
    server, client, port = lab.tunnel(lab.echo())
    stats = server.stats()
    assert {"version", "uptime_seconds", "active_clients", "active_proxies", "active_connections", "total_connections", "bytes_in",
            "bytes_out", "bandwidth", "clients", "proxies"} <= stats.keys()
    assert {"in_mbps", "out_mbps"} <= stats["bandwidth"].keys()
    assert len(stats["clients"]) == 1
    assert [proxy["port"] for proxy in stats["proxies"]] == [port]


def test_bandwidth_is_of_the_last_seconds(lab):
    server, _, port = lab.tunnel(lab.echo())
    with connect(port) as user:
        for _ in range(20):
            user.sendall(body(500_000))
            receive_exactly(user, 500_000)
        server.wait_stats(lambda stats: stats["bandwidth"]["in_mbps"] > 0 and stats["bandwidth"]["out_mbps"] > 0, "bandwidth", 5)
        server.wait_stats(lambda stats: stats["bandwidth"]["in_mbps"] == 0, "no bandwidth", 30)


def test_unknown_paths_are_404_and_other_methods_405(lab):
    server = lab.server()
    assert http_get(server.stats_port).status == 200
    assert http_get(server.stats_port).getheader("Content-Type").startswith("application/json")
    assert http_get(server.stats_port, "/nothing").status == 404
    refused = http_get(server.stats_port, method="POST")
    assert refused.status == 405
    assert "GET" in refused.getheader("Allow", "")
    assert http_get(server.stats_port, method="DELETE").status == 405


def test_a_taken_stats_port_is_a_clear_error(lab):
    taken = lab.ports.take()
    with socket.create_server(("127.0.0.1", taken)):
        server = lab.server(start=False, stats={"listen": f"127.0.0.1:{taken}"})
        server.start()
        assert server.wait_exit() == 1
        assert str(taken) in server.log() and "stats" in server.log().lower()


def test_a_taken_tunnel_port_is_a_clear_error(lab):
    taken = lab.ports.take()
    kind = socket.SOCK_DGRAM if TRANSPORT == "quic" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", taken))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        server = lab.server(start=False, bind=f"127.0.0.1:{taken}")
        server.start()
        assert server.wait_exit() == 1
        assert str(taken) in server.log()
