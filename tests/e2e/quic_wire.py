"""What a watcher of a QUIC connection sees, and what the network in between may do: the ClientHello in an Initial packet (RFC 9001, section
5.2), and a path whose address changes."""

import hashlib
import hmac
import selectors
import socket
import threading

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

INITIAL_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")


def _expand_label(secret, label, length):
    """HKDF-Expand-Label (RFC 8446, section 7.1) for at most 32 bytes."""
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
    return hmac.new(secret, info + b"\x01", hashlib.sha256).digest()[:length]


def _varint(data, at):
    length = 1 << (data[at] >> 6)
    return int.from_bytes(data[at:at + length], "big") & ((1 << (8 * length - 2)) - 1), at + length


class Initial:
    """A client's Initial packet, opened: version, length of the connection ids, and its CRYPTO data by offset."""

    def __init__(self, datagram):
        assert datagram[0] & 0xB0 == 0x80, "no Initial packet"
        self.version = int.from_bytes(datagram[1:5], "big")
        at = 6 + datagram[5]
        destination = datagram[6:at]
        source_length = datagram[at]
        at += 1 + source_length
        token_length, at = _varint(datagram, at)
        at += token_length
        length, at = _varint(datagram, at)
        self.id_lengths = (len(destination), source_length)
        initial = hmac.new(INITIAL_SALT, destination, hashlib.sha256).digest()
        secret = _expand_label(initial, b"client in", 32)
        key, iv = _expand_label(secret, b"quic key", 16), _expand_label(secret, b"quic iv", 12)
        protection = Cipher(algorithms.AES(_expand_label(secret, b"quic hp", 16)), modes.ECB()).encryptor()
        mask = protection.update(datagram[at + 4:at + 20])
        first = datagram[0] ^ (mask[0] & 0x0F)
        size = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(datagram[at:at + size], mask[1:]))
        header = bytes([first]) + datagram[1:at] + number
        nonce = (int.from_bytes(iv, "big") ^ int.from_bytes(number, "big")).to_bytes(12, "big")
        self.crypto = self._frames(AESGCM(key).decrypt(nonce, datagram[at + size:at + length], header))

    @staticmethod
    def _frames(payload):
        found, at = {}, 0
        while at < len(payload):
            kind = payload[at]
            at += 1
            if kind in (0, 1):  # PADDING, PING
                continue
            assert kind == 6, f"frame {kind:#x} in an Initial packet"
            offset, at = _varint(payload, at)
            length, at = _varint(payload, at)
            found[offset] = payload[at:at + length]
            at += length
        return found


class ClientHello:
    """Protocols offered by ALPN, the server's name (SNI), and the extensions' numbers in order."""

    def __init__(self, message):
        assert message[0] == 1, "no ClientHello"
        at = 4 + 2 + 32
        at += 1 + message[at]
        at += 2 + int.from_bytes(message[at:at + 2], "big")
        at += 1 + message[at]
        end = at + 2 + int.from_bytes(message[at:at + 2], "big")
        at += 2
        self.extensions, self.alpn, self.server_name = [], [], None
        while at < end:
            kind, length = int.from_bytes(message[at:at + 2], "big"), int.from_bytes(message[at + 2:at + 4], "big")
            body = message[at + 4:at + 4 + length]
            self.extensions.append(kind)
            if kind == 16:
                rest = body[2:]
                while rest:
                    self.alpn.append(rest[1:1 + rest[0]].decode())
                    rest = rest[1 + rest[0]:]
            elif kind == 0:
                self.server_name = body[5:].decode()
            at += 4 + length


def first_flight(port, provoke, timeout=20.0):
    """The first Initial packet that comes to UDP `port` after provoke(), and its ClientHello. Nobody answers it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", port))
        listener.settimeout(timeout)
        provoke()
        message, initial = b"", None
        while initial is None or len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
            packet = Initial(listener.recv(65535))
            initial = initial or packet
            for offset in sorted(packet.crypto):
                if offset == len(message):
                    message += packet.crypto[offset]
        return initial, ClientHello(message)


class ChangingPath:
    """A UDP path to `server` (host, port) as a NAT makes it: what comes to `address` is passed on from a socket of its own. rebind() takes
    another one, so that the server sees the client at another address from then on."""

    def __init__(self, server):
        self._server = server
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self._front.getsockname()[1])
        self._client = None
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        for one in (self._front, self._woken):
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ)
        self._back = self._new_back()
        self.passed = 0  # datagrams, both ways
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._wake.send(b"q")
        self._thread.join()
        for one in (self._front, self._back, self._wake, self._woken):
            one.close()

    def _new_back(self):
        back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        back.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        back.connect(self._server)
        back.setblocking(False)
        return back

    def rebind(self):
        """From now on from another address; returns that."""
        fresh = self._new_back()
        with self._lock:
            old, self._back = self._back, fresh
        old.close()  # what is still on its way to it is lost
        self._wake.send(b"w")
        return fresh.getsockname()

    def _run(self):
        watched = None
        while True:
            with self._lock:
                back = self._back
            if back is not watched:
                if watched is not None:
                    self._selector.unregister(watched)
                self._selector.register(back, selectors.EVENT_READ)
                watched = back
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    if b"q" in self._woken.recv(100):
                        return
                else:
                    self._pass_on(key.fileobj, back)

    def _pass_on(self, source, back):
        for _ in range(64):
            try:
                data, sender = source.recvfrom(65535)
                if source is self._front:
                    self._client = sender
                    back.send(data)
                else:
                    self._front.sendto(data, self._client)
                self.passed += 1
            except OSError:  # nothing there; or, as with any datagram, it is lost
                return
