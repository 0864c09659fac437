#!/usr/bin/env python3
"""Tests of the tests: breaks one chosen line at a time, builds, and runs the tests that should notice. Every mutant must be caught.

    python3 tests/mutations.py              all, in build/release (some ten minutes)
    python3 tests/mutations.py channel psk  those whose name contains a word

Each file is put back as it was. docs/testing.md lists them."""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/release"

# name, file, what stands there, what it becomes, test program, its filter
MUTANTS = [
    ("channel binding left out of the proof", "src/protocol/proof.cpp",
     '      .part(as_bytes("qtrp client proof"))\n      .part(channel_binding)\n', '      .part(as_bytes("qtrp client proof"))\n      .part(channel_binding.first(0))\n',
     "server_test", "GateTest.*"),
    ("replayed nonces accepted", "src/server/gate.cpp", "!nonces_.first_time(body->nonce, now)", "(nonces_.first_time(body->nonce, now), false)",
     "server_test", "GateTest.*"),
    ("psk not mixed in by the responder", "src/crypto/noise_handshake.cpp",
     "if (turn == 0) state_.mix_key_and_hash(psk_.span());", "if (turn == 9) state_.mix_key_and_hash(psk_.span());",
     "crypto_test", "*Noise*"),
    ("any certificate has the pin", "src/crypto/tls_context.cpp", "if (sodium_memcmp(pin.data(), digest.data(), digest.size()) == 0) return true;",
     "if (sodium_memcmp(pin.data(), digest.data(), digest.size()) != 2) return true;", "crypto_test", "*Tls*"),
    ("messages behind a fatal one are acted on (server)", "src/server/peer.cpp",
     "  if (state_ == State::ended) return;  // what stood behind the message that ended it\n", "", "server_test", "*Peer*"),
    ("messages behind a fatal one are acted on (client)", "src/client/link.cpp",
     "  if (state_ == State::idle) return;  // what stood behind the message that ended the session\n", "", "client_test", "*Link*"),
    ("a stranger may fill the whole buffer", "src/tunnel/tunnel_session.cpp", "    o.session_buffer = 64 << 10;\n", "", "tunnel_test", "*Trouble*"),
    ("a reset looks like a clean end", "src/relay/relay.cpp", "    if (end == End::finished) {", "    if (end != End::session_lost) {", "relay_test", "*"),
    ("a window grows when the link is slow instead of fast", "src/mux/flow_control.cpp", "if (now - stream.tune_began <= kRoundTrips * rtt)",
     "if (now - stream.tune_began >= kRoundTrips * rtt)", "mux_test", "*"),
    ("Brutal counts seconds that are long past", "src/pacing/ack_rate.cpp", "    if (slot.second < oldest) continue;\n", "    if (slot.second < oldest) acknowledged += 0;\n", "pacing_test", "*AckRate*"),
    ("the key file is open to everybody", "src/identity/state_file.cpp", "::fchmod(file.get(), 0600)", "::fchmod(file.get(), 0644)", "identity_test", "*"),
    ("the bandwidth forgets to divide by time", "src/stats/rate_meter.cpp", "static_cast<double>(newest.total - at(oldest).total) / seconds : 0",
     "static_cast<double>(newest.total - at(oldest).total) : seconds", "stats_test", "*Rate*"),
    ("a number beyond 64 bits becomes something else", "src/config/units.cpp", "if (error != std::errc{}) return std::nullopt;\n  return value;\n}\n\nstd::optional<double> parse_number",
     "if (error == std::errc::invalid_argument) return std::nullopt;\n  return value;\n}\n\nstd::optional<double> parse_number", "config_test", "*"),
    ("IPv6 strangers counted by address", "src/io/endpoint.cpp", "  std::memset(&network.s6_addr[8], 0, 8);\n", "", "io_test", "Endpoint*"),
    ("an unfinished record keeps a whole buffer", "src/tunnel/tunnel_session.cpp", "  if (!authenticated_ && in_.size > 0) {", "  if (false) {",
     "tunnel_test", "*Record*"),
    ("a read that stops at urgent data counts as drained", "src/io/socket.cpp", "!peer_closed_ && !urgent_", "!peer_closed_", "io_test", "*Urgent*"),
]


def caught(program, selection):
    """Whether the tests fail, as they should; a crash and a hang count as noticed."""
    build = subprocess.run(["cmake", "--build", BUILD, "--target", program], capture_output=True, text=True)
    if build.returncode != 0:
        raise SystemExit("the mutant does not compile:\n" + build.stdout[-3000:])
    try:
        return subprocess.run([BUILD / "tests" / program, f"--gtest_filter={selection}"], capture_output=True, timeout=300).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main():
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(word in m[0] for word in sys.argv[1:])]
    survived = []
    for name, file, before, after, program, selection in chosen:
        path, begun = ROOT / file, time.monotonic()
        original = path.read_text()
        if original.count(before) < 1:
            raise SystemExit(f"{file}: the line of '{name}' has changed; bring tests/mutations.py up to date")
        try:
            # The last of several places: the reading side of a handshake, the second of two tests.
            head, _, tail = original.rpartition(before)
            path.write_text(head + after + tail)
            noticed = caught(program, selection)
        finally:
            path.write_text(original)
        print(f"{'caught  ' if noticed else 'SURVIVED'} {name} ({program}, {time.monotonic() - begun:.0f} s)", flush=True)
        if not noticed:
            survived.append(name)
    for program in {m[4] for m in chosen}:
        subprocess.run(["cmake", "--build", BUILD, "--target", program], capture_output=True, check=True)
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
