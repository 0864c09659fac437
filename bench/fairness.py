#!/usr/bin/env python3
"""Whether a small message waits behind a download: one stream that sends all it can and 100 that send 100 bytes ten times a second, over one
tunnel on a link of 100 Mbit/s, 40 ms and a queue of 100 ms. Prints a message's p50 and p99 on the idle tunnel and beside the download, for the
kernel's BBR, for Brutal below the link's rate, and for peers on PATH. Needs root.

    cmake --build --preset release && sudo python3 bench/fairness.py
    sudo python3 bench/fairness.py --only 'bbr|rathole' --rounds 3"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/link"))

import lossy  # noqa: E402
from testlink import ROOT, TestLink  # noqa: E402

CHATTER = ROOT / "tests/link/chatter.py"


def chatter(link, seconds):
    done = link.run("a", [sys.executable, CHATTER, "send", link.address("a"), lossy.ECHO, 100, seconds], timeout=seconds + 60)
    return json.loads(done.stdout)


def measure(options, start):
    with TestLink(delay="20ms", rate="100M", queue="100ms") as link, tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        link.popen("b", [sys.executable, CHATTER, "serve", lossy.ECHO_SERVICE])
        sink = link.popen("b", ["iperf3", "-s", "-1", "-p", lossy.BULK_SERVICE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        beside_user, beside_service = start(link, directory, options.target)
        with open(directory / "log", "wb") as log:
            for side, argv in (("a", beside_user), ("b", beside_service)):
                link.popen(side, argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                time.sleep(0.5)  # some peers' clients give up when their server is not there yet
        for port in (lossy.BULK, lossy.ECHO):
            link.wait_listening("a", port, timeout=30)
        link.wait_listening("b", lossy.BULK_SERVICE)
        idle = chatter(link, options.seconds / 2)
        argv = ["iperf3", "-c", link.address("a"), "-p", lossy.BULK, "-R", "-J", "-t", options.seconds + 4]
        bulk = link.popen("a", argv, stdout=subprocess.PIPE, text=True)
        time.sleep(3)  # start-up is not what is measured
        loaded = chatter(link, options.seconds)
        report, _ = bulk.communicate(timeout=60)
        sink.wait(timeout=10)
        return {"idle": idle, "loaded": loaded, "mbps": json.loads(report)["end"]["sum_received"]["bits_per_second"] / 1e6}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression on the names")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--target", type=float, default=85, help="Brutal's, Mbit/s")
    parser.add_argument("--transport", default="epoll")
    parser.add_argument("--crypto", default="tls")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    options = parser.parse_args()

    field = [(name, start) for name, programs, start in lossy.contestants(options)
             if re.search(options.only, name) and "hysteria" not in name and all(shutil.which(str(p)) for p in programs)]
    found = {name: [] for name, _ in field}
    for _ in range(options.rounds):
        for name, start in field:
            try:
                found[name].append(measure(options, start))
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
            except (subprocess.SubprocessError, TimeoutError, KeyError) as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    print("| | idle p50 / p99 ms | beside the download | p99 to the idle p99 | download Mbit/s | sent late |\n|---|---|---|---|---|---|")
    for name, runs in found.items():
        if runs:
            pick = lambda get: statistics.median(get(run) for run in runs)
            idle, loaded = pick(lambda r: r["idle"]["p99"]), pick(lambda r: r["loaded"]["p99"])
            print(f"| {name} | {pick(lambda r: r['idle']['p50']):.1f} / {idle:.1f} | {pick(lambda r: r['loaded']['p50']):.1f} / {loaded:.1f} | "
                  f"{loaded / idle:.2f} | {pick(lambda r: r['mbps']):.0f} | {pick(lambda r: r['loaded']['late']):.1%} |")


if __name__ == "__main__":
    main()
