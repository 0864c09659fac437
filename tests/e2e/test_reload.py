"""SIGHUP and `reload`: proxies, limits, tokens, certificates, levels and targets change under running connections; a bad file changes
nothing."""

import contextlib
import hashlib
import re
import signal
import subprocess
import threading

import pytest
import yaml

from lab import BIN, SLOW, TRANSPORT, ask_echo, body, connect, echo_works, open_ports_of, receive_all, receive_exactly, wait_until


def rewrite(daemon, **changes):
    daemon.config = {k: v for k, v in (daemon.config | changes).items() if v is not None}
    daemon.config_file.write_text(yaml.safe_dump(daemon.config, sort_keys=False))


def reload(daemon, expect=0):
    """The subcommand; gives what it said."""
    done = subprocess.run([str(BIN / daemon.program), "reload", "-c", str(daemon.config_file)], capture_output=True, text=True,
                          timeout=40 * SLOW)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


class Talk:
    """A connection that echoes without a pause, to prove afterwards that nothing happened to it."""

    def __init__(self, port):
        self.connection = connect(port)
        self._stop = threading.Event()
        self.rounds, self.error = 0, None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: self.rounds > 0, "the first echo")

    def _run(self):
        data = body(20_000)
        try:
            while not self._stop.is_set():
                self.connection.sendall(data)
                assert receive_exactly(self.connection, len(data)) == data
                self.rounds += 1
        except (OSError, AssertionError) as error:
            self.error = error

    def goes_on(self):
        before = self.rounds
        wait_until(lambda: self.rounds > before + 2 or self.error, "the connection to go on")
        assert self.error is None, self.error

    def end(self):
        self._stop.set()
        self._thread.join()
        assert self.error is None, self.error
        self.connection.close()


def proxy(port, service, **more):
    return {"remote_port": port, "local_addr": service.address} | more


@pytest.mark.parametrize("tunnels", [1, 3])
def test_proxies_come_and_go_under_a_running_connection(lab, tunnels):
    kept, gone, new = (lab.ports.take() for _ in range(3))
    echo = lab.echo()
    server = lab.server()
    client = lab.client(server, [proxy(kept, echo), proxy(gone, echo)], tunnels=tunnels)
    server.wait_stats(lambda s: len(s["tunnels"]) == tunnels, "the tunnels")
    staying, leaving = Talk(kept), Talk(gone)
    rewrite(client, proxies=[proxy(kept, echo), proxy(new, echo)])
    assert "reloaded" in reload(client)
    wait_until(lambda: echo_works(new), "the new proxy")
    wait_until(lambda: open_ports_of(server.stats()) == {kept, new}, "the ports")
    with pytest.raises(OSError):
        connect(gone)
    staying.goes_on()
    leaving.goes_on()  # a connection outlives its proxy
    leaving.end()
    staying.end()
    assert server.stats()["total_connections"] >= 3
    assert {p["port"] for p in client.stats()["proxies"]} == {kept, new}
    assert "connection lost" not in client.log()


def test_a_proxys_service_changes_and_its_port_stays_open(lab):
    port = lab.ports.take()
    old, new = (lab.service(lambda c, text=text: c.sendall(text)) for text in (b"old", b"new"))
    server = lab.server()
    client = lab.client(server, [proxy(port, old)])
    with connect(port) as user:
        assert receive_all(user) == b"old"
    server.mark()
    rewrite(client, proxies=[proxy(port, new)])
    client.signal(signal.SIGHUP)
    client.wait_log("reloaded")
    with connect(port) as user:
        assert receive_all(user) == b"new"
    assert not re.search("proxy '.*' (closed|listens)", server.log())


def test_a_renamed_proxy_keeps_its_port(lab):
    """Closed and opened again in one go, in this order."""
    port = lab.ports.take()
    echo = lab.echo()
    server = lab.server()
    client = lab.client(server, [proxy(port, echo, name="first")], tunnels=2)
    rewrite(client, proxies=[proxy(port, echo, name="second")])
    reload(client)
    server.wait_stats(lambda s: [p["name"] for p in s["proxies"]] == ["second"], "the new name")
    assert ask_echo(port)
    assert "port_in_use" not in client.log()


