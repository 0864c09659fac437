"""`proxy_protocol`: the local service learns the user's real address, before any of his bytes."""

import os
import socket
import struct
import subprocess

import pytest

from lab import SLOW, body, connect, receive_all, receive_exactly, wait_until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def from_address(address, port):
    """A user who comes from another address of the loopback network."""
    user = socket.create_connection(("127.0.0.1", port), timeout=30 * SLOW, source_address=(address, 0))
    user.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return user


def read_v1(connection):
    line = b""
    while not line.endswith(b"\r\n"):
        line += receive_exactly(connection, 1)
    return line.decode().split()


def expose(lab, service, version, crypto="tls", **config):
    server = lab.server(crypto=crypto)
    port = lab.ports.take()
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address, "proxy_protocol": version}], **config)
    return server, client, port


def test_nginx_logs_the_users_address(lab):
    """nginx with `listen ... proxy_protocol`, both versions, users from two addresses."""
    local = lab.ports.take()
    (lab.dir / "www").mkdir()
    (lab.dir / "www" / "page").write_bytes(body(300_000))
    user = "user root;" if os.getuid() == 0 else ""
    (lab.dir / "nginx.conf").write_text(f"""
        daemon off; pid {lab.dir}/nginx.pid; error_log stderr; {user} worker_processes 1;
        events {{ worker_connections 256; }}
        http {{
          log_format who '$proxy_protocol_addr $remote_addr $status';
          access_log {lab.dir}/nginx-access.log who; client_body_temp_path {lab.dir}/body; proxy_temp_path {lab.dir}/p;
          fastcgi_temp_path {lab.dir}/f; uwsgi_temp_path {lab.dir}/u; scgi_temp_path {lab.dir}/s;
          server {{
            listen 127.0.0.1:{local} proxy_protocol; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;
            root {lab.dir}/www;
          }}
        }}""")
    lab.process(["/usr/sbin/nginx", "-e", "stderr", "-p", str(lab.dir), "-c", str(lab.dir / "nginx.conf")])
    wait_until(lambda: connect(local).close() is None, "nginx")
    server = lab.server()
    first = lab.ports.take(2)
    lab.client(server, [{"remote_port": first, "local_addr": f"127.0.0.1:{local}", "proxy_protocol": "v1"},
                        {"remote_port": first + 1, "local_addr": f"127.0.0.1:{local}", "proxy_protocol": "v2"}])
    for port in (first, first + 1):
        for address in ("127.0.0.7", "127.9.8.7"):
            got = subprocess.run(["curl", "--noproxy", "*", "-sSf", "--interface", address, f"http://127.0.0.1:{port}/page"],
                                 check=True, capture_output=True, timeout=30 * SLOW).stdout
            assert got == body(300_000)
    log = lab.dir / "nginx-access.log"
    wait_until(lambda: log.read_text().count("\n") == 4, "four lines")
    assert log.read_text().split("\n")[:4] == [f"{a} {a} 200" for a in ("127.0.0.7", "127.9.8.7")] * 2


@pytest.mark.parametrize("pool", [0, 2])
def test_the_header_stands_before_the_users_bytes(lab, cipher, pool):
    """Large bodies at once behind it: with crypto none they are spliced, with `pool` the connection was there before the user."""
    def service(connection):
        words = read_v1(connection)
        connection.sendall(" ".join(words).encode() + b"\n" + receive_all(connection))
        connection.shutdown(socket.SHUT_WR)

    _, _, port = expose(lab, lab.service(lambda c: service(c) if pool == 0 else suppress_unused(c, service)), "v1", cipher, pool=pool)
    for _ in range(4):
        with from_address("127.0.0.9", port) as user:
            sent = body(3_000_000)
            user.sendall(sent)
            user.shutdown(socket.SHUT_WR)
            head, _, back = receive_all(user).partition(b"\n")
            assert head.decode() == f"PROXY TCP4 127.0.0.9 127.0.0.1 {user.getsockname()[1]} {port}"
            assert back == sent


def suppress_unused(connection, service):
    """Ready connections that no user took end without a byte."""
    if connection.recv(1, socket.MSG_PEEK):
        service(connection)


def test_version_2_is_binary_and_comes_without_waiting_for_the_user(lab):
    def service(connection):
        head = receive_exactly(connection, 16)
        assert head[:12] == SIGNATURE and head[12:14] == b"\x21\x11", head
        user, to, user_port, port = struct.unpack("!4s4sHH", receive_exactly(connection, struct.unpack("!H", head[14:])[0]))
        connection.sendall(f"{socket.inet_ntoa(user)} {user_port} {socket.inet_ntoa(to)} {port}".encode())

    _, _, port = expose(lab, lab.service(service), "v2")
    with from_address("127.0.0.11", port) as user:
        # The user says nothing at all: services that speak first (SSH, SMTP) need the header all the same.
        assert receive_all(user).decode() == f"127.0.0.11 {user.getsockname()[1]} 127.0.0.1 {port}"


def test_the_header_is_not_counted_as_traffic(lab):
    def service(connection):
        read_v1(connection)
        connection.sendall(receive_exactly(connection, 5))

    server, client, port = expose(lab, lab.service(service), "v1")
    with from_address("127.0.0.9", port) as user:
        user.sendall(b"hello")
        assert receive_all(user) == b"hello"
    for daemon in (server, client):
        daemon.wait_stats(lambda s: s["active_connections"] == 0 and (s["bytes_in"], s["bytes_out"]) == (5, 5), "five bytes each way")


def test_an_ipv6_user_of_a_port_for_both_families(lab):
    def service(connection):
        connection.sendall(" ".join(read_v1(connection)).encode())

    server = lab.server(bind=f"[::]:{lab.ports.take()}")
    port = lab.ports.take()
    lab.client(server.config["bind"].replace("[::]", "127.0.0.1"),
               [{"remote_port": port, "local_addr": lab.service(service).address, "proxy_protocol": "v1"}])
    lab.wait_proxies(server, [port])
    for host, family in (("::1", "TCP6 ::1 ::1"), ("127.0.0.1", "TCP4 127.0.0.1 127.0.0.1")):
        with connect(port, host) as user:
            assert receive_all(user).decode() == f"PROXY {family} {user.getsockname()[1]} {port}"
