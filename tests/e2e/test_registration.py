"""Who may have which port: ranges, port 0, taken ports, tokens and their limits, addresses, and settings that don't match."""

import socket

import pytest

from lab import CIPHERS, TRANSPORT, ask_echo, connect, echo_works, open_ports_of, receive_exactly, wait_until


def open_ports(server):
    return open_ports_of(server.stats())


# Ports

def test_a_range_maps_port_by_port(lab):
    first = lab.ports.take(4)
    local = lab.ports.take(4)
    for i in range(4):
        lab.service(lambda connection, i=i: connection.sendall(f"service {i}".encode()), port=local + i)
    server = lab.server()
    lab.client(server, [{"remote_port": f"{first}-{first + 3}", "local_addr": f"127.0.0.1:{local}"}])
    lab.wait_proxies(server, range(first, first + 4))
    for i in range(4):
        with connect(first + i) as user:
            assert receive_exactly(user, 9) == f"service {i}".encode()


def test_a_taken_port_in_a_range_costs_only_itself(lab):
    first = lab.ports.take(3)
    service = lab.echo()
    with socket.create_server(("127.0.0.1", first + 1)):
        server = lab.server()
        client = lab.client(server, [{"remote_port": f"{first}-{first + 2}", "local_addr": f"127.0.0.1:{service.port}"}])
        client.wait_log(rf"{first + 1}.*port_in_use|port_in_use.*{first + 1}")
        lab.wait_proxies(server, [first, first + 2])
        assert ask_echo(first)


def test_port_0_lets_the_server_choose(lab):
    server = lab.server()
    service = lab.echo()
    client = lab.client(server, [{"name": "any", "remote_port": 0, "local_addr": service.address}])
    server.wait_stats(lambda stats: stats["active_proxies"] == 1, "the proxy")
    (port,) = open_ports(server)
    assert port != 0
    assert ask_echo(port)
    assert str(port) in client.log()  # the user of the client has to learn it


def test_a_taken_port_is_tried_again_later(lab):
    """Another program has the port: the client says so, keeps its other proxies, and gets the port once it is free."""
    service = lab.echo()
    taken, other = lab.ports.take(), lab.ports.take()
    with socket.create_server(("127.0.0.1", taken)):
        server = lab.server()
        client = lab.client(server, [{"remote_port": taken, "local_addr": service.address},
                                     {"remote_port": other, "local_addr": service.address}], wait=False)
        client.wait_log(rf"{taken}.*port_in_use|port_in_use.*{taken}")
        lab.wait_proxies(server, [other])
        assert ask_echo(other)
    lab.wait_proxies(server, [taken, other], timeout=60)
    assert ask_echo(taken)


def test_ports_are_free_again_when_a_client_ends(lab):
    server, client, port = lab.tunnel(lab.echo())
    client.stop()
    wait_until(lambda: not open_ports(server), "the port to be closed", 5)
    with socket.create_server(("127.0.0.1", port)):
        pass


# Tokens

def test_a_wrong_token_is_denied_and_named_nowhere(lab):
    service = lab.echo()
    server = lab.server()
    wrong = lab.secret()
    client = lab.client(server, [service], token=wrong, wait=False)
    client.wait_log(r"denied")
    server.wait_log(r"(127\.0\.0\.1|::1).*(token|proof|denied)|(token|proof|denied).*(127\.0\.0\.1|::1)")
    assert server.stats()["active_clients"] == 0
    assert client.alive()  # the server's token may change: it goes on trying, ever more slowly


def test_each_of_several_tokens_works(lab, cipher):
    tokens = [lab.secret() for _ in range(3)]
    server = lab.server(crypto=cipher, auth={"tokens": [tokens[0], {"token": tokens[1], "name": "second"}, tokens[2]]})
    service = lab.echo()
    for i, token in enumerate(tokens):
        client = lab.client(server, [service], name=f"client{i}", token=token)
        assert ask_echo(client.config["proxies"][0]["remote_port"])
    assert server.stats()["active_clients"] == 3


def test_max_proxies_of_a_token(lab):
    server = lab.server(auth={"tokens": [{"token": lab.token, "name": "small", "max_proxies": 2}]})
    service = lab.echo()
    client = lab.client(server, [service] * 3, wait=False)
    server.wait_stats(lambda stats: stats["active_proxies"] == 2, "two proxies")
    client.wait_log(r"limit|max_proxies|too many")
    assert len(open_ports(server)) == 2


