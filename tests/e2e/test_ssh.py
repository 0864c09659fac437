"""A real sshd behind the client: log in, run commands and copy files through the tunnel."""

import getpass
import hashlib
import os
import pathlib
import subprocess

import pytest

from lab import SLOW, body, connect, wait_until


@pytest.fixture
def sshd(lab):
    """sshd on a free loopback port with keys of its own; returns its port."""
    port = lab.ports.take()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.dir / name)], check=True)
    if os.getuid() == 0:
        pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (lab.dir / "sshd_config").write_text(f"""
ListenAddress 127.0.0.1:{port}
HostKey {lab.dir}/host
AuthorizedKeysFile {lab.dir}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
MaxStartups 100
Subsystem sftp internal-sftp
""")
    lab.process(["/usr/sbin/sshd", "-D", "-e", "-f", str(lab.dir / "sshd_config")])

    def banner():
        with connect(port) as probe:
            return probe.recv(4) == b"SSH-"
    wait_until(banner, "sshd")
    return port


def options(lab, port_flag, port):
    return [port_flag, str(port), "-i", str(lab.dir / "user"), "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={lab.dir}/known_hosts", "-o", "LogLevel=ERROR"]


@pytest.fixture
def public(lab, sshd, cipher):
    server = lab.server(crypto=cipher)
    port = lab.ports.take()
    lab.client(server, [{"remote_port": port, "local_addr": f"127.0.0.1:{sshd}"}])
    return port


def host():
    return f"{getpass.getuser()}@127.0.0.1"


def test_ssh_runs_a_command_and_carries_its_input_output_and_exit_code(lab, public):
    content = body(3_000_000)
    ran = subprocess.run(["ssh", *options(lab, "-p", public), host(), "sha256sum; exit 7"], input=content, capture_output=True,
                         timeout=60 * SLOW)
    assert ran.returncode == 7, ran.stderr.decode()
    assert ran.stdout.decode().split()[0] == hashlib.sha256(content).hexdigest()


def test_scp_copies_there_and_back(lab, public):
    (lab.dir / "sent").write_bytes(body(20_000_000))
    for source, target in ((lab.dir / "sent", f"{host()}:{lab.dir}/there"), (f"{host()}:{lab.dir}/there", lab.dir / "back")):
        subprocess.run(["scp", "-q", *options(lab, "-P", public), str(source), str(target)], check=True, timeout=120 * SLOW)
    assert (lab.dir / "back").read_bytes() == (lab.dir / "sent").read_bytes()
