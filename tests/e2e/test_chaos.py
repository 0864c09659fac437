"""What months on a small machine bring: a process that sleeps, a local service that hangs, a full or read-only disk, a memory limit, a
clock that is wrong or jumps, names that do not resolve or lead elsewhere. Faults of the link are in test_faults and in tests/link."""

import contextlib
import os
import pathlib
import select
import socket
import threading
import time

import pytest

from lab import CIPHERS, HELPERS, SLOW, ask_echo, body, connect, echo_works, receive_all, receive_exactly, wait_until

DAY = 86_400


def works(port):
    wait_until(lambda: echo_works(port), f"port {port} to work", 30)


# A process that sleeps, a service that hangs

@pytest.mark.parametrize("which", ["server", "client"])
def test_a_process_that_sleeps_for_less_than_the_keep_alive_loses_nothing(lab, cipher, which):
    server, client, port = lab.tunnel(lab.echo(), crypto=cipher)
    sent = body(3_000_000)
    with connect(port) as user:
        user.sendall(b"first")
        assert receive_exactly(user, 5) == b"first"
        frozen = {"server": server, "client": client}[which]
        frozen.freeze()
        writer = threading.Thread(target=user.sendall, args=(sent,))
        writer.start()
        assert not select.select([user], [], [], 2)[0], "somebody else answered"
        frozen.thaw()
        assert receive_exactly(user, len(sent)) == sent
        writer.join()
    assert server.stats()["active_clients"] == 1


