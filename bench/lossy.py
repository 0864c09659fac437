#!/usr/bin/env python3
"""Tunnels over a long and lossy link, side by side in one run: goodput of one download in Mbit/s, and a small message's round trip (p50/p99 in ms)
under that load. Server and user in one network namespace, client and service in the other, the test link of tests/link between them. Needs root.

    cmake --build --preset release && sudo python3 bench/lossy.py
    sudo python3 bench/lossy.py --loss 0,5 --only 'brutal|bbr' --seconds 10 --crypto none
    sudo python3 bench/lossy.py --delay 20 --rate 100 --target 80

Peers (rathole, frp, hysteria) take part when they are on PATH."""

import argparse
import json
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/link"))

from contestants import write_secret  # noqa: E402
from testlink import ROOT, TestLink  # noqa: E402
from traffic import echo_service, message_times  # noqa: E402

TOKEN = secrets.token_hex(24)
TUNNEL, BULK, ECHO = 6000, 7001, 7002            # in the server's namespace
BULK_SERVICE, ECHO_SERVICE = 5201, 5202          # in the client's
NO_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


def qtrp(options, brutal=None, prefix=(), tunnels=None, **extra):
    def start(link, directory, target):
        bin_directory = options.bin
        common = {"transport": options.transport, "crypto": options.crypto, "log": {"level": "info"}, **extra}
        if brutal:
            common["brutal"] = {"enabled": True, "target_mbps": target, "mode": brutal}
        server = common | {"bind": f"{link.address('a')}:{TUNNEL}", "auth": {"tokens": [TOKEN]}, "state_dir": str(directory / "s")}
        client = common | {"server": f"{link.address('a')}:{TUNNEL}", "token": TOKEN, "state_dir": str(directory / "c"),
                           **({"tunnels": tunnels} if tunnels else {}), "proxies": [{"remote_port": BULK, "local_addr": f"127.0.0.1:{BULK_SERVICE}"},
                                       {"remote_port": ECHO, "local_addr": f"127.0.0.1:{ECHO_SERVICE}"}]}
        return ([*prefix, bin_directory / "qtrp-server", "-c", write_secret(directory / "server.yaml", json.dumps(server))],
                [*prefix, bin_directory / "qtrp-client", "-c", write_secret(directory / "client.yaml", json.dumps(client))])
    return start


def rathole(link, directory, _target):
    services = {BULK: BULK_SERVICE, ECHO: ECHO_SERVICE}
    server = f'[server]\nbind_addr = "{link.address("a")}:{TUNNEL}"\ndefault_token = "{TOKEN}"\n'
    client = f'[client]\nremote_addr = "{link.address("a")}:{TUNNEL}"\ndefault_token = "{TOKEN}"\n'
    for public, local in services.items():
        server += f'[server.services.p{public}]\nbind_addr = "{link.address("a")}:{public}"\n'
        client += f'[client.services.p{public}]\nlocal_addr = "127.0.0.1:{local}"\n'
    return (["rathole", "--server", write_secret(directory / "server.toml", server)], ["rathole", "--client", write_secret(directory / "client.toml", client)])


def frp(protocol):
    def start(link, directory, _target):
        server = f'bindAddr = "{link.address("a")}"\nbindPort = {TUNNEL}\nauth.token = "{TOKEN}"\n'
        client = f'serverAddr = "{link.address("a")}"\nserverPort = {TUNNEL}\nauth.token = "{TOKEN}"\ntransport.protocol = "{protocol}"\n'
        if protocol == "quic":
            server += f"quicBindPort = {TUNNEL}\n"
        for public, local in {BULK: BULK_SERVICE, ECHO: ECHO_SERVICE}.items():
            client += f'[[proxies]]\nname = "p{public}"\ntype = "tcp"\nlocalIP = "127.0.0.1"\nlocalPort = {local}\nremotePort = {public}\n'
        return (["frps", "-c", write_secret(directory / "frps.toml", server)], ["frpc", "-c", write_secret(directory / "frpc.toml", client)])
    return start


def hysteria(brutal):
    """Hysteria's client listens and its server dials: the same work the other way round, so its server runs beside the service."""
    def start(link, directory, target):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem",
                        "-out", "cert.pem", "-days", "30", "-subj", "/CN=localhost"], check=True, cwd=directory, capture_output=True)
        server = {"listen": f"{link.address('b')}:{TUNNEL}", "tls": {"cert": str(directory / "cert.pem"), "key": str(directory / "key.pem")},
                  "auth": {"type": "password", "password": TOKEN}}
        client = {"server": f"{link.address('b')}:{TUNNEL}", "auth": TOKEN, "tls": {"insecure": True},
                  "tcpForwarding": [{"listen": f"{link.address('a')}:{public}", "remote": f"127.0.0.1:{local}"}
                                    for public, local in {BULK: BULK_SERVICE, ECHO: ECHO_SERVICE}.items()]}
        if brutal:
            client["bandwidth"] = {"up": f"{target} mbps", "down": f"{target} mbps"}
        return (["hysteria", "client", "--disable-update-check", "-c", write_secret(directory / "client.yaml", json.dumps(client))],
                ["hysteria", "server", "--disable-update-check", "-c", write_secret(directory / "server.yaml", json.dumps(server))])
    return start


