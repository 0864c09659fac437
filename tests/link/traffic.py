"""Traffic over a test link: UDP round trips, and TCP or UDP streams by iperf3."""

import json
import socket
import subprocess
import threading
import time

from testlink import TestLink, find_binary


def round_trips(link: TestLink, count, gap=0.0, timeout=1.0, family=4):
    """Sends `count` datagrams from b to an echo in a, one after another; the round trips in ms of those that came back."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with link.inside("a"):
        echo = socket.socket(kind, socket.SOCK_DGRAM)
        echo.bind((link.address("a", family), 0))
    with link.inside("b"):
        ping = socket.socket(kind, socket.SOCK_DGRAM)
        ping.bind((link.address("b", family), 0))
    done = threading.Event()
    echo.settimeout(0.1)

    def answer():
        while not done.is_set():
            try:
                data, sender = echo.recvfrom(2000)
            except TimeoutError:
                continue
            echo.sendto(data, sender)

    thread = threading.Thread(target=answer)
    thread.start()
    ping.settimeout(timeout)
    result = []
    try:
        for i in range(count):
            start = time.monotonic()
            ping.sendto(str(i).encode(), echo.getsockname())
            try:
                while ping.recv(2000) != str(i).encode():
                    pass
                result.append((time.monotonic() - start) * 1000)
            except TimeoutError:
                pass
            if gap:
                time.sleep(gap)
    finally:
        done.set()
        thread.join()
        echo.close()
        ping.close()
    return result


def flood(link: TestLink, count, size=100):
    """Sends `count` datagrams from b to a's discard port as fast as 10,000 a second, without waiting for anything."""
    with link.inside("b"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start = time.monotonic()
    for i in range(count):
        sender.sendto(bytes(size), (link.address("a"), 9))
        ahead = start + i / 10_000 - time.monotonic()
        if ahead > 0.002:
            time.sleep(ahead)
    sender.close()


def iperf3(link: TestLink, *extra, seconds=4, sender="b", port=5201):
    """One iperf3 run; its JSON. iperf3 chooses no free port itself, but the namespace is ours alone."""
    receiver = "a" if sender == "b" else "b"
    server = link.popen(receiver, ["iperf3", "-s", "-1", "-p", port], stdout=-3)
    link.wait_listening(receiver, port)
    out = link.run(sender, ["iperf3", "-c", link.address(receiver), "-p", port, "-J", "-t", seconds, *extra], timeout=seconds + 30)
    server.wait(timeout=10)
    return json.loads(out.stdout)


def goodput(report):
    """Mbit/s that arrived, of iperf3's report."""
    return report["end"]["sum_received"]["bits_per_second"] / 1e6


def stream(link: TestLink, seconds=6, target=0, mode="auto", congestion=None, sender="b", prefix=()):
    """One TCP stream of qtrp-stream under the pacing room; what the receiver saw and what the sender ran, merged."""
    receiver = "a" if sender == "b" else "b"
    program = find_binary("qtrp-stream")
    sink = link.popen(receiver, [program, "receive"], stdout=subprocess.PIPE, text=True)
    port = sink.stdout.readline().strip()
    argv = [*prefix, program, "send", link.address(receiver), port, seconds, target, mode, *([congestion] if congestion else [])]
    sent = link.run(sender, argv, timeout=seconds + 60, stdin=subprocess.DEVNULL)
    received, _ = sink.communicate(timeout=30)
    return json.loads(received) | json.loads(sent.stdout.splitlines()[-1])


def echo_service(link: TestLink, side, port, host="127.0.0.1"):
    """A TCP echo on the side's loopback, or on another address of it, until the process ends."""
    with link.inside(side):
        listener = socket.create_server((host, port))

    def serve(connection):
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def message_times(link: TestLink, side, host, port, seconds, gap=0.1):
    """64 bytes there and back over one connection, one after another; sorted round trips in ms. OSError if the connection is lost."""
    with link.inside(side):
        connection = socket.create_connection((host, port), timeout=20)
    result = []
    until = time.monotonic() + seconds
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (start := time.monotonic()) < until:
            connection.sendall(bytes(64))
            left = 64
            while left:
                data = connection.recv(left)
                if not data:
                    raise ConnectionError("closed in the middle")
                left -= len(data)
            result.append((time.monotonic() - start) * 1000)
            time.sleep(max(0, start + gap - time.monotonic()))
    return sorted(result)
