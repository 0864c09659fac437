"""The systemd units: how much systemd thinks they expose, and both daemons at work under the same restrictions."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import pytest

import under_unit
from lab import BIN, SLOW, echo_works, wait_until

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "config"
LAUNCHER = pathlib.Path(__file__).with_name("under_unit.py")
UNITS = {role: CONFIG / f"qtrp-{role}.service" for role in ("server", "client")}
DROP_INS = sorted(CONFIG.glob("qtrp-*.service.d/*.conf"))


def exposure(directory, unit, *drop_ins):
    """systemd's own score, 0 to 10, of a unit with just these drop-ins."""
    place = directory / unit.name
    place.write_text(unit.read_text())
    (directory / f"{unit.name}.d").mkdir()
    for drop_in in drop_ins:
        (directory / f"{unit.name}.d" / drop_in.name).write_text(drop_in.read_text())
    told = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(place)], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return float(re.search(rf"Overall exposure level for {unit.name}: ([0-9.]+)", told.stdout).group(1))


@pytest.mark.parametrize("role", UNITS)
def test_the_unit_exposes_little(tmp_path, role):
    assert exposure(tmp_path, UNITS[role]) <= 1.8  # 1.5 by systemd 252; others weigh a little differently


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_drop_in_adds_what_it_says_and_no_more(tmp_path, drop_in):
    unit = CONFIG / drop_in.parent.name.removesuffix(".d")
    assert exposure(tmp_path, unit, drop_in) <= 2.5
    wanted = {"brutal.conf": "CAP_BPF CAP_PERFMON CAP_NET_ADMIN", "low-ports.conf": "CAP_NET_BIND_SERVICE"}[drop_in.name]
    merged = under_unit.settings(unit, drop_in)
    assert merged["CapabilityBoundingSet"] == merged["AmbientCapabilities"] == [wanted]
    added = under_unit.allowed_calls(merged) - under_unit.allowed_calls(under_unit.settings(unit))
    assert added == ({"bpf"} if drop_in.name == "brutal.conf" else set())


@pytest.mark.parametrize("role", UNITS)
def test_the_unit_alone_has_no_capability(role):
    unit = under_unit.settings(UNITS[role])
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == []


def test_systemd_finds_no_mistake_in_the_units(tmp_path):
    """systemd-analyze verify names unknown keys and bad values; the executable is somewhere else here."""
    for role, unit in UNITS.items():
        place = tmp_path / unit.name
        place.write_text(unit.read_text().replace(f"/usr/bin/qtrp-{role}", str(BIN / f"qtrp-{role}")).replace("Documentation=man:", "#"))
        (tmp_path / f"{unit.name}.d").mkdir(exist_ok=True)
        for drop_in in CONFIG.glob(f"qtrp-{role}.service.d/*.conf"):
            (tmp_path / f"{unit.name}.d" / drop_in.name).write_text(drop_in.read_text())
        told = subprocess.run(["systemd-analyze", "verify", "--man=no", str(place)], capture_output=True, text=True)
        assert unit.name not in told.stderr, told.stderr


# The daemons at work.


def test_a_call_outside_of_the_filter_ends_the_daemon(lab):
    """So that the tests below can fail at all: without bind, say, the server does not live."""
    server = lab.server(start=False)
    narrow = lab.dir / "narrow.conf"
    narrow.write_text("[Service]\nSystemCallFilter=~bind\n")
    server.wrapper = [sys.executable, str(LAUNCHER), str(UNITS["server"]), str(narrow), "--"]
    server.start()
    assert server.wait_exit() == -signal.SIGSYS


def launcher(role, *drop_ins, netns=None):
    """The words before a daemon's: no capability but the drop-ins', then the filter of the unit."""
    unit = UNITS[role]
    files = [unit, *(unit.with_name(f"{unit.name}.d") / name for name in drop_ins)]
    kept = [name.removeprefix("CAP_").lower() for value in under_unit.settings(*files)["CapabilityBoundingSet"] for name in value.split()]
    words = ["nsenter", f"--net=/proc/{netns}/ns/net"] if netns else []
    if os.geteuid() == 0:
        bounds = ",".join(["-all", *(f"+{name}" for name in kept)])
        words += ["setpriv", "--inh-caps=-all", f"--bounding-set={bounds}"]
    return [*words, sys.executable, str(LAUNCHER), *map(str, files), "--"]