def contestants(options):
    """Name, programs that it needs, how it starts: argv beside the user (a), argv beside the service (b)."""
    ours = [options.bin / "qtrp-server", options.bin / "qtrp-client"]
    return [("qtrp brutal", ours, qtrp(options, "auto")),
            ("qtrp brutal, 1 tunnel", ours, qtrp(options, "auto", tunnels=1)),
            ("qtrp brutal, pacer", ours, qtrp(options, "pacer")),
            ("qtrp brutal, no capabilities", [*ours, "setpriv"], qtrp(options, "auto", NO_CAPABILITIES)),
            ("qtrp bbr", ours, qtrp(options)),
            ("qtrp bbr, 2 tunnels", ours, qtrp(options, tunnels=2)),
            ("qtrp cubic", ours, qtrp(options, tcp={"congestion": "cubic"})),
            ("rathole tcp", ["rathole"], rathole), ("frp tls", ["frps", "frpc"], frp("tcp")), ("frp quic", ["frps", "frpc"], frp("quic")),
            ("hysteria brutal", ["hysteria"], hysteria(True)), ("hysteria bbr", ["hysteria"], hysteria(False))]


def measure(options, loss, start):
    with TestLink(delay=f"{options.delay}ms", rate=f"{options.rate}M", queue=f"{options.queue}ms", loss=loss) as link, \
            tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        beside_user, beside_service = start(link, directory, options.target)
        echo_service(link, "b", ECHO_SERVICE)
        with open(directory / "log", "wb") as log:
            server_first = [("a", beside_user), ("b", beside_service)]
            if "hysteria" in str(beside_user[0]):
                server_first.reverse()
            for side, argv in server_first:
                link.popen(side, argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                time.sleep(0.5)  # some peers' clients give up when their server is not there yet
        sink = link.popen("b", ["iperf3", "-s", "-1", "-p", BULK_SERVICE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for port in (BULK, ECHO):
                link.wait_listening("a", port, timeout=30)
        except TimeoutError:
            return {"error": (directory / "log").read_text()[-300:]}
        link.wait_listening("b", BULK_SERVICE)
        if options.quiet_first:  # as many users as there may be tunnels, so that every one of them carries some
            early = [threading.Thread(target=message_times, args=(link, "a", link.address("a"), ECHO, options.quiet_first)) for _ in range(4)]
            for user in early:
                user.start()
            for user in early:
                user.join()
        times = []

        def ping():  # the user comes while the download runs
            time.sleep(options.ramp)
            times.extend(message_times(link, "a", link.address("a"), ECHO, options.seconds - 1))
        pinger = threading.Thread(target=ping)
        argv = ["iperf3", "-c", link.address("a"), "-p", BULK, "-R", "-J", "-O", options.ramp, "-t", options.seconds]
        pinger.start()
        done = link.run("a", argv, timeout=options.ramp + options.seconds + 60, check=False)
        pinger.join()
        sink.kill()
        try:
            goodput = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e6
        except (KeyError, ValueError):
            return {"error": (done.stdout + done.stderr)[-300:]}
        pick = lambda share: times[min(len(times) - 1, int(len(times) * share))] if times else float("nan")
        return {"mbps": goodput, "p50": pick(0.5), "p99": pick(0.99), "retransmits_seen": link.stats()["b>a"]["lost"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", default="0,1,5,10,20", help="percent, both directions")
    parser.add_argument("--delay", type=float, default=50, help="one way, ms")
    parser.add_argument("--rate", type=float, default=200, help="of the link, Mbit/s")
    parser.add_argument("--queue", type=float, default=100, help="of the link, ms")
    parser.add_argument("--target", type=float, default=150, help="Brutal's, Mbit/s")
    parser.add_argument("--seconds", type=int, default=10, help="measured")
    parser.add_argument("--ramp", type=int, default=5, help="seconds before that")
    parser.add_argument("--quiet-first", type=float, default=0, help="seconds of small messages alone before the download")
    parser.add_argument("--transport", default="epoll")
    parser.add_argument("--crypto", default="tls")
    parser.add_argument("--only", default="", help="regular expression on the names")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--json", type=pathlib.Path, help="also write every figure here")
    options = parser.parse_args()

    field = [(name, start) for name, programs, start in contestants(options)
             if re.search(options.only, name) and all(shutil.which(str(p)) for p in programs)]
    losses = [float(loss) for loss in options.loss.split(",")]
    figures = {name: {} for name, _ in field}
    for loss in losses:  # everyone under one loss before the next: what the machine does meanwhile hits all alike
        for name, start in field:
            figures[name][loss] = measure(options, loss, start)
            print(f"{loss:g} % {name}: {figures[name][loss]}", file=sys.stderr, flush=True)
    print(f"{2 * options.delay:g} ms, {options.rate:g} Mbit/s, queue {options.queue:g} ms, target {options.target:g} Mbit/s, "
          f"{options.transport}, {options.crypto}: Mbit/s (p50/p99 ms of a small message meanwhile)\n")
    print("| loss | " + " | ".join(name for name, _ in field) + " |\n|---|" + "---|" * len(field))
    for loss in losses:
        cells = [f"{f['mbps']:.0f} ({f['p50']:.0f}/{f['p99']:.0f})" if "mbps" in f else "failed"
                 for f in (figures[name][loss] for name, _ in field)]
        print(f"| {loss:g} % | " + " | ".join(cells) + " |")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
