"""Our chacha20 record layer against the Python package noiseprotocol, both ways round.

Usage: noise_interop.py NOISE_PEER. The key derivation, the hint and the lengths are written here a second time, from docs/protocol.md.
"""

import hashlib
import random
import struct
import subprocess
import sys

from noise.connection import NoiseConnection

SECRET = "a token for interoperation"
PEER = sys.argv[1]


def derive(secret, person):
    return hashlib.blake2b(secret.encode(), digest_size=32, person=person).digest()


class Peer:
    """Our executable in a pipe."""

    def __init__(self, role, secret=SECRET):
        self.process = subprocess.Popen(
            [PEER, role, secret], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def send(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self, size):
        data = self.process.stdout.read(size)
        assert len(data) == size, (len(data), size, self.process.stderr.read())
        return data

    def read_message(self):
        return self.read(struct.unpack(">H", self.read(2))[0])

    def finish(self):
        """Ends its input; gives the rest of its output, its error text and its exit code."""
        rest, errors = self.process.communicate(timeout=20)
        return rest, errors.decode(), self.process.returncode


def framed(message):
    return struct.pack(">H", len(message)) + message


def connection(psk):
    noise = NoiseConnection.from_name(b"Noise_NNpsk0_25519_ChaChaPoly_BLAKE2b")
    noise.set_psks(psk)
    noise.set_prologue(b"qtrp 1")
    return noise


def connect(our_role):
    """An established pair: our executable in `our_role`, the Python package in the other."""
    noise = connection(derive(SECRET, b"qtrp-psk"))
    peer = Peer(our_role)
    if our_role == "server":
        noise.set_as_initiator()
        noise.start_handshake()
        first = noise.write_message()
        hint = hashlib.blake2b(first[:32], digest_size=8, key=derive(SECRET, b"qtrp-hint")).digest()
        peer.send(hint + framed(first))
        assert noise.read_message(peer.read_message()) == b""
    else:
        noise.set_as_responder()
        noise.start_handshake()
        hint = peer.read(8)
        first = peer.read_message()
        assert hint == hashlib.blake2b(first[:32], digest_size=8, key=derive(SECRET, b"qtrp-hint")).digest()
        assert noise.read_message(first) == b""
        peer.send(framed(noise.write_message()))
    assert noise.handshake_finished
    return noise, peer


def echo(our_role):
    noise, peer = connect(our_role)
    generator = random.Random(34)
    for size in [1, 2, 15, 16, 17, 1000, 16384, 65518, 65519] + [generator.randrange(1, 2000) for _ in range(300)]:
        plain = generator.randbytes(size)
        peer.send(framed(noise.encrypt(plain)))
        assert noise.decrypt(peer.read_message()) == plain, size
    rest, errors, code = peer.finish()
    assert code == 0, (code, errors)
    assert errors.strip() == noise.get_handshake_hash().hex(), "the handshake hashes differ"
    # The goodbye: one record without plaintext.
    assert noise.decrypt(rest[2:]) == b"" and len(rest) == 18


def tampered(our_role):
    noise, peer = connect(our_role)
    record = bytearray(framed(noise.encrypt(b"all is well")))
    record[7] ^= 1
    peer.send(bytes(record))
    rest, errors, code = peer.finish()
    assert (rest, code) == (b"", 3) and "does not authenticate" in errors, (rest, errors, code)


def wrong_key():
    noise = connection(derive("another token", b"qtrp-psk"))
    noise.set_as_initiator()
    noise.start_handshake()
    first = noise.write_message()
    right_hint = hashlib.blake2b(first[:32], digest_size=8, key=derive(SECRET, b"qtrp-hint")).digest()
    wrong_hint = hashlib.blake2b(first[:32], digest_size=8, key=derive("another token", b"qtrp-hint")).digest()
    for hint, text in ((right_hint, "does not authenticate"), (wrong_hint, "no token here fits")):
        peer = Peer("server")
        peer.send(hint + framed(first))
        rest, errors, code = peer.finish()
        assert (rest, code) == (b"", 3) and text in errors, (rest, errors, code)


for role in ("server", "client"):
    echo(role)
    tampered(role)
wrong_key()
print("noise: both roles interoperate")
