"""A second client, written by hand from docs/protocol.md: `crypto: none`, smux version 2, no extensions. The tests use it to say what
no real client would."""

import hashlib
import hmac
import os
import socket
import struct
import time

import msgpack

from lab import SLOW, connect, receive_exactly

SYN, FIN, PSH, NOP, UPD = 0, 1, 2, 3, 4
CONTROL = 3  # the client's first stream


def preface(*, magic=b"QTRP", version=1, mux=2, flags=0, max_frame=65535, window=0):
    return struct.pack(">4sBBHII16x", magic, version, mux, flags, max_frame, window)


def frame(command, stream, payload=b"", version=2, length=None):
    return struct.pack("<BBHI", version, command, len(payload) if length is None else length, stream) + payload


def message(**content):
    packed = msgpack.packb(content)
    return struct.pack(">I", len(packed)) + packed


def proof(token, *parts):
    mac = hmac.new(token.encode(), digestmod=hashlib.sha256)
    for part in parts:
        mac.update(struct.pack(">I", len(part)) + part)
    return mac.digest()


class WireClient:
    def __init__(self, port, token, **preface_fields):
        self.token = token
        self.socket = connect(port)
        self.preface = preface(**preface_fields)
        self.streams = {}  # id -> bytearray of what arrived
        self.ended = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def auth(self, **changed):
        """The Auth message. `changed` replaces keys of its body; the proof is over what is sent."""
        body = msgpack.packb({"version": 1, "instance": os.urandom(16), "run": os.urandom(16), "tunnel": 0, "name": "wire",
                              "time": int(time.time() * 1000), "nonce": os.urandom(32), "features": []} | changed)
        self.client_proof = proof(self.token, b"qtrp client proof", b"", self.preface, body)
        return message(t="auth", body=body, hmac=self.client_proof)

    def begin(self):
        """Preface and the control stream."""
        self.send(self.preface + frame(SYN, CONTROL))

    def say(self, data, stream=CONTROL):
        """Bytes on a stream, in frames."""
        for at in range(0, len(data), 60_000):
            self.send(frame(PSH, stream, data[at:at + 60_000]))

    def authenticate(self, **changed):
        """The whole greeting; returns the decoded body of the server's answer and checks the server's proof."""
        self.begin()
        self.say(self.auth(**changed))
        self.read_preface()
        answer = self.next_message()
        assert answer["t"] == "auth_resp"
        body = msgpack.unpackb(answer["body"])
        if body["ok"]:
            expected = proof(self.token, b"qtrp server proof", b"", self.preface, self.server_preface, self.client_proof, answer["body"])
            assert answer["hmac"] == expected
        return body

    def read_preface(self):
        self.server_preface = receive_exactly(self.socket, 32)
        assert self.server_preface[:4] == b"QTRP"

    def read_frame(self):
        """Takes one frame: its command and stream; payload is put with its stream and credited at once."""
        version, command, length, stream = struct.unpack("<BBHI", receive_exactly(self.socket, 8))
        assert version == 2
        payload = receive_exactly(self.socket, length)
        if command == SYN:
            self.streams[stream] = bytearray()
        elif command == PSH:
            self.streams.setdefault(stream, bytearray()).extend(payload)
            self.consumed = getattr(self, "consumed", {})
            self.consumed[stream] = self.consumed.get(stream, 0) + length
            self.send(frame(UPD, stream, struct.pack("<II", self.consumed[stream], 2 << 20)))
        elif command == FIN:
            self.ended.add(stream)
        return command, stream

    def next_message(self, stream=CONTROL):
        while True:
            got = self.streams.setdefault(stream, bytearray())
            if len(got) >= 4:
                (length,) = struct.unpack(">I", got[:4])
                if len(got) >= 4 + length:
                    packed = bytes(got[4:4 + length])
                    del got[:4 + length]
                    return msgpack.unpackb(packed)
            self.read_frame()

    def register(self, number, port):
        self.say(message(t="new_proxy", id=number, name=f"wire-{number}", type="tcp", bind="", port=port))
        while (answer := self.next_message())["t"] != "proxy_resp":
            pass
        return answer

    def accept(self):
        """The next stream that the server opens, and its NewConn."""
        known = set(self.streams)
        while not (new := set(self.streams) - known - {CONTROL}):
            self.read_frame()
        (stream,) = new
        return stream, self.next_message(stream)

    def closed(self, timeout=15):
        """Waits until the server has closed the connection."""
        self.socket.settimeout(timeout * SLOW)
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True
