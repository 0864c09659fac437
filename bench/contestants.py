"""The tunnels that the benches compare: how each is configured and started. A contestant starts its daemons and exposes local TCP
services (by port) at public ports, all on loopback. QTRP comes from the build directory, peers from PATH when they are there."""

import json
import os
import pathlib
import secrets
import shutil
import socket
import struct
import subprocess
import time

BIN = pathlib.Path(os.environ.get("QTRP_BIN_DIR", pathlib.Path(__file__).resolve().parents[1] / "build/release/bin"))
TOKEN = secrets.token_hex(24)


class Contestant:
    """One tunnel in one configuration. `start(directory, ports, services)` returns the daemons' processes; `ports` are five free ports
    for the contestant's own use, `services` maps public ports to local ones."""

    def __init__(self, name, programs, configure):
        self.name, self.programs, self._configure = name, programs, configure

    def available(self):
        return all(shutil.which(str(program)) for program in self.programs)

    def start(self, directory, ports, services):
        directory.mkdir(parents=True, exist_ok=True)
        processes = []
        for i, arguments in enumerate(self._configure(directory, ports, services)):
            if i > 0:  # the client: some give up when their server is not there yet
                wait_bound(ports[0])
            with open(directory / f"{i}.log", "wb") as log:
                processes.append(subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                  cwd=directory))
        return processes


def _bound(port):
    """Whether a TCP socket listens on `port` or a UDP socket is bound to it: asked of the kernel by sock_diag(7), which filters by state and
    port itself, so it stays quick beside ten thousand connections, and no server sees a probe."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:  # NETLINK_SOCK_DIAG
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol, state in ((socket.IPPROTO_TCP, 1 << 10), (socket.IPPROTO_UDP, 1 << 7)):  # LISTEN; UDP's unconnected is CLOSE
                request = struct.pack("=BBBxI", family, protocol, 0, state) + struct.pack("!HH", port, 0) + bytes(36) + b"\xff" * 8
                # struct nlmsghdr: SOCK_DIAG_BY_FAMILY = 20, NLM_F_REQUEST | NLM_F_DUMP
                diag.sendall(struct.pack("=IHHII", 16 + len(request), 20, 0x301, 1, 0) + request)
                found, done = False, False
                while not done:
                    answer = diag.recv(65536)
                    while answer:
                        length, kind = struct.unpack_from("=IH", answer)
                        done = done or kind in (2, 3)  # NLMSG_ERROR, NLMSG_DONE
                        found = found or (kind == 20 and struct.unpack_from("!H", answer, 16 + 4)[0] == port)
                        answer = answer[(length + 3) & ~3:]
                if found:
                    return True
    return False


def wait_bound(port, seconds=10):
    """Until some socket is bound to `port`."""
    deadline = time.monotonic() + seconds
    while not _bound(port) and time.monotonic() < deadline:
        time.sleep(0.001)


def write_secret(file, text):
    """A file that holds a token: for its owner alone."""
    file.write_text(text)
    file.chmod(0o600)
    return file


def qtrp(transport, crypto, **extra):
    def configure(directory, ports, services):
        clients_own = {key: value for key, value in extra.items() if key in ("tunnels", "pool")}
        common = {"transport": transport, "crypto": crypto, "log": {"level": "warn"},
                  **{key: value for key, value in extra.items() if key not in clients_own}}
        server = common | {"bind": f"127.0.0.1:{ports[0]}", "auth": {"tokens": [TOKEN]}, "state_dir": str(directory / "s"),
                           "stats": {"listen": f"127.0.0.1:{ports[1]}"}}
        client = common | clients_own | {"server": f"127.0.0.1:{ports[0]}", "token": TOKEN, "state_dir": str(directory / "c"),
                           "stats": {"listen": f"127.0.0.1:{ports[2]}"},
                           "proxies": [{"remote_port": public, "local_addr": f"127.0.0.1:{local}"} for public, local in services.items()]}
        # JSON is YAML.
        return [[BIN / "qtrp-server", "-c", write_secret(directory / "server.yaml", json.dumps(server))],
                [BIN / "qtrp-client", "-c", write_secret(directory / "client.yaml", json.dumps(client))]]
    suffix = "".join(f" {key}={value}" for key, value in extra.items())
    return Contestant(f"qtrp {transport} {crypto}{suffix}", [BIN / "qtrp-server", BIN / "qtrp-client"], configure)


def frp(name, *, mux, tls, protocol="tcp"):
    def configure(directory, ports, services):
        server = f"""bindAddr = "127.0.0.1"
bindPort = {ports[0]}
{f'quicBindPort = {ports[0]}' if protocol == 'quic' else ''}
proxyBindAddr = "127.0.0.1"
auth.token = "{TOKEN}"
transport.tcpMux = {str(mux).lower()}
log.level = "warn"
"""
        client = f"""serverAddr = "127.0.0.1"
