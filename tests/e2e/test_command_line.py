"""The two executables' command lines and how configuration mistakes are told."""

import re
import socket
import subprocess

import pytest

from lab import BIN, SLOW

PROGRAMS = ["qtrp-server", "qtrp-client"]
TOKEN = "a-token-that-must-never-be-shown"
SERVER = f"bind: 127.0.0.1:6000\nauth:\n  tokens: [{TOKEN}]\n"
CLIENT = f"server: 127.0.0.1:6000\ntoken: {TOKEN}\nproxies:\n  - {{remote_port: 2222, local_addr: 127.0.0.1:22}}\n"


def run(program, *arguments):
    return subprocess.run([BIN / program, *map(str, arguments)], capture_output=True, text=True, timeout=20 * SLOW)


@pytest.fixture(params=PROGRAMS)
def program(request):
    return request.param


@pytest.fixture
def good(program, tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text(SERVER if program == "qtrp-server" else CLIENT)
    return file


def test_help(program):
    shown = run(program, "--help")
    assert shown.returncode == 0
    for option in ("--version", "-c", "--check", "-v", "-q"):
        assert option in shown.stdout


def test_version(program):
    shown = run(program, "--version")
    assert shown.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", shown.stdout)


def test_check_prints_the_effective_configuration_without_secrets(program, good):
    shown = run(program, "-c", good, "--check")
    assert shown.returncode == 0, shown.stderr
    assert "127.0.0.1:6000" in shown.stdout
    assert "transport" in shown.stdout and "keepalive" in shown.stdout  # defaults are shown too
    assert TOKEN not in shown.stdout + shown.stderr


def test_the_example_files_are_valid(program):
    example = BIN.parents[2] / "config" / f"{program.removeprefix('qtrp-')}.yaml"
    assert run(program, "-c", example, "--check").returncode == 0


def test_no_arguments_and_unknown_ones(program):
    assert run(program).returncode == 2
    assert run(program, "--nonsense").returncode == 2


def test_a_missing_file(program, tmp_path):
    told = run(program, "-c", tmp_path / "absent.yaml")
    assert told.returncode == 2
    assert "absent.yaml" in told.stderr


# (program, what is written, line:column, what the message must say)
MISTAKES = [
    ("qtrp-client", "server: a:1\ntoken: TOKEN\nproxies:\n  - {remote_port: 1, local_adr: 127.0.0.1:22}\n", "4:", ["local_adr", "local_addr"]),
    ("qtrp-client", "server: a:1\ntoken: TOKEN\ntransprt: net\nproxies: []\n", "3:1", ["transprt", "transport"]),
    ("qtrp-client", "server: a:1\ntoken: TOKEN\nproxies:\n  - {remote_port: 70000, local_addr: 127.0.0.1:22}\n", "4:", ["70000"]),
    ("qtrp-client", "server: a:1\ntoken: TOKEN\nproxies:\n  - {remote_port: 9-5, local_addr: 127.0.0.1:22}\n", "4:", ["9-5"]),
    ("qtrp-client", "token: TOKEN\nproxies:\n  - {remote_port: 1, local_addr: 127.0.0.1:22}\n", "", ["server"]),
    ("qtrp-client", "server: a:1\nproxies:\n  - {remote_port: 1, local_addr: 127.0.0.1:22}\n", "", ["token"]),
    ("qtrp-server", "bind: 0.0.0.0:6000\ncrypto: rot13\nauth: {tokens: [TOKEN]}\n", "2:", ["rot13", "tls", "chacha20", "none"]),
    ("qtrp-server", "bind: 0.0.0.0\nauth: {tokens: [TOKEN]}\n", "1:", ["0.0.0.0"]),
    ("qtrp-server", "bind: 0.0.0.0:6000\nauth: {tokens: []}\n", "2:", ["tokens"]),
    ("qtrp-server", "bind: 0.0.0.0:6000\nbind: 0.0.0.0:6001\nauth: {tokens: [TOKEN]}\n", "2:", ["bind"]),
    ("qtrp-server", "bind: 0.0.0.0:6000\nauth: {tokens: [TOKEN]}\nkeepalive: {interval: soon}\n", "3:", ["soon"]),
    ("qtrp-server", "bind: [0.0.0.0:6000\nauth: {tokens: [TOKEN]}\n", "", []),
]


@pytest.mark.parametrize("program,text,place,words", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_ends_with_2(program, text, place, words, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text.replace("TOKEN", TOKEN))
    for arguments in (["-c", file], ["-c", file, "--check"]):
        told = run(program, *arguments)
        assert told.returncode == 2, told.stderr
        assert f"bad.yaml:{place}" in told.stderr, told.stderr
        for word in words:
            assert word in told.stderr, told.stderr
        assert TOKEN not in told.stderr


def test_a_mistake_opens_nothing(tmp_path):
    """The port is never bound: its configuration is fine up to the mistake in the last line."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        file = tmp_path / "server.yaml"
        file.write_text(f"bind: 127.0.0.1:{port}\nauth: {{tokens: [{TOKEN}]}}\nstate_dir: {tmp_path}/state\nnonsense: 1\n")
        told = run("qtrp-server", "-c", file)
    assert told.returncode == 2
    assert "in use" not in told.stderr
    assert not (tmp_path / "state").exists()