def confined(daemon, *drop_ins, netns=None):
    """Starts it under its unit's restrictions."""
    daemon.wrapper = launcher(daemon.program.removeprefix("qtrp-"), *drop_ins, netns=netns)
    return daemon.start()


def seccomp_mode(pid):
    """2: a filter; capabilities in effect."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return (int(re.search(r"^Seccomp:\s+(\d)", status, re.M).group(1)), int(re.search(r"^CapEff:\s+(\w+)", status, re.M).group(1), 16),
            int(re.search(r"^NoNewPrivs:\s+(\d)", status, re.M).group(1)))


WAYS = [("net", "tls"), ("epoll", "tls"), ("epoll", "chacha20"), ("epoll", "none"), ("quic", "tls")]


@pytest.mark.parametrize("transport,crypto", WAYS)
def test_both_daemons_work_under_their_units(lab, transport, crypto):
    """Names resolve, tunnels come and go, statistics answer, and nothing is called that the filter does not allow."""
    service, public = lab.echo(), lab.ports.take()
    common = {"transport": transport, "crypto": crypto, "keepalive": {"interval": "1s"}}
    server = lab.server(start=False, **common)
    client = lab.client(f"localhost:{server.config['bind'].rsplit(':', 1)[1]}",
                        [{"remote_port": public, "local_addr": f"localhost:{service.port}"}], start=False, **common)
    confined(server)
    server.wait_log("listening for tunnels")
    confined(client)
    wait_until(lambda: echo_works(public), "the confined tunnel to work", 20)
    for daemon in (server, client):
        assert seccomp_mode(daemon.pid) == (2, 0, 1)
        assert daemon.stats()["active_connections"] is not None
    # A large body through it (splice, large frames), then the server comes back.
    blob = os.urandom(8_000_000)
    with lab.connect(public) as user:
        user.settimeout(30 * SLOW)
        sender = threading.Thread(target=user.sendall, args=(blob,))
        sender.start()
        back = b""
        while len(back) < len(blob):
            part = user.recv(1 << 18)
            assert part
            back += part
        sender.join()
    assert back == blob
    server.stop()
    confined(server)
    wait_until(lambda: echo_works(public), "the tunnel to be back", 30)


def test_low_ports_need_the_drop_in(lab):
    """In a network namespace, where this machine's own port 80 is not in the way."""
    holder = lab.process(["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "sh", "-c", "ip link set lo up; exec sleep 600"])
    wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net") and "sleep" in
               pathlib.Path(f"/proc/{holder.pid}/cmdline").read_text(), "the namespace")
    server = lab.server(start=False, bind="127.0.0.1:80", stats=False)
    confined(server, netns=holder.pid)
    assert server.wait_exit() == 1
    assert "Permission denied" in server.log()
    confined(server, "low-ports.conf", netns=holder.pid)
    server.wait_log("listening for tunnels on 127.0.0.1:80")
    assert seccomp_mode(server.pid)[1] == 1 << 10  # CAP_NET_BIND_SERVICE and nothing else


def congestion(daemon):
    return daemon.wait_log("congestion control: (.*)").group(1)


def test_brutal_needs_the_drop_in_and_nothing_else(lab):
    """With the drop-in it chooses what it would choose with every capability; without, it says what is missing and paces by itself."""
    server = lab.server(start=False, transport="epoll", brutal={"enabled": True, "target_mbps": 50})
    with_everything = congestion(server.start())
    server.stop()
    assert congestion(confined(server, "brutal.conf")) == with_everything
    assert seccomp_mode(server.pid)[1] == 1 << 12 | 1 << 38 | 1 << 39  # NET_ADMIN, PERFMON, BPF
    server.stop()
    assert "pacer" in congestion(confined(server))
