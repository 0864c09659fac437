"""The dashboard in a real browser, and the interfaces behind it: events, closing with the token, TLS."""

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time

import pytest

from chromium import PROGRAM, Chromium
from lab import body, connect, receive_exactly, wait_until

TOKEN = "the-operators-token-for-tests"


def ask(daemon, path, method="GET", token=None, send=None, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.stats_port, timeout=10)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if host:
        headers["Host"] = host
    connection.request(method, path, json.dumps(send) if send is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text.decode()


def with_dashboard(lab, *services, **config):
    """A server whose endpoint has a token, and a client; the ports behind them."""
    server = lab.server(stats={"listen": f"127.0.0.1:{lab.ports.take()}", "token": TOKEN},
                        log={"level": "debug", "access": str(lab.dir / "access.log")}, **config)
    client = lab.client(server, services, name="kitchen")
    return server, client, *(proxy["remote_port"] for proxy in client.config["proxies"])


def talking(port):
    user = connect(port)
    user.sendall(b"x")
    receive_exactly(user, 1)
    return user


def ends(user):
    with contextlib.suppress(ConnectionResetError):
        return user.recv(1) == b""
    return True


def access_ends(lab):
    return [json.loads(line)["end"] for line in (lab.dir / "access.log").read_text().splitlines()]


# The interfaces

def test_connections_are_listed_on_both_sides(lab):
    server, client, port = with_dashboard(lab, lab.echo())
    with talking(port) as user:
        address = "%s:%d" % user.getsockname()
        for daemon in (server, client):
            listed = json.loads(ask(daemon, "/api/connections")[1])
            (one,) = listed["connections"]
            assert listed["left_out"] == 0
            assert (one["user"], one["port"], one["proxy"]) == (address, port, str(port))
            assert (one["bytes_in"], one["bytes_out"]) == (1, 1)
            assert one["seconds"] >= 0
        assert one["local_addr"] == client.config["proxies"][0]["local_addr"]
    wait_until(lambda: json.loads(ask(server, "/api/connections")[1])["connections"] == [], "the list to be empty")


def test_an_operator_closes_a_connection(lab):
    server, _, port = with_dashboard(lab, lab.echo())
    with talking(port) as staying, talking(port) as leaving:
        address = "%s:%d" % leaving.getsockname()
        listed = json.loads(ask(server, "/api/connections")[1])["connections"]
        (number,) = [c["connection"] for c in listed if c["user"] == address]
        assert ask(server, "/api/connections/close", "POST", TOKEN, {"connection": number})[0] == 200
        assert ends(leaving)
        wait_until(lambda: access_ends(lab) == ["closed_by_operator"], "the access log")
        assert ask(server, "/api/connections/close", "POST", TOKEN, {"connection": number})[0] == 404
        staying.sendall(b"y")
        assert receive_exactly(staying, 1) == b"y"


def test_an_operator_closes_a_client_which_comes_back(lab):
    server, client, port = with_dashboard(lab, lab.echo())
    with talking(port) as user:
        (listed,) = json.loads(ask(server, "/api/clients")[1])
        assert listed["name"] == client.stats()["tunnels"][0]["client"]
        assert ask(server, "/api/clients/close", "POST", TOKEN, {"instance": listed["instance"]})[0] == 200
        assert ends(user)
    wait_until(lambda: access_ends(lab) == ["closed_by_operator"], "the access log")
    client.wait_log("connection lost")
    wait_until(lambda: talking(port).close() is None, "the client to be back")
    assert ask(server, "/api/clients/close", "POST", TOKEN, {"instance": "00" * 16})[0] == 404


def test_nothing_closes_without_the_token(lab):
    """From loopback too: a page of another site can make a browser send a request, but not one with our token."""
    server, client, port = with_dashboard(lab, lab.echo())
    open_server = lab.server(name="open")
    with talking(port) as user:
        number = json.loads(ask(server, "/api/connections")[1])["connections"][0]["connection"]
        order = {"connection": number}
        assert ask(server, "/api/connections/close", "POST", send=order)[0] == 401
        assert ask(server, "/api/connections/close", "POST", "wrong", order)[0] == 401
        assert ask(server, "/api/connections/close", "GET", TOKEN)[0] == 405
        assert ask(open_server, "/api/connections/close", "POST", send=order)[0] == 403
        assert ask(open_server, "/api/connections/close", "POST", "", order)[0] == 403
        for nonsense in (None, {}, [], {"connection": "1"}, {"connection": -1}, {"instance": "x"}):
            assert ask(server, "/api/connections/close", "POST", TOKEN, nonsense)[0] == 400, nonsense
        user.sendall(b"y")
        assert receive_exactly(user, 1) == b"y"


class Events:
    """A listener to /api/events."""

    def __init__(self, port, token=None, context=None):
        self.connection = (http.client.HTTPSConnection("localhost", port, timeout=20, context=context) if context
                           else http.client.HTTPConnection("127.0.0.1", port, timeout=20))
        self.connection.request("GET", "/api/events", headers={"Authorization": f"Bearer {token}"} if token else {})
        self.answer = self.connection.getresponse()

    def next(self):
        line = self.answer.readline()
        assert line.startswith(b"data: "), line
        assert self.answer.readline() == b"\n"
        return json.loads(line[6:])


def test_events_come_every_second(lab):
    server, _, port = with_dashboard(lab, lab.echo())
    events = Events(server.stats_port)
    assert events.answer.getheader("Content-Type") == "text/event-stream"
    first = events.next()
    assert first["stats"]["total_connections"] == 0
    with talking(port):
        seen = [events.next() for _ in range(3)]
    assert seen[-1]["stats"]["active_connections"] == 1
    assert seen[-1]["connections"][0]["port"] == port
    events.connection.close()


def test_listeners_are_bounded_and_forgotten(lab):
    server = lab.server()
    listeners = [Events(server.stats_port) for _ in range(16)]
    assert Events(server.stats_port).answer.status == 503
    for listener in listeners:
        listener.connection.close()
        listener.answer.close()
    wait_until(lambda: Events(server.stats_port).answer.status == 200, "room again")
    assert ask(server, "/healthz")[0] == 200


def test_a_listener_that_reads_nothing_holds_up_nobody(lab):
    server, _, port = with_dashboard(lab, lab.echo())
    lazy = socket.create_connection(("127.0.0.1", server.stats_port))
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    users = [talking(port) for _ in range(100)]  # large events
    events = Events(server.stats_port)
    for _ in range(4):
        events.next()
    for user in users:
        user.close()
    lazy.close()


def test_troubles_are_told(lab):
    server, _, _ = with_dashboard(lab, lab.echo())
    lab.client(server, [lab.echo()], name="stranger", token="not-the-right-token", wait=False)
    server.wait_log("denied: wrong token")
    (trouble,) = [t for t in json.loads(ask(server, "/api/troubles")[1]) if "denied" in t["text"]]
    assert trouble["level"] == "warning"
    assert abs(trouble["time_ms"] / 1000 - time.time()) < 60


def make_certificate(lab, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                    str(lab.dir / "stats.key"), "-out", str(lab.dir / "stats.crt"), "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(lab.dir / "stats.crt"))


def test_tls_with_a_certificate_that_a_reload_replaces(lab):
    context = make_certificate(lab, "first")
    server = lab.server(stats={"listen": f"127.0.0.1:{lab.ports.take()}", "token": TOKEN,
                               "tls": {"cert": str(lab.dir / "stats.crt"), "key": str(lab.dir / "stats.key")}})
    server.wait_log("statistics on https://")
    listening = Events(server.stats_port, TOKEN, context)
    listening.next()
    context = make_certificate(lab, "second")
    with pytest.raises(ssl.SSLCertVerificationError):
        Events(server.stats_port, TOKEN, context)
    server.signal(1)
    server.wait_log("reloaded")
    assert Events(server.stats_port, TOKEN, context).next()["stats"]["role"] == "server"
    listening.next()  # the connection that was there stays
    # Plain HTTP is no way in.
    plain = socket.create_connection(("127.0.0.1", server.stats_port), timeout=10)
    plain.sendall(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert b"200 OK" not in plain.recv(1000)


# In a browser

@pytest.fixture
def browser(lab):
    assert PROGRAM, "Chromium is not installed: bash cmake/install-deps.sh test"
    chromium = Chromium(lab.dir)
    yield chromium
    chromium.close()


class Traffic:
    """A user who sends and receives without a pause."""

    def __init__(self, port, pause=0.01):
        self.user = connect(port)
        self._pause, self._stop = pause, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        data = body(50_000)
        with contextlib.suppress(OSError, AssertionError):
            while not self._stop.wait(self._pause):
                self.user.sendall(data)
                receive_exactly(self.user, len(data))

    def end(self):
        self._stop.set()
        self._thread.join()
        self.user.close()


def row_of(user):
    """JavaScript: the table row of that user's connection."""
    return f"[...document.querySelectorAll('#connections tr')].find((row) => row.innerText.includes('{user}'))"


def test_the_page_shows_what_happens_as_it_happens(lab, browser):
    server, client, port = with_dashboard(lab, lab.echo())
    page = browser.open(f"http://127.0.0.1:{server.stats_port}/")
    page.wait("document.getElementById('clients').innerText.includes('kitchen') || document.getElementById('clients').rows.length > 1")
    assert "no user is connected" in page.text("connections")
    traffic = Traffic(port)
    address = "%s:%d" % traffic.user.getsockname()
    page.wait(f"document.getElementById('connections').innerText.includes('{address}')")
    page.wait("parseFloat(document.getElementById('in').innerText) > 0.1")
    total = page.text("bytes-in")
    page.wait(f"document.getElementById('bytes-in').innerText !== {json.dumps(total)}")
    tunnel = server.stats()["tunnels"][0]
    for part in (tunnel["transport"], tunnel["cipher"], tunnel["congestion"], "ms"):
        assert part in page.text("tunnels")
    # Light, dark and on a phone: readable means also that nothing sticks out sideways.
    colours = set()
    for width, height, scheme, mobile in ((1200, 800, "light", False), (1200, 800, "dark", False), (360, 740, "dark", True)):
        page.show_as(width, height, scheme, mobile)
        page.wait(f"innerWidth === {width}")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), width
        colours.add(page.run("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    traffic.end()
    page.wait("document.getElementById('connections').innerText.includes('no user is connected')")
    # One page without anything from outside, and nothing that its own security policy had to refuse.
    assert {url.split("/")[2] for url in page.requested() if not url.startswith("about:")} == {f"127.0.0.1:{server.stats_port}"}
    assert page.complaints() == []


def test_names_of_peers_are_only_ever_text(lab, browser):
    server = lab.server()
    name = "<img src=x onerror=document.title='owned'>"
    lab.client(server, [{"remote_port": lab.ports.take(), "local_addr": lab.echo().address, "name": name}])
    page = browser.open(f"http://127.0.0.1:{server.stats_port}/")
    page.wait(f"document.getElementById('proxies').innerText.includes({json.dumps(name)})")
    assert page.run("document.title") == "QTRP"


def test_an_operator_signs_in_and_closes_a_connection(lab, browser):
    server, _, port = with_dashboard(lab, lab.echo())
    page = browser.open(f"http://127.0.0.1:{server.stats_port}/")
    with talking(port) as user:
        address = "%s:%d" % user.getsockname()
        page.wait(row_of(address))
        assert page.run("document.querySelectorAll('td button').length") == 0  # nobody has signed in
        page.run("document.getElementById('sign').click()")
        page.run(f"document.getElementById('token').value = '{TOKEN}', document.getElementById('login').requestSubmit()")
        page.wait(f"{row_of(address)}?.querySelector('button')?.innerText === 'Close'")
        page.run(f"{row_of(address)}.querySelector('button').click()")
        page.wait(f"{row_of(address)}.querySelector('button').innerText === 'Sure?'")
        user.sendall(b"y")
        assert receive_exactly(user, 1) == b"y"  # asked once only
        page.run(f"{row_of(address)}.querySelector('button').click()")
        assert ends(user)
        page.wait(f"!{row_of(address)}")
    wait_until(lambda: access_ends(lab) == ["closed_by_operator"], "the access log")


def test_the_page_survives_the_daemons_restart(lab, browser):
    server, _, _ = with_dashboard(lab, lab.echo())
    page = browser.open(f"http://127.0.0.1:{server.stats_port}/")
    page.wait("document.getElementById('clients').rows.length > 1")
    server.stop()
    page.wait("document.getElementById('state').innerText.includes('the figures are old')")
    server.start()
    page.wait("document.getElementById('state').innerText === '' && document.getElementById('uptime').innerText !== ''", 30)


def test_beyond_loopback_the_page_asks_for_the_token(lab, browser):
    """A name stands in for another machine: the rule for both is the same."""
    server, _, _ = with_dashboard(lab, lab.echo())
    status, page_text = ask(server, "/", host="stats.example.com")
    assert status == 200 and "<form" in page_text
    assert ask(server, "/api/events", host="stats.example.com")[0] == 401
    assert ask(server, "/api/connections", host="stats.example.com")[0] == 401
    assert ask(server, "/api/connections", host="stats.example.com", token=TOKEN)[0] == 200
    page = browser.open(f"http://localhost.localdomain:{server.stats_port}/" if resolves("localhost.localdomain")
                        else f"http://qtrp.localhost:{server.stats_port}/")  # Chromium leads *.localhost to loopback
    page.wait("!document.getElementById('login').hidden")
    assert page.run("document.getElementById('content').hidden")
    page.run("document.getElementById('token').value = 'wrong', document.getElementById('login').requestSubmit()")
    page.wait("document.getElementById('state').innerText.includes('not the right one')")
    page.run(f"document.getElementById('token').value = '{TOKEN}', document.getElementById('login').requestSubmit()")
    page.wait("!document.getElementById('content').hidden && document.getElementById('clients').rows.length > 1")


def resolves(name):
    with contextlib.suppress(OSError):
        return socket.gethostbyname(name).startswith("127.")
    return False
