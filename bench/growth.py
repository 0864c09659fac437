#!/usr/bin/env python3
"""How it grows: 1 to 10,000 keep-alive connections over 1, 2 and 4 tunnels on loopback; requests a second, p50, p99 and the daemons' CPU a
request, as a table, and as a plot where --plot names an SVG file.

    cmake --build --preset release && python3 bench/growth.py
    python3 bench/growth.py --plot docs/growth.svg --rounds 3 --transport epoll --crypto tls"""

import argparse
import pathlib
import resource
import statistics
import sys
import tempfile

import contestants
from loopback import Services, free_ports, http_get, wait_for, wrk
from plot import line_chart

TUNNELS = (1, 2, 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement; 10,000 connections get 20 more, to come up")
    parser.add_argument("--transport", default="epoll")
    parser.add_argument("--crypto", default="none")
    parser.add_argument("--connections", type=lambda text: [int(n) for n in text.split(",")], default=(1, 10, 100, 1_000, 10_000))
    parser.add_argument("--plot", type=pathlib.Path)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    found = {}
    with tempfile.TemporaryDirectory(prefix="qtrp-growth-") as temporary:
        directory = pathlib.Path(temporary)
        services = Services(directory)
        running = []
        try:
            for tunnels in TUNNELS:  # all at once: an idle daemon costs nothing, and rounds can go from one to the next
                public, *own = free_ports(6)
                contestant = contestants.qtrp(options.transport, options.crypto, tunnels=tunnels)
                processes = contestant.start(directory / str(tunnels), own, {public: services.web})
                running.append((tunnels, public, processes))
                wait_for(lambda: http_get(public), "first byte")
            for number in range(options.rounds):
                for connections in options.connections:
                    for tunnels, public, processes in running[number % len(running):] + running[:number % len(running)]:
                        rate, p50, p99, cpu = wrk(public, options.seconds + connections // 500, connections, processes)
                        found.setdefault((connections, tunnels), []).append((rate, p50 * 1e3, p99 * 1e3, cpu * 1e6))
                        print(f"{connections} connections, {tunnels} tunnels: {rate:.0f} requests/s", file=sys.stderr)
        finally:
            services.close()
            for _, _, processes in running:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait()

    median = {key: [statistics.median(column) for column in zip(*values)] for key, values in found.items()}
    print(f"{options.transport}, {options.crypto}, medians of {options.rounds}, {options.seconds} s each: requests/s (p50 / p99 ms, CPU us a request)\n")
    print("| connections | " + " | ".join(f"{n} tunnel{'s' if n > 1 else ''}" for n in TUNNELS) + " |\n|---|" + "---|" * len(TUNNELS))
    for connections in options.connections:
        cells = ["{:,.0f} ({:.2f} / {:.1f}, {:.0f})".format(*median[connections, tunnels]) for tunnels in TUNNELS]
        print(f"| {connections:,} | " + " | ".join(cells) + " |")
    if options.plot:
        options.plot.write_text(line_chart(
            "Requests a second by keep-alive connections", "connections", "requests/s",
            {f"{n} tunnel{'s' if n > 1 else ''}": [(c, median[c, n][0]) for c in options.connections] for n in TUNNELS}))


if __name__ == "__main__":
    main()
