"""A real nginx behind the client, curl at the public port: bodies arrive whole, both ways, alone and 200 at a time."""

import fcntl
import hashlib
import os
import pathlib
import re
import subprocess
import urllib.request

import pytest

from lab import FASTEST, LARGE, SLOW, body, wait_until

SMALL = 1_000_000


def large_file():
    """The large body, made once for all runs, and its SHA-256."""
    cache = pathlib.Path(os.environ.get("QTRP_E2E_CACHE", "/tmp/qtrp-e2e-cache"))
    cache.mkdir(parents=True, exist_ok=True)
    file, digest = cache / f"{LARGE}.bin", cache / f"{LARGE}.sha256"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not digest.exists():
            # AES in counter mode: bytes without structure at the speed of the disk.
            subprocess.run(f"head -c {LARGE} /dev/zero | openssl enc -aes-128-ctr -K {'5' * 32} -iv {'0' * 32} > '{file}'",
                           shell=True, check=True, timeout=300 * SLOW)
            digest.write_text(sha256(file))
    return file, digest.read_text()


def sha256(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@pytest.fixture
def nginx(lab):
    """nginx on a free loopback port, serving and taking (PUT) files of the directory `www`."""
    port = lab.ports.take()
    (lab.dir / "www").mkdir()
    user = "user root;" if os.getuid() == 0 else ""
    (lab.dir / "nginx.conf").write_text(f"""
        daemon off; pid {lab.dir}/nginx.pid; error_log stderr; {user} worker_processes 1;
        events {{ worker_connections 2048; }}
        http {{
          access_log off; client_body_temp_path {lab.dir}/body; proxy_temp_path {lab.dir}/p; fastcgi_temp_path {lab.dir}/f;
          uwsgi_temp_path {lab.dir}/u; scgi_temp_path {lab.dir}/s; client_max_body_size 0; sendfile on;
          server {{ listen 127.0.0.1:{port}; root {lab.dir}/www; dav_methods PUT; }}
        }}""")
    (lab.dir / "www" / "small").write_bytes(body(SMALL))
    lab.process(["/usr/sbin/nginx", "-e", "stderr", "-p", str(lab.dir), "-c", str(lab.dir / "nginx.conf")])
    wait_until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/small").status == 200, "nginx")
    return f"127.0.0.1:{port}"


def curl(*arguments, timeout=120):
    return subprocess.run(["curl", "--noproxy", "*", "--silent", "--show-error", "--fail", *arguments], check=True, capture_output=True,
                          timeout=timeout * SLOW)


def expose(lab, nginx, crypto=FASTEST):
    server = lab.server(crypto=crypto)
    port = lab.ports.take()
    lab.client(server, [{"remote_port": port, "local_addr": nginx}])
    return server, f"http://127.0.0.1:{port}"


def test_a_megabyte_both_ways(lab, nginx, cipher):
    _, url = expose(lab, nginx, cipher)
    curl(f"{url}/small", "-o", str(lab.dir / "down"))
    assert (lab.dir / "down").read_bytes() == body(SMALL)
    curl("-T", str(lab.dir / "down"), f"{url}/up")
    assert (lab.dir / "www" / "up").read_bytes() == body(SMALL)


def test_a_gigabyte_both_ways(lab, nginx):
    """One cipher: the size is what is tested. SHA-256 of what arrived is compared with that of what was sent."""
    file, digest = large_file()
    _, url = expose(lab, nginx, "tls")
    (lab.dir / "www" / "large").symlink_to(file)
    curl(f"{url}/large", "-o", str(lab.dir / "down"), timeout=200)
    assert sha256(lab.dir / "down") == digest
    (lab.dir / "down").unlink()
    curl("-T", str(file), f"{url}/up", timeout=200)
    assert sha256(lab.dir / "www" / "up") == digest
    (lab.dir / "www" / "up").unlink()


def test_two_hundred_parallel_downloads(lab, nginx, cipher):
    """Files of very different sizes at once, each with its own content."""
    sizes = {f"f{i}": 1 + (i * 7919) % 3000 * (100 if i % 10 else 2000) for i in range(200)}
    digests = {}
    for i, (name, size) in enumerate(sizes.items()):
        content = body(size, seed=i)
        (lab.dir / "www" / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    _, url = expose(lab, nginx, cipher)
    (lab.dir / "down").mkdir()
    curl("--parallel", "--parallel-immediate", "--parallel-max", "200", "--fail-early",
         "--remote-name-all", "--output-dir", str(lab.dir / "down"), *(f"{url}/{name}" for name in sizes))
    for name, digest in digests.items():
        assert sha256(lab.dir / "down" / name) == digest, name


def test_kept_alive_connections_carry_many_requests(lab, nginx):
    server, url = expose(lab, nginx)
    answer = curl("--remote-name-all", "--output-dir", str(lab.dir), "-w", "%{num_connects}\n", *[f"{url}/small"] * 50)
    connects = sum(int(n) for n in re.findall(r"^\d+$", answer.stdout.decode(), re.MULTILINE))
    assert connects == 1
    assert server.stats()["total_connections"] == 1