def test_a_bad_file_changes_nothing_and_is_told(lab):
    port = lab.ports.take()
    echo = lab.echo()
    server = lab.server()
    client = lab.client(server, [proxy(port, echo)])
    talk = Talk(port)
    for daemon, mistake in ((server, {"prots": 1}), (client, {"proxies": [{"remote_port": 99999, "local_addr": "h:1"}]})):
        good = daemon.config_file.read_text()
        rewrite(daemon, **mistake)
        said = reload(daemon, expect=2)
        assert str(daemon.config_file) + ":" in said
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("has mistakes, nothing was changed")
        daemon.config_file.write_text(good)
        assert "reloaded" in reload(daemon)
    talk.goes_on()
    talk.end()
    assert ask_echo(port)


def test_what_needs_a_restart_is_named(lab):
    server = lab.server()
    rewrite(server, workers=3, mux="yamux", keepalive={"interval": "5s"})
    said = reload(server)
    assert "'workers' changes with a restart only" in said
    assert "'mux' changes" in said or TRANSPORT == "quic"
    assert "keepalive" not in said
    assert "'workers' changes with a restart only" in server.log()


def test_a_token_comes_and_goes(lab):
    """The clients of a token that is gone are sent away: no new users at once, the running ones have shutdown.grace."""
    first, second = lab.secret(), lab.secret()
    server = lab.server(auth={"tokens": [first]}, shutdown={"grace": "2s"})
    ports = [lab.ports.take(), lab.ports.take()]
    echo = lab.echo()
    one = lab.client(server, [proxy(ports[0], echo)], name="one", token=first)
    rewrite(server, auth={"tokens": [first, second]})
    reload(server)
    two = lab.client(server, [proxy(ports[1], echo)], name="two", token=second)
    old, new = Talk(ports[0]), Talk(ports[1])
    rewrite(server, auth={"tokens": [second]})
    reload(server)
    one.wait_log("says goodbye: its token was taken out")
    wait_until(lambda: open_ports_of(server.stats()) == {ports[1]}, "the first client's port to be closed")
    wait_until(lambda: old.error, "the end of its connection")  # after the grace
    one.wait_log("denied: check that `token`")
    new.goes_on()
    new.end()
    old.connection.close()
    assert "connection lost" not in two.log()
    # The client is given the right one.
    rewrite(one, token=second)
    reload(one)
    wait_until(lambda: echo_works(ports[0]), "the first client to be back", 60)


def test_a_tokens_limits_change(lab):
    tokens = [{"token": lab.token, "name": "office"}]
    server = lab.server(auth={"tokens": tokens})
    allowed, forbidden = lab.ports.take(), lab.ports.take()
    echo = lab.echo()
    client = lab.client(server, [proxy(allowed, echo), proxy(forbidden, echo)])
    staying, leaving = Talk(allowed), Talk(forbidden)
    rewrite(server, auth={"tokens": [tokens[0] | {"ports": [allowed], "max_connections": 2}]})
    reload(server)
    client.wait_log(rf"proxy '{forbidden}' refused: (closed_by_server|port_not_allowed)")
    assert open_ports_of(server.stats()) == {allowed}
    staying.goes_on()
    leaving.goes_on()  # beyond its port's end
    with contextlib.suppress(ConnectionResetError), connect(allowed) as third:  # two are there already
        assert third.recv(1) == b""
    leaving.end()
    staying.end()
    rewrite(server, auth={"tokens": tokens})
    reload(server)
    wait_until(lambda: echo_works(forbidden), "the client to get its port back", 60)


def test_the_log_level_changes(lab):
    server = lab.server(log={"level": "warn"}, start=False)
    server.start()
    wait_until(lambda: server.stats()["role"] == "server", "the server")
    assert "info" not in server.log()
    rewrite(server, log={"level": "debug"})
    reload(server)
    server.wait_log("info.*reloaded")


