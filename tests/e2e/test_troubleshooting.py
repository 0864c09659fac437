"""Makes each of the errors of docs/troubleshooting.md and finds its exact text in the log of the side that the page names."""

import datetime
import os
import pathlib
import re
import socket
import subprocess

import pytest

from lab import connect, wait_until

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
BLOCK = re.compile(r"^```(client|server)\n(.*?)\n```$", re.M | re.S)


def sections():
    """Each heading of the third level with its log lines: [(side, line)]."""
    found = {}
    for part in re.split(r"^### ", PAGE.read_text(), flags=re.M)[1:]:
        title, text = part.split("\n", 1)
        found[title] = [(side, line) for side, lines in BLOCK.findall(re.split(r"^## ", text, flags=re.M)[0]) for line in lines.splitlines()]
    return found


def pattern(line):
    """The line of the page as a pattern: what is in angle brackets may be anything, a number where it is called N."""
    parts = re.split(r"(<[A-Z:]+>)", line)
    return "".join({"<N>": r"-?\d+", "<HEX>": "[0-9a-f]{64}", "<PORT>": r"\d+"}.get(part, r".*?") if part.startswith("<") and
                   part.endswith(">") else re.escape(part) for part in parts) + "$"


ERRORS = {}


def makes(title):
    def register(function):
        ERRORS[title] = function
        return function
    return register


def proxy(lab, **more):
    return {"name": "web", "remote_port": lab.ports.take(), "local_addr": "127.0.0.1:9"} | more


@makes("The name does not resolve")
def name(lab):
    # No dot and no such host: at most the machine's own resolver is asked, in a namespace without any network.
    client = lab.client("no-such-host.invalid:6000", [proxy(lab)], start=False, transport="net")
    client.wrapper = ["unshare", "--map-root-user", "--net"]
    return {"client": client.start()}


@makes("Nothing listens there")
def nothing_listens(lab):
    return {"client": lab.client(f"127.0.0.1:{lab.ports.take()}", [proxy(lab)], transport="net")}


@makes("Nothing answers")
def nothing_answers(lab):
    """A listener whose queue is full does not answer a SYN."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        fillers.append(filler)
    lab.kept = (listener, fillers)
    return {"client": lab.client(f"127.0.0.1:{port}", [proxy(lab)], transport="net", connect_timeout="1s")}


@makes("UDP is blocked")
def udp_blocked(lab):
    """A socket that takes every datagram and says nothing."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    lab.kept = sink
    return {"client": lab.client(f"127.0.0.1:{sink.getsockname()[1]}", [proxy(lab)], transport="quic", crypto="tls", connect_timeout="1s")}


@makes("The other transport is spoken there")
def no_quic_there(lab):
    server = lab.server(transport="net", crypto="tls")
    return {"client": lab.client(server, [proxy(lab)], transport="quic", wait=False)}


@makes("The token is refused")
def token(lab):
    server = lab.server(crypto="tls")
    return {"server": server, "client": lab.client(server, [proxy(lab)], token=lab.secret(), wait=False)}


@makes("The certificate's pin differs")
def pin(lab):
    server = lab.server(transport="net", crypto="tls")
    return {"client": lab.client(server, [proxy(lab)], transport="net", tls={"pin": "sha256:" + 64 * "0"}, wait=False)}


SHIM = """
#define _GNU_SOURCE
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  long done = syscall(SYS_clock_gettime, clock, now);
  if (done == 0 && clock == CLOCK_REALTIME) now->tv_sec += 86400;
  return (int)done;
}
"""


@makes("The clock is off")
def clock(lab):
    source, library = lab.dir / "shim.c", lab.dir / "shim.so"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    server = lab.server(crypto="none")
    client = lab.client(server, [proxy(lab)], start=False)
    client.wrapper = ["env", f"LD_PRELOAD={library}", "ASAN_OPTIONS=verify_asan_link_order=0"]
    return {"server": server, "client": client.start()}


@makes("The settings differ")
def settings(lab):
    server = lab.server(crypto="none")
    return {"client": lab.client(server, [proxy(lab)], crypto="tls", wait=False)}


@makes("The tunnel's port is taken")
def tunnel_port(lab):
    first = lab.server()
    second = lab.server(name="second", bind=first.config["bind"], start=False)
    second.start()
    assert second.wait_exit() == 1
    return {"server": second}


@makes("A proxy's port is taken")
def proxy_port(lab):
    service = lab.echo()
    server = lab.server()
    return {"server": server, "client": lab.client(server, [proxy(lab, remote_port=service.port)], wait=False)}


@makes("A port below 1024")
def low_port(lab):
    server = lab.server(start=False)
    server.wrapper = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    server.start().wait_log("listening for tunnels")
    lab.client(server, [proxy(lab, remote_port=1)], wait=False)
    return {"server": server}


@makes("The port is not allowed")
def not_allowed(lab):
    server = lab.server(ports="1-2")
    return {"client": lab.client(server, [proxy(lab)], wait=False)}


@makes("The local service is down")
def local_service(lab):
    server = lab.server()
    closed = lab.ports.take()
    client = lab.client(server, [proxy(lab, local_addr=f"127.0.0.1:{closed}")])
    with pytest.raises(ConnectionError), connect(client.config["proxies"][0]["remote_port"]) as user:
        user.sendall(b"hello")
        while user.recv(100):
            pass
        raise AssertionError("the user's connection ended cleanly")
    return {"client": client}


@makes("Others can read a key")
def open_key(lab):
    (lab.dir / "server.crt").write_text("not looked into")
    (lab.dir / "server.key").write_text("not looked into")
    (lab.dir / "server.key").chmod(0o644)
    server = lab.server(start=False, crypto="tls", tls={"cert": "server.crt", "key": "server.key"})
    assert server.start().wait_exit() == 2
    return {"server": server}


def test_every_section_of_the_page_is_made_here():
    assert set(sections()) == set(ERRORS)
    assert all(sections().values())


@pytest.mark.parametrize("title", sections())
def test_the_log_says_what_the_page_says(lab, title):
    daemons = ERRORS[title](lab)
    for side, line in sections()[title]:
        daemon = daemons[side]
        found = re.compile(pattern(line), re.M)
        try:
            wait_until(lambda daemon=daemon, found=found: found.search(daemon.log()), title)
        except AssertionError:
            raise AssertionError(f"the {side}'s log lacks\n  {line}\nit is\n{daemon.log()}") from None
    if title == "The clock is off":
        assert datetime.timedelta(hours=23, minutes=59) < datetime.timedelta(seconds=abs(int(
            re.search(r"differs by (-?\d+) s", daemons["client"].log()).group(1)))) < datetime.timedelta(hours=24, minutes=1)
