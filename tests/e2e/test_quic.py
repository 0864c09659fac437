"""What is peculiar to `transport: quic`: the web site on the same port, what a watcher sees, clients whose address changes, and restarts."""

import contextlib
import hashlib
import json
import socket
import threading
import time

import pytest
import yaml

from http3 import Http3Error, fetch
from lab import SLOW, ask_echo, body, connect, digest_all, echo_works, receive_all, receive_exactly, wait_until
from quic_wire import ChangingPath, first_flight


# The configuration

@pytest.mark.parametrize("program", ["qtrp-server", "qtrp-client"])
@pytest.mark.parametrize("crypto", ["none", "chacha20"])
def test_other_crypto_than_tls_is_refused_with_the_reason(lab, program, crypto):
    daemon = lab.server(crypto=crypto, start=False) if program == "qtrp-server" else lab.client(
        "127.0.0.1:1", [lab.echo()], crypto=crypto, start=False)
    daemon.start()
    assert daemon.wait_exit() == 2
    line = daemon.config_file.read_text().splitlines().index(f"crypto: {crypto}") + 1
    assert f":{line}:" in daemon.log()
    assert "QUIC is always encrypted by TLS 1.3" in daemon.log()


def test_crypto_may_be_left_out(lab):
    server = lab.server(crypto=None)
    client = lab.client(server.config["bind"], [lab.echo()], crypto=None, wait=False)
    wait_until(lambda: echo_works(client.config["proxies"][0]["remote_port"]), "the tunnel")
    assert server.stats()["tunnels"][0]["transport"] == "quic"
    assert server.stats()["tunnels"][0]["cipher"].startswith("TLS 1.3")


# The site

def test_a_visitor_finds_nothing_by_default(lab):
    server, _, port = lab.tunnel(lab.echo())
    for path in ("/", "/index.html", "/stats"):
        answer = fetch(server.config["bind"], path)
        assert (answer.status, answer.fields["content-type"]) == (404, "text/html; charset=utf-8")
        assert b"404 Not Found" in answer.body
    assert fetch(server.config["bind"], "/", method="HEAD").body == b""
    assert fetch(server.config["bind"], "/", method="POST").status == 405
    assert ask_echo(port)  # the tunnel on the same port doesn't mind


def test_a_visitor_finds_the_files_of_a_directory(lab):
    site = lab.dir / "site"
    (site / "sub").mkdir(parents=True)
    (lab.dir / "secret.txt").write_text("not yours")
    (site / "index.html").write_text("<p>welcome</p>")
    (site / "sub" / "large.bin").write_bytes(body(3_000_000))
    (site / "link").symlink_to(lab.dir / "secret.txt")
    server, _, port = lab.tunnel(lab.echo())
    server.stop()
    server.config["quic"] = {"masquerade": str(site)}
    server.config_file.write_text(yaml.safe_dump(server.config))
    server.start()
    wait_until(lambda: echo_works(port), "the tunnel")
    home = fetch(server.config["bind"])
    assert (home.status, home.body, home.fields["content-type"]) == (200, b"<p>welcome</p>", "text/html; charset=utf-8")
    large = fetch(server.config["bind"], "/sub/large.bin")
    assert (large.status, large.body) == (200, body(3_000_000))
    assert large.fields["content-length"] == "3000000"
    for path in ("/link", "/%2e%2e/secret.txt", "/sub", "/missing"):
        assert fetch(server.config["bind"], path).status == 404


def test_the_statistics_are_shown_to_whom_they_may_be(lab):
    token = lab.secret()
    server = lab.server(quic={"masquerade": "stats"}, stats={
        "listen": f"127.0.0.1:{lab.ports.take()}", "token": token, "allow": ["127.0.0.2/32"]})
    lab.client(server, [lab.echo()])

    def shown(**options):
        return fetch(server.config["bind"], "/stats", **options)

    answer = wait_until(lambda: (found := shown(headers=[f"Authorization: Bearer {token}"])).status == 200 and found, "the statistics")
    assert answer.fields["content-type"] == "application/json"
    wait_until(lambda: json.loads(shown(source="127.0.0.2").body)["active_clients"] == 1, "the client in the statistics")
    for refused in ({}, {"source": "127.0.0.3"}, {"headers": ["Authorization: Bearer guess"]}, {"headers": [f"Authorization: Basic {token}"]}):
        assert shown(**refused).status == 404
    assert fetch(server.config["bind"], "/", source="127.0.0.2").status == 404