def test_brutals_target_changes_on_a_running_tunnel(lab):
    port = lab.ports.take()
    server = lab.server(brutal={"enabled": True, "target_mbps": 80, "mode": "pacer"})
    client = lab.client(server, [proxy(port, lab.echo())], tunnels=1, brutal={"enabled": True, "target_mbps": 60, "mode": "pacer"})
    talk = Talk(port)
    for daemon, before, after in ((server, 80, 30), (client, 60, 20)):
        daemon.wait_stats(lambda s: [t["target_mbps"] for t in s["tunnels"]] == [before], "the first target")
        rewrite(daemon, brutal={"enabled": True, "target_mbps": after, "mode": "pacer"})
        reload(daemon)
        daemon.wait_stats(lambda s: [t["target_mbps"] for t in s["tunnels"]] == [after], "the second target")
    rewrite(server, auth={"tokens": [{"token": lab.token, "target_mbps": 17}]})
    reload(server)
    server.wait_stats(lambda s: [t["target_mbps"] for t in s["tunnels"]] == [17], "the token's own target")
    rewrite(server, auth={"tokens": [lab.token]}, brutal={"enabled": False, "mode": "pacer"})
    reload(server)
    server.wait_stats(lambda s: [t["target_mbps"] for t in s["tunnels"]] == [0], "no target")
    talk.goes_on()
    talk.end()


def make_certificate(directory, name):
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key),
                    "-out", str(certificate), "-days", "2", "-subj", f"/CN={name}"], check=True, capture_output=True)


def test_a_certificate_is_replaced_under_running_tunnels(lab):
    """As certbot does it: the same paths, new content. Running tunnels stay, the next handshake has the new one."""
    make_certificate(lab.dir, "first")
    files = {"cert": str(lab.dir / "live.crt"), "key": str(lab.dir / "live.key")}

    def install(name):
        (lab.dir / "live.crt").write_bytes((lab.dir / f"{name}.crt").read_bytes())
        (lab.dir / "live.key").write_bytes((lab.dir / f"{name}.key").read_bytes())
        (lab.dir / "live.key").chmod(0o600)

    def pin(name):
        public = subprocess.run(["openssl", "pkey", "-in", str(lab.dir / f"{name}.key"), "-pubout", "-outform", "DER"], check=True,
                                capture_output=True).stdout
        return "sha256:" + hashlib.sha256(public).hexdigest()

    install("first")
    server = lab.server(crypto="tls", tls=files)
    port, later = lab.ports.take(), lab.ports.take()
    echo = lab.echo()
    lab.client(server, [proxy(port, echo)], name="early", tls={"pin": pin("first")})
    talk = Talk(port)
    make_certificate(lab.dir, "second")
    install("second")
    server.signal(signal.SIGHUP)
    server.wait_log("reloaded")
    lab.client(server, [proxy(later, echo)], name="late", tls={"pin": pin("second")})
    assert ask_echo(later)
    talk.goes_on()
    # A file that is no certificate leaves the good one in place.
    (lab.dir / "live.crt").write_text("nonsense")
    assert "nothing was changed" in reload(server, expect=1)
    talk.goes_on()
    talk.end()
    lab.client(server, [proxy(lab.ports.take(), echo)], name="latest", tls={"pin": pin("second")})


def test_without_a_daemon_the_caller_is_told(lab):
    server = lab.server(start=False)
    assert "no running qtrp-server answers" in reload(server, expect=1)
    server.start()
    server.wait_log("listening for tunnels")
    assert "reloaded" in reload(server)
    server.stop()
    assert "no running qtrp-server answers" in reload(server, expect=1)


def test_sighup_while_shutting_down_ends_nothing_early(lab):
    server, client, port = lab.tunnel(lab.echo())
    rewrite(server, shutdown={"grace": "30s"})
    reload(server)
    talk = Talk(port)
    server.signal(signal.SIGTERM)
    server.wait_log("shutting down: no new connections, running ones have 30000 ms")
    server.signal(signal.SIGHUP)
    talk.goes_on()
    talk.end()
    assert server.wait_exit() == 0


def test_a_pool_follows_its_service(lab):
    """Ready connections of the old service are given up."""
    port = lab.ports.take()
    old, new = lab.echo(), lab.echo()
    server = lab.server()
    client = lab.client(server, [proxy(port, old)], pool=2)
    wait_until(lambda: len(old.connections) == 2, "the ready connections")
    rewrite(client, proxies=[proxy(port, new)])
    reload(client)
    wait_until(lambda: len(new.connections) == 2, "ready connections to the new service")
    assert ask_echo(port)
    rewrite(client, pool=5)
    reload(client)
    wait_until(lambda: len(new.connections) >= 5, "more of them")
