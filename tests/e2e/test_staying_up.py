"""Restarts, crashes, frozen peers and orderly ends: the client comes back by itself and takes its ports with it."""

import signal
import socket
import time

import pytest

from lab import FASTEST, SLOW, Lab, connect, echo, echo_works, receive_all, receive_exactly, wait_until


def works(port):
    wait_until(lambda: echo_works(port), f"port {port} to work", 30)


def ended(connection):
    """Waits for the connection to be over, however it ends."""
    try:
        receive_all(connection)
    except ConnectionError:
        pass
    return True


def test_server_killed_and_restarted_under_a_running_client(lab, cipher):
    server, client, port = lab.tunnel(lab.echo(), crypto=cipher)
    works(port)
    server.kill()
    server.start()
    works(port)
    assert client.alive()


def test_server_stopped_for_a_while_and_restarted(lab):
    server, client, port = lab.tunnel(lab.echo())
    works(port)
    server.stop()
    client.wait_log(r"(refused|connect)")
    assert not echo_works(port)
    server.start()
    works(port)


def test_client_started_before_its_server(lab):
    server = lab.server(start=False)
    service, port = lab.echo(), lab.ports.take()
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}], wait=False)
    client.wait_log(r"(refused|connect)")
    server.start()
    works(port)


def test_client_killed_and_restarted(lab, cipher):
    """Its session is still open on the server's side for a moment: the same instance takes its ports from it at once."""
    server, client, port = lab.tunnel(lab.echo(), crypto=cipher)
    with connect(port) as user:
        user.sendall(b"hello")
        receive_exactly(user, 5)
        client.kill()
        assert ended(user)
    client.start()
    works(port)
    assert server.stats()["active_clients"] == 1


def test_a_new_client_of_the_same_instance_takes_the_ports_of_a_frozen_one(lab, cipher):
    """As after a reboot behind a NAT that dropped its state: the server's old session is silent but not closed."""
    server, client, port = lab.tunnel(lab.echo(), crypto=cipher)
    works(port)
    client.freeze()
    again = lab.client(server, client.config["proxies"], name="again", wait=False, crypto=cipher, state_dir=client.config["state_dir"])
    begun = time.monotonic()
    works(port)
    assert time.monotonic() - begun < 8 * SLOW
    assert server.stats()["active_clients"] == 1
    assert again.alive()
    # The frozen one wakes up to a closed tunnel; two clients of one identity would take the ports in turns for ever.
    client.kill()
    works(port)


def test_another_client_does_not_get_the_ports_of_a_live_one(lab):
    server, client, port = lab.tunnel(lab.echo())
    works(port)
    other = lab.client(server, client.config["proxies"], name="other", wait=False)
    other.wait_log(r"port_in_use")
    works(port)
    assert client.alive() and other.alive()


KEEPALIVE = {"keepalive": {"interval": "1s"}}


@pytest.mark.parametrize("frozen", ["client", "server"])
def test_a_silent_peer_is_given_up_after_three_missed_pings(lab, cipher, frozen):
    service = lab.echo()
    port = lab.ports.take()
    server = lab.server(crypto=cipher, **KEEPALIVE)
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}], **KEEPALIVE)
    works(port)
    if frozen == "client":
        with connect(port) as user:
            user.sendall(b"hello")
            receive_exactly(user, 5)
            client.freeze()
            server.wait_stats(lambda stats: stats["active_clients"] == 0, "that the silent client is gone", 15)
            assert ended(user)
        client.thaw()
    else:
        client.mark()
        server.freeze()
        client.wait_log(r"(keep-?alive|silent|unanswered|timed? ?out)", 15)
        server.thaw()
    works(port)


def test_an_idle_tunnel_stays_open(lab):
    """Keep-alive pings are answered: with an interval of 1 s, a tunnel without answers would be dead within five."""
    service = lab.echo()
    port = lab.ports.take()
    server = lab.server(keepalive={"interval": "1s"})
    lab.client(server, [{"remote_port": port, "local_addr": service.address}], keepalive={"interval": "1s"})
    with connect(port) as user:
        user.settimeout(6)
        with pytest.raises(TimeoutError):
            user.recv(1)
        user.settimeout(10 * SLOW)
        user.sendall(b"still here")
        assert receive_exactly(user, 10) == b"still here"
    assert server.stats()["total_connections"] == 1


@pytest.mark.parametrize("which", ["server", "client"])
def test_sigterm_gives_running_connections_the_grace_period_and_takes_no_new_ones(lab, which):
    service = lab.echo()
    port = lab.ports.take()
    grace = {"shutdown": {"grace": "20s"}}
    server = lab.server(**grace)
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}], **grace)
    daemon = {"server": server, "client": client}[which]
    with connect(port) as user:
        user.sendall(b"before")
        receive_exactly(user, 6)
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: not echo_works(port), "new connections to be refused")
        assert daemon.alive()
        user.sendall(b"after")
        assert receive_exactly(user, 5) == b"after"
        user.shutdown(socket.SHUT_WR)
        assert receive_all(user) == b""
    begun = time.monotonic()
    assert daemon.wait_exit(10) == 0
    assert time.monotonic() - begun < 10 * SLOW  # the last connection is gone: no need to wait the grace period out


def test_the_grace_period_ends(lab):
    server, client, port = lab.tunnel(lab.echo())  # grace: 1 s
    with connect(port) as user:
        user.sendall(b"hello")
        receive_exactly(user, 5)
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait_exit(10) == 0
        assert time.monotonic() - begun > 0.8
        assert ended(user)


@pytest.mark.parametrize("which", ["server", "client"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(lab, which, number):
    service = lab.echo()
    port = lab.ports.take()
    grace = {"shutdown": {"grace": "600s"}}
    server = lab.server(**grace)
    client = lab.client(server, [{"remote_port": port, "local_addr": service.address}], **grace)
    daemon = {"server": server, "client": client}[which]
    with connect(port) as user:
        user.sendall(b"hello")
        receive_exactly(user, 5)
        daemon.mark()
        daemon.signal(number)
        wait_until(lambda: not echo_works(port), "new connections to be refused")
        assert daemon.alive()
        daemon.signal(number)
        daemon.wait_exit(5)


def test_an_idle_daemon_ends_at_once(lab):
    server, client, port = lab.tunnel(lab.echo())
    works(port)
    for daemon in (client, server):
        begun = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit(10) == 0
        assert time.monotonic() - begun < 0.9 * SLOW