def test_max_connections_of_a_token(lab):
    server = lab.server(auth={"tokens": [{"token": lab.token, "name": "small", "max_connections": 2}]})
    service = lab.echo()
    client = lab.client(server, [service])
    port = client.config["proxies"][0]["remote_port"]
    first, second = connect(port), connect(port)
    for user in (first, second):
        user.sendall(b"hello")
        receive_exactly(user, 5)
    assert not echo_works(port)
    first.close()
    wait_until(lambda: echo_works(port), "room for another connection")
    second.close()


def test_ports_of_a_token(lab):
    allowed, refused = lab.ports.take(), lab.ports.take()
    server = lab.server(auth={"tokens": [{"token": lab.token, "ports": f"{allowed}"}]})
    service = lab.echo()
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address} for port in (allowed, refused)], wait=False)
    client.wait_log(rf"{refused}.*port_not_allowed|port_not_allowed.*{refused}")
    lab.wait_proxies(server, [allowed])
    assert ask_echo(allowed)
    assert open_ports(server) == {allowed}


def test_a_token_from_a_file(lab):
    (lab.dir / "token").write_text(lab.token + "\n")
    (lab.dir / "token").chmod(0o600)
    server = lab.server()
    client = lab.client(server, [lab.echo()], token=None, token_file=str(lab.dir / "token"))
    assert ask_echo(client.config["proxies"][0]["remote_port"])


# Addresses

def test_ipv6_literals_everywhere(lab):
    service = lab.echo(host="::1")
    server = lab.server(bind=f"[::1]:{lab.ports.take()}")
    port = lab.ports.take()
    lab.client(server, [{"remote_port": port, "local_addr": service.address}])
    assert ask_echo(port, host="::1")


def test_host_names_everywhere(lab):
    service = lab.echo()
    server = lab.server()
    port = lab.ports.take()
    lab.client(server, [{"remote_port": port, "local_addr": f"localhost:{service.port}"}],
               server=server.config["bind"].replace("127.0.0.1", "localhost"))
    assert ask_echo(port)


def test_a_host_name_that_does_not_resolve_is_said_and_tried_again(lab):
    client = lab.client("no-such-host.invalid:6000", [lab.echo()], wait=False)
    client.wait_log(r"no-such-host\.invalid")
    assert client.alive()


def test_a_proxy_binds_where_it_says(lab):
    service = lab.echo()
    server = lab.server()
    port = lab.ports.take()
    lab.client(server, [{"remote_port": port, "local_addr": service.address, "bind": "127.0.0.2"}])
    assert ask_echo(port, host="127.0.0.2")
    assert not echo_works(port, host="127.0.0.1")


# Settings that don't match

if TRANSPORT != "quic":
    @pytest.mark.parametrize("client_side", CIPHERS)
    @pytest.mark.parametrize("server_side", CIPHERS)
    def test_ciphers_that_differ_are_refused(lab, server_side, client_side):
        server = lab.server(crypto=server_side)
        service = lab.echo()
        client = lab.client(server, [service], crypto=client_side, wait=False)
        if server_side == client_side:
            lab.wait_proxies(server, [client.config["proxies"][0]["remote_port"]])
            return
        client.wait_log(r"(crypto|tls|chacha20|noise|preface|handshake|closed)")
        server.wait_log(r"(crypto|tls|chacha20|noise|preface|handshake)")
        assert server.stats()["active_clients"] == 0
        good = lab.client(server, [service], name="good")
        assert ask_echo(good.config["proxies"][0]["remote_port"])

    @pytest.mark.parametrize("server_side,client_side", [("smux", "yamux"), ("yamux", "smux")])
    def test_muxes_that_differ_are_refused_by_name(lab, server_side, client_side):
        server = lab.server(mux=server_side)
        client = lab.client(server, [lab.echo()], mux=client_side, wait=False)
        for daemon in (client, server):
            daemon.wait_log(r"smux.*yamux|yamux.*smux")
        assert server.stats()["active_clients"] == 0

    def test_yamux_works(lab, cipher):
        server = lab.server(crypto=cipher, mux="yamux")
        client = lab.client(server, [lab.echo()], mux="yamux")
        assert ask_echo(client.config["proxies"][0]["remote_port"], b"x" * 300_000)


# What is checked in TLS beyond the token's proof

def test_a_wrong_pin_is_refused(lab):
    server = lab.server(crypto="tls")
    client = lab.client(server, [lab.echo()], wait=False, tls={"pin": "00" * 32})
    client.wait_log(r"pin")
    assert server.stats()["active_clients"] == 0


def test_the_pin_that_the_server_logs_is_accepted(lab):
    server = lab.server(crypto="tls")
    pin = server.wait_log(r"(sha256:[0-9a-f]{64})").group(1)
    client = lab.client(server, [lab.echo()], tls={"pin": pin})
    assert ask_echo(client.config["proxies"][0]["remote_port"])