def test_a_service_that_answers_no_connection_is_given_up_and_holds_up_nobody(lab):
    """Its queue is full: a SYN gets no answer, as from a host that is switched off."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(3):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(full.getsockname())
        waiting.append(one)
    server = lab.server()
    hung = {"remote_port": lab.ports.take(), "local_addr": f"127.0.0.1:{full.getsockname()[1]}"}
    good = {"remote_port": lab.ports.take(), "local_addr": lab.echo().address}
    client = lab.client(server, [hung, good], connect_timeout="2s")
    begun = time.monotonic()
    users = [connect(hung["remote_port"]) for _ in range(20)]
    assert ask_echo(good["remote_port"])
    assert time.monotonic() - begun < 1.5 * SLOW
    for user in users:
        with pytest.raises(ConnectionResetError):
            user.recv(1)
        user.close()
    assert time.monotonic() - begun < 6 * SLOW
    client.wait_log(r"does not answer.*reset")
    for one in (*waiting, full):
        one.close()


def test_a_service_that_says_nothing_and_takes_nothing_holds_up_nobody(lab, cipher):
    def hang(connection):
        release.wait(60 * SLOW)

    release = threading.Event()
    server, client, hung, good = lab.tunnel(lab.service(hang), lab.echo(), crypto=cipher)
    users = [connect(hung) for _ in range(10)]
    for user in users:  # more than any buffer on the way
        user.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                user.send(bytes(1 << 18))
    with connect(good) as user:
        user.sendall(body(500_000))
        assert receive_exactly(user, 500_000) == body(500_000)
    for user in users:
        user.close()
    release.set()
    server.wait_stats(lambda stats: stats["active_connections"] == 0, "that all have left")
    assert ask_echo(good)


@pytest.mark.parametrize("urgent", [1, 50])
def test_urgent_data_is_data_like_any_other(lab, cipher, urgent):
    """A byte sent with MSG_OOB stays in its place, whatever carries it, and nothing stops at it."""
    _, _, port = lab.tunnel(lab.echo(), crypto=cipher)
    sent = []
    with connect(port) as user:
        reader_got = []
        total = urgent * (200_000 + 1) + 200_000

        def read():
            reader_got.append(receive_exactly(user, total))

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(urgent):
            sent += [body(200_000, seed=i), b"!"]
            user.sendall(sent[-2])
            user.send(b"!", socket.MSG_OOB)
        sent.append(body(200_000, seed=urgent))
        user.sendall(sent[-1])
        reader.join(30 * SLOW)
        assert reader_got and reader_got[0] == b"".join(sent)


# The disk

def in_own_mounts(daemon, script):
    """Starts the daemon in a mount namespace of its own, after a line of shell."""
    daemon.wrapper = ["unshare", "-m", "sh", "-ec", f'{script}; exec "$@"', "sh"]
    return daemon


def inside(daemon, path):
    return pathlib.Path(f"/proc/{daemon.pid}/root{path}")


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_state_directory_on_a_full_or_read_only_disk_is_a_warning(lab, disk):
    """Certificate and instance id live in memory then, no half-written file stays behind, and the next start does better."""
    state = {name: lab.dir / f"{name}-disk" for name in ("server", "client")}
    for path in state.values():
        path.mkdir()

    def broken(daemon, path):
        tmpfs = f"mount -t tmpfs -o size=4k none {path}"
        spoil = f"head -c 4096 /dev/zero > {path}/fill" if disk == "full" else f"mount -o remount,ro {path}"
        return in_own_mounts(daemon, f"{tmpfs}; {spoil}")

    server = broken(lab.server(start=False, crypto="tls", state_dir=str(state["server"])), state["server"]).start()
    server.wait_log("listening for tunnels")
    server.wait_log(r"warn.*(No space left|Read-only)")
    client = broken(lab.client(server, [lab.echo()], start=False, state_dir=str(state["client"])), state["client"]).start()
    port = client.config["proxies"][0]["remote_port"]
    works(port)
    client.wait_log(r"warn.*(No space left|Read-only)")
    for daemon, path in ((server, state["server"]), (client, state["client"])):
        assert {file.name for file in inside(daemon, path).iterdir() if file.is_file()} <= {"fill"}
    client.stop()
    server.stop()
    server.wrapper = client.wrapper = []
    server.start()
    server.wait_log("listening for tunnels")
    client.start()
    works(port)
    assert {file.stat().st_mode & 0o777 for path in state.values() for file in path.iterdir() if file.is_file()} == {0o600}


def test_a_log_that_nobody_takes_does_not_stop_anything(lab):
    """Standard output and error lead to a full disk."""
    server = lab.server(start=False)
    client = lab.client(server, [lab.echo()], start=False)
    for daemon in (server, client):
        daemon.wrapper = ["sh", "-c", 'exec "$@" > /dev/full 2>&1', "sh"]
        daemon.start()
    works(client.config["proxies"][0]["remote_port"])


# Memory

def memory_limit(lab, name, mebibytes):
    """A shell prefix that puts a process under a memory limit: a control group, version 2 or 1; without either, a limit on its data."""
    for root, file in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = pathlib.Path(root) / f"qtrp-test-{os.getpid()}-{name}"
        try:
            group.mkdir()
        except OSError:
            continue
        lab.rooms.append(group)
        if not (group / file).exists():
            continue
        (group / file).write_text(str(mebibytes << 20))
        return ["sh", "-ec", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    return ["prlimit", f"--data={mebibytes << 20}", "--"]


@pytest.mark.parametrize("which", ["server", "client"])
def test_under_a_memory_limit_readers_that_stop_kill_nobody(lab, which):
    """A hundred connections of 8 MB each whose reader takes nothing: 800 MB want to be somewhere; the limit is 128 MiB."""
    def send(connection):
        with contextlib.suppress(OSError):
            connection.sendall(bytes(8_000_000))

    def take_nothing(connection):
        release.wait(60 * SLOW)

    release = threading.Event()
    prefix = memory_limit(lab, which, 128 if SLOW == 1 else 1536)
    server = lab.server(start=False, crypto=CIPHERS[-1])
    # Downloads pile up in the server, uploads in the client.
    service = lab.service(send if which == "server" else take_nothing)
    client = lab.client(server, [service, lab.echo()], start=False)
    limited = {"server": server, "client": client}[which]
    limited.wrapper = prefix
    server.start()
    server.wait_log("listening for tunnels")
    client.start()
    stopped, echo = (proxy["remote_port"] for proxy in client.config["proxies"])
    lab.wait_proxies(server, [stopped, echo])
    users = []
    for _ in range(100):
        users.append(connect(stopped))
        if which == "client":
            users[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    users[-1].send(bytes(1 << 18))
    limited.wait_stats(lambda stats: stats["active_connections"] == 100, "100 connections")
    moved = [0.0, time.monotonic()]

    def quiet():  # less than a megabyte in a second
        for user in users if which == "client" else ():
            with contextlib.suppress(BlockingIOError):
                user.send(bytes(1 << 18))
        now = limited.stats()
        bytes_now = now["bytes_in"] + now["bytes_out"]
        if bytes_now - moved[0] > 1_000_000:
            moved[:] = [bytes_now, time.monotonic()]
        return time.monotonic() - moved[1] > 1

    wait_until(quiet, "all to be stuck", 60)
    assert ask_echo(echo)  # a full buffer stops nobody else
    for user in users:
        user.close()
    release.set()
    limited.wait_stats(lambda stats: stats["active_connections"] == 0, "that all have left", 30)
    works(echo)


# The clock

@pytest.fixture
def skewed(lab):
    """skewed(daemon) gives the daemon a wall clock of its own and returns a function that moves it by seconds."""
    def give(daemon):
        file = lab.dir / f"{daemon.name}.skew"
        daemon.environment = {
            "LD_PRELOAD": str(HELPERS / "libqtrp-skewed-clock.so"), "QTRP_CLOCK_SKEW": str(file),
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}

        def move(seconds):
            new = file.with_suffix(".new")
            new.write_text(str(seconds))
            new.rename(file)
        move(0)
        return move
    return give


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("off", [DAY, -DAY])
def test_a_clock_that_is_wrong_by_a_day_matters_without_a_channel_binding_only(lab, cipher, skewed, side, off):
    server = lab.server(crypto=cipher, start=False)
    client = lab.client(server, [lab.echo()], start=False)
    move = skewed({"server": server, "client": client}[side])
    move(off)
    server.start()
    server.wait_log("listening for tunnels")
    client.start()
    port = client.config["proxies"][0]["remote_port"]
    if cipher == "none":
        client.wait_log(r"denied.*clocks.*differs by -?86\d{3} s")
        server.wait_log(r"clock differs")
        assert server.stats()["active_clients"] == 0
        move(0)  # somebody sets it right: no restart is needed
    works(port)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_clock_that_jumps_disturbs_no_session(lab, cipher, skewed, side):
    keepalive = {"keepalive": {"interval": "1s"}}
    server = lab.server(crypto=cipher, start=False, **keepalive)
    client = lab.client(server, [lab.echo()], start=False, **keepalive)
    move = skewed({"server": server, "client": client}[side])
    server.start()
    server.wait_log("listening for tunnels")
    client.start()
    port = client.config["proxies"][0]["remote_port"]
    works(port)
    with connect(port) as user:
        for jump in (DAY, -DAY, 1000 * DAY):
            move(jump)
            user.sendall(b"hello")
            assert receive_exactly(user, 5) == b"hello"
            assert ask_echo(port)
            with pytest.raises(TimeoutError):  # pings come and go meanwhile
                user.settimeout(1.3)
                user.recv(1)
            user.settimeout(30 * SLOW)
    for daemon in (server, client):
        assert "lost" not in daemon.log() and "unanswered" not in daemon.log()
        assert daemon.stats()["uptime_seconds"] < 60 * SLOW


# Names

class Names:
    """/etc/hosts of a daemon's own, that a test can rewrite, and no name server behind it."""

    def __init__(self, lab, daemon):
        self.hosts, resolver = lab.dir / "hosts", lab.dir / "resolv.conf"
        self.set({})
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        in_own_mounts(daemon, f"mount --bind {self.hosts} /etc/hosts; mount --bind {resolver} /etc/resolv.conf")

    def set(self, names):
        with open(self.hosts, "w") as hosts:  # in place: the mount holds on to the file
            hosts.write("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in names.items()))


def test_a_server_name_that_does_not_resolve_and_then_leads_elsewhere(lab):
    first = lab.server()
    port = int(first.config["bind"].rsplit(":", 1)[1])
    service = lab.echo()
    client = lab.client(f"vps.test:{port}", [service], start=False, crypto=first.config["crypto"])
    names = Names(lab, client)
    client.start()
    client.wait_log(r"vps\.test.*(resolve|not known)")
    names.set({"vps.test": "127.0.0.1"})
    public = client.config["proxies"][0]["remote_port"]
    works(public)
    # The VPS moves: the name has another address, and the old machine is gone.
    names.set({"vps.test": "127.0.0.9"})
    second = lab.server(name="second", bind=f"127.0.0.9:{port}")
    first.kill()
    second.wait_stats(lambda stats: stats["active_clients"] == 1, "that the client has followed", 30)
    wait_until(lambda: ask_echo(public, host="127.0.0.9"), "the service at its new place")


def test_a_local_name_that_does_not_resolve_costs_that_user_only(lab):
    server = lab.server()
    service, good = lab.echo(), lab.echo()
    proxies = [{"remote_port": lab.ports.take(), "local_addr": f"service.test:{service.port}"},
               {"remote_port": lab.ports.take(), "local_addr": good.address}]
    client = lab.client(server, proxies, start=False)
    names = Names(lab, client)
    client.start()
    named, plain = (proxy["remote_port"] for proxy in proxies)
    lab.wait_proxies(server, [named, plain])
    with connect(named) as user:
        with pytest.raises(ConnectionResetError):
            receive_all(user)
    assert ask_echo(plain)
    client.wait_log(r"service\.test.*(resolve|not known)")
    names.set({"service.test": "127.0.0.1"})
    works(named)
