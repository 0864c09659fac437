#!/usr/bin/env python3
"""Many quiet connections over a tunnel: each sends 100 bytes ten times a second to an echo and times the answer. A process of its own, one
thread and a selector, so that the load it makes is not the delay it measures.

    chatter.py serve PORT                      an echo on 127.0.0.1
    chatter.py send HOST PORT COUNT SECONDS    prints {"p50": ms, "p99": ms, "messages": n, "late": share sent 5 ms late or more}"""

import heapq
import json
import selectors
import socket
import sys
import time

SIZE, GAP = 100, 0.1


def serve(port):
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(65536)
                if data:
                    key.fileobj.sendall(data)
                    continue
            except OSError:
                pass
            selector.unregister(key.fileobj)
            key.fileobj.close()


def send(host, port, count, seconds):
    selector = selectors.DefaultSelector()
    sent, got, times = {}, {}, []
    connections = []
    for _ in range(count):
        one = socket.create_connection((host, port), timeout=20)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(one, selectors.EVENT_READ)
        sent[one], got[one] = [], 0
        connections.append(one)
    start = time.monotonic()
    due = [(start + GAP * i / count, i) for i in range(count)]
    late = messages = 0
    while due or any(sent.values()):
        now = time.monotonic()
        while due and due[0][0] <= now:
            at, i = heapq.heappop(due)
            connections[i].sendall(bytes(SIZE))
            moment = time.monotonic()
            sent[connections[i]].append(moment)
            late += moment - at > 0.005
            messages += 1
            if at + GAP < start + seconds:
                heapq.heappush(due, (at + GAP, i))
        if now > start + seconds + 20:
            raise TimeoutError("some messages were not answered within 20 s")
        for key, _ in selector.select(max(0, due[0][0] - now) if due else 1):
            one = key.fileobj
            data = one.recv(65536)
            if not data:
                raise ConnectionError("closed in the middle")
            got[one] += len(data)
            while got[one] >= SIZE:
                got[one] -= SIZE
                times.append((time.monotonic() - sent[one].pop(0)) * 1000)
    times.sort()
    print(json.dumps({"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "messages": messages, "late": late / messages}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
