"""`log.access`: a JSON line for each user connection, with the reason of its end; logrotate, a full disk, a slow reader."""

import contextlib
import json
import os
import signal
import socket
import subprocess

from lab import BIN, body, connect, receive_all, receive_exactly, reset, wait_until


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_lines(file, count, what="lines of the access log"):
    return wait_until(lambda: len(lines(file)) >= count and lines(file), f"{count} {what}")


def logged(lab, *services, server_config=None, **client_config):
    """Server and client with access logs of their own; gives them, the two files and the ports."""
    files = [lab.dir / "server-access.log", lab.dir / "client-access.log"]
    server = lab.server(log={"level": "debug", "access": str(files[0])}, **(server_config or {}))
    client = lab.client(server, services, log={"level": "debug", "access": str(files[1])}, **client_config)
    return server, client, *files, *(proxy["remote_port"] for proxy in client.config["proxies"])


def test_a_clean_end_has_all_the_figures_on_both_sides(lab):
    service = lab.service(lambda c: c.sendall(receive_all(c) * 2))
    server, client, server_log, client_log, port = logged(lab, service)
    with connect(port) as user:
        address = "%s:%d" % user.getsockname()
        user.sendall(body(100_000))
        user.shutdown(socket.SHUT_WR)
        assert len(receive_all(user)) == 200_000
    (at_server,), (at_client,) = wait_lines(server_log, 1), wait_lines(client_log, 1)
    for line in (at_server, at_client):
        assert line["user"] == address
        assert line["port"] == port
        assert line["proxy"] == str(port)
        assert line["client"] == server.stats()["clients"][0]["name"]
        assert (line["bytes_in"], line["bytes_out"]) == (100_000, 200_000)
        assert line["end"] == "closed"
        assert 0 <= line["duration_seconds"] < 30
        assert line["time"].endswith("Z")
    assert at_server["connection"] == at_client["connection"]
    assert at_client["local_addr"] == service.address


def test_who_ended_it_is_told(lab):
    def resets(connection):
        receive_exactly(connection, 1)
        reset(connection)

    closed = lab.ports.take()
    server, client, server_log, client_log, to_echo, to_reset, to_nobody = logged(
        lab, lab.echo(), lab.service(resets), {"remote_port": lab.ports.take(), "local_addr": f"127.0.0.1:{closed}"})
    user = connect(to_echo)
    user.sendall(b"x")
    receive_exactly(user, 1)
    reset(user)
    assert [line["end"] for line in wait_lines(server_log, 1)] == ["user_reset"]
    assert [line["end"] for line in wait_lines(client_log, 1)] == ["user_reset"]
    for port, end in ((to_reset, "service_reset"), (to_nobody, "service_refused")):
        with contextlib.suppress(ConnectionError), connect(port) as user:
            user.sendall(b"x")
            while user.recv(100):
                pass
    assert [line["end"] for line in wait_lines(server_log, 3)] == ["user_reset", "service_reset", "service_refused"]
    assert [line["end"] for line in wait_lines(client_log, 3)] == ["user_reset", "service_reset", "service_refused"]


def test_a_lost_tunnel_and_a_shutdown(lab):
    server, client, server_log, client_log, port = logged(lab, lab.echo())
    first = connect(port)
    first.sendall(b"x")
    receive_exactly(first, 1)
    client.kill()
    assert wait_lines(server_log, 1)[0]["end"] == "tunnel_lost"
    first.close()
    client.start()
    lab.wait_proxies(server, [port])
    wait_until(lambda: server.stats()["active_clients"] == 1, "the client")
    second = connect(port)
    second.sendall(b"x")
    receive_exactly(second, 1)
    server.stop()
    assert [line["end"] for line in lines(server_log)] == ["tunnel_lost", "shutdown"]
    assert wait_lines(client_log, 1)[-1]["end"] == "shutdown"
    second.close()


def test_users_beyond_the_limit_are_logged_too(lab):
    limited = {"auth": {"tokens": [{"token": lab.token, "name": "small", "max_connections": 1}]}}
    server, client, server_log, _, port = logged(lab, lab.echo(), server_config=limited)
    with connect(port) as user:
        user.sendall(b"x")
        receive_exactly(user, 1)
        with contextlib.suppress(ConnectionResetError), connect(port) as second:
            assert second.recv(1) == b""
        refused = wait_lines(server_log, 1)[0]
        assert (refused["end"], refused["bytes_in"], "connection" in refused) == ("limit", 0, False)


def test_logrotate(lab):
    server, client, server_log, client_log, port = logged(lab, lab.echo())

    def once():
        with connect(port) as user:
            user.sendall(b"x")
            receive_exactly(user, 1)

    once()
    wait_lines(server_log, 1)
    wait_lines(client_log, 1)
    for daemon, log in ((server, server_log), (client, client_log)):
        log.rename(log.with_suffix(".1"))
        daemon.signal(signal.SIGHUP)
        wait_until(log.exists, f"{log.name} to be made anew")
    once()
    assert len(wait_lines(server_log, 1)) == 1
    assert len(wait_lines(client_log, 1)) == 1
    assert len(lines(server_log.with_suffix(".1"))) == 1


def test_standard_output_has_nothing_but_the_lines(lab):
    """`access: "-"`: the daemon's log goes to standard error, so a pipe gets JSON alone."""
    server = lab.server(start=False, log={"level": "info", "access": "-"})
    read, write = os.pipe()
    with open(server.log_file, "ab") as log:
        server.process = subprocess.Popen([str(BIN / server.program), "-c", str(server.config_file)], stdin=subprocess.DEVNULL,
                                          stdout=write, stderr=log)
    os.close(write)
    server.wait_log("listening for tunnels")
    client = lab.client(server, [lab.echo()])
    with connect(client.config["proxies"][0]["remote_port"]) as user:
        user.sendall(b"x")
        receive_exactly(user, 1)
    with os.fdopen(read) as pipe:
        assert json.loads(pipe.readline())["bytes_in"] == 1
        server.stop()
        assert pipe.read() == ""


def test_a_full_disk_holds_up_nobody(lab):
    server = lab.server(log={"level": "info", "access": "/dev/full"})
    client = lab.client(server, [lab.echo()])
    for _ in range(20):
        with connect(client.config["proxies"][0]["remote_port"]) as user:
            user.sendall(b"hello")
            assert receive_exactly(user, 5) == b"hello"
    server.wait_log("access log: lines are lost, .*: No space left on device")
    assert server.log().count("lines are lost") == 1  # said once, not for each line


def test_a_file_that_cant_be_written_is_said_at_the_start(lab):
    server = lab.server(start=False, log={"access": str(lab.dir / "nothing" / "access.log")})
    server.start()
    assert server.wait_exit() == 2
    assert "there is no directory" in server.log()