serverPort = {ports[0]}
auth.token = "{TOKEN}"
transport.tcpMux = {str(mux).lower()}
transport.tls.enable = {str(tls).lower()}
transport.protocol = "{protocol}"
log.level = "warn"
"""
        for public, local in services.items():
            client += f'[[proxies]]\nname = "p{public}"\ntype = "tcp"\nlocalIP = "127.0.0.1"\nlocalPort = {local}\nremotePort = {public}\n'
        return [["frps", "-c", write_secret(directory / "frps.toml", server)], ["frpc", "-c", write_secret(directory / "frpc.toml", client)]]
    return Contestant(name, ["frps", "frpc"], configure)


def rathole(kind):
    def configure(directory, ports, services):
        server_extra = client_extra = ""
        if kind == "noise":
            # rathole's own default pattern: the server has a key pair, the client knows the public half.
            keys = subprocess.run(["rathole", "--genkey"], check=True, capture_output=True, text=True).stdout.split()
            private, public_key = keys[keys.index("Key:") + 1], keys[len(keys) - 1]
            server_extra = f'[server.transport.noise]\nlocal_private_key = "{private}"\n'
            client_extra = f'[client.transport.noise]\nremote_public_key = "{public_key}"\n'
        if kind == "tls":
            run = lambda *arguments: subprocess.run(["openssl", *arguments], check=True, cwd=directory, capture_output=True)
            run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
                "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
            run("pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "id.p12", "-passout", "pass:bench")
            server_extra = '[server.transport.tls]\npkcs12 = "id.p12"\npkcs12_password = "bench"\n'
            client_extra = '[client.transport.tls]\ntrusted_root = "cert.pem"\nhostname = "localhost"\n'
        server = f'[server]\nbind_addr = "127.0.0.1:{ports[0]}"\ndefault_token = "{TOKEN}"\n[server.transport]\ntype = "{kind}"\n{server_extra}'
        client = f'[client]\nremote_addr = "127.0.0.1:{ports[0]}"\ndefault_token = "{TOKEN}"\n[client.transport]\ntype = "{kind}"\n{client_extra}'
        for public, local in services.items():
            server += f'[server.services.p{public}]\nbind_addr = "127.0.0.1:{public}"\n'
            client += f'[client.services.p{public}]\nlocal_addr = "127.0.0.1:{local}"\n'
        return [["rathole", "--server", write_secret(directory / "server.toml", server)],
                ["rathole", "--client", write_secret(directory / "client.toml", client)]]
    return Contestant(f"rathole {kind}", ["rathole"], configure)


def chisel():
    def configure(directory, ports, services):
        return [["chisel", "server", "--reverse", "--host", "127.0.0.1", "--port", ports[0], "--auth", f"bench:{TOKEN}"],
                ["chisel", "client", "--auth", f"bench:{TOKEN}", f"http://127.0.0.1:{ports[0]}",
                 *(f"R:127.0.0.1:{public}:127.0.0.1:{local}" for public, local in services.items())]]
    return Contestant("chisel", ["chisel"], configure)


def hysteria():
    """Hysteria has no reverse direction: its client listens and its server dials, which is the same work the other way round."""
    def configure(directory, ports, services):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem",
                        "-out", "cert.pem", "-days", "30", "-subj", "/CN=localhost"], check=True, cwd=directory, capture_output=True)
        server = {"listen": f"127.0.0.1:{ports[0]}", "tls": {"cert": "cert.pem", "key": "key.pem"},
                  "auth": {"type": "password", "password": TOKEN}, "quic": {"maxIncomingStreams": 65536}}
        client = {"server": f"127.0.0.1:{ports[0]}", "auth": TOKEN, "tls": {"insecure": True},
                  "tcpForwarding": [{"listen": f"127.0.0.1:{public}", "remote": f"127.0.0.1:{local}"} for public, local in services.items()]}
        return [["hysteria", "server", "-c", write_secret(directory / "server.yaml", json.dumps(server)), "--disable-update-check"],
                ["hysteria", "client", "-c", write_secret(directory / "client.yaml", json.dumps(client)), "--disable-update-check"]]
    return Contestant("hysteria", ["hysteria"], configure)


def everyone():
    ours = [qtrp(transport, crypto) for transport in ("net", "epoll") for crypto in ("none", "tls", "chacha20")] + [qtrp("quic", "tls")]
    peers = [frp("frp plain, no mux", mux=False, tls=False), frp("frp plain, mux", mux=True, tls=False),
             frp("frp tls, mux", mux=True, tls=True), frp("frp quic", mux=True, tls=True, protocol="quic"),
             rathole("tcp"), rathole("tls"), rathole("noise"), chisel(), hysteria()]
    return ours, peers