# What a watcher sees

def test_a_watcher_sees_the_hello_of_an_http3_client(lab):
    """The tunnel's first flight beside curl's: QUIC version 1 and ALPN h3 alone; nothing in it is our own, and the server's name is the one
    that it was configured with."""
    ports = lab.ports.take(2)
    client = lab.client(f"127.0.0.1:{ports}", [lab.echo()], wait=False, start=False, tls={"server_name": "www.example.com"})
    ours, hello = first_flight(ports, client.start, 20 * SLOW)
    visitor = threading.Thread(target=lambda: pytest.raises(Http3Error, fetch, f"localhost:{ports + 1}", timeout=3))
    theirs, curls = first_flight(ports + 1, visitor.start, 20 * SLOW)
    visitor.join()
    assert ours.version == theirs.version == 1
    assert hello.alpn == ["h3"] and "h3" in curls.alpn
    assert hello.server_name == "www.example.com"
    quic_transport_parameters, supported_versions, key_share = 57, 43, 51
    assert {quic_transport_parameters, supported_versions, key_share} <= set(hello.extensions)
    assert set(hello.extensions) <= set(curls.extensions)


# The network changes

@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_transfer_goes_on_while_the_clients_address_changes(lab, direction):
    """A NAT forgets and rebinds, six times, in front of a server with two workers: each datagram still finds the worker that has the
    connection, and not one byte or connection is lost."""
    data = body(1_000_000, seed=3)
    rounds = 30
    digests = []

    def service(connection):
        if direction == "down":
            for _ in range(rounds):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        else:
            digests.append(digest_all(connection)[0])

    server = lab.server(workers=2)
    host, port = server.config["bind"].split(":")
    with ChangingPath((host, int(port))) as path:
        local = lab.service(service)
        public = lab.ports.take()
        client = lab.client(path.address, [{"remote_port": public, "local_addr": local.address}], wait=False)
        lab.wait_proxies(server, [public])
        expected = hashlib.sha256(data * rounds).hexdigest()
        received = [0]
        done = threading.Event()

        def change():
            """One address after the other, each for as long as it takes to carry two hundred datagrams."""
            for _ in range(6):
                before = path.passed
                wait_until(lambda: path.passed > before + 200 or done.is_set(), "datagrams on the new path")
                path.rebind()
                received[0] += 1

        changer = threading.Thread(target=change)
        with connect(public) as user:
            changer.start()
            if direction == "down":
                digest, size = digest_all(user)
                assert (digest, size) == (expected, rounds * len(data))
            else:
                for _ in range(rounds):
                    user.sendall(data)
                user.shutdown(socket.SHUT_WR)
                assert receive_all(user) == b""
                wait_until(lambda: digests, "the service to have it all")
                assert digests == [expected]
            done.set()
            changer.join()
        assert received[0] == 6
        assert client.alive() and "connection lost" not in client.log()
        assert server.stats()["active_clients"] == 1


def test_every_client_of_a_server_with_several_workers_is_served(lab):
    server = lab.server(workers=2)
    service = lab.echo()
    clients = [lab.client(server, [service], name=f"client{i}", tunnels=3) for i in range(3)]
    for _ in range(6):
        assert all(ask_echo(client.config["proxies"][0]["remote_port"], body(50_000)) for client in clients)
    server.wait_stats(lambda stats: len(stats["tunnels"]) == 9, "nine tunnels")


# The server restarts

def test_a_restarted_server_says_so_at_once(lab):
    """No waiting for a time-out: the new server answers the old session's datagrams with stateless resets, which the kept certificate keys."""
    def chatter(connection):
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(b"tick")
                time.sleep(0.05)

    patient = {"keepalive": {"interval": "60s"}}
    server = lab.server(workers=2, **patient)
    client = lab.client(server, [lab.service(chatter)], **patient)
    port = client.config["proxies"][0]["remote_port"]
    with connect(port) as user:
        receive_exactly(user, 4)
        server.kill()
        server.start()
        begun = time.monotonic()
        client.wait_log(r"connection lost.*stateless reset.*restarted", 8)
        assert time.monotonic() - begun < 8 * SLOW
    lab.wait_proxies(server, [port])
