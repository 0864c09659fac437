"""The test link does what it is told: real packets between two namespaces."""

import os
import pathlib
import signal
import statistics
import subprocess

import pytest

from testlink import TestLink, find_binary
from traffic import flood, goodput, iperf3, round_trips


def test_delay_of_both_directions_adds_up_to_the_round_trip():
    with TestLink("a>b delay=5ms", "b>a delay=20ms") as link:
        for family in (4, 6):
            times = round_trips(link, 20, family=family)
            assert len(times) == 20
            assert 25 <= min(times)
            assert statistics.median(times) < 28
        link.set("b>a", delay="5ms")
        assert 10 <= statistics.median(round_trips(link, 20)) < 13


def test_without_settings_it_adds_little():
    with TestLink() as link:
        assert statistics.median(round_trips(link, 100)) < 2


def test_loss_of_one_direction():
    with TestLink("b>a loss=10%") as link:
        flood(link, 5000)
        assert len(round_trips(link, 1, timeout=5)) <= 1  # what was sent before has arrived by then
        stats = link.stats()
        assert stats["b>a"]["packets"] >= 5000
        assert 400 < stats["b>a"]["lost"] < 600  # 4.7 standard deviations
        assert stats["a>b"]["lost"] == 0


def test_rate_and_queue():
    with TestLink(rate="50M", queue="40ms", delay="5ms") as link:
        report = iperf3(link, "-u", "-b", "80M", "-l", "1400", seconds=3)
        arrived = report["end"]["sum"]["packets"] - report["end"]["sum"]["lost_packets"]
        rate = arrived * 1428 * 8 / report["end"]["sum"]["seconds"] / 1e6
        assert 46 < rate < 51
        stats = link.stats()["b>a"]
        assert stats["dropped"] > 0
        assert 240_000 < stats["queue_bytes_max"] <= 250_000
        link.set(rate="20M")
        assert 14 < goodput(iperf3(link, "-C", "cubic", seconds=3)) < 19.5


def test_stall_holds_and_down_loses():
    with TestLink(delay="1ms") as link:
        link.command("b>a stall")
        assert round_trips(link, 2, timeout=0.1) == []
        assert link.stats()["b>a"]["lost"] == 0
        link.command("up")
        assert len(round_trips(link, 1)) == 1
        link.command("down")
        assert round_trips(link, 2, timeout=0.1) == []
        assert link.stats()["b>a"]["lost"] >= 2
        link.command("up")
        assert len(round_trips(link, 1)) == 1


def test_a_wrong_command_is_refused():
    with TestLink() as link:
        with pytest.raises(ValueError, match="unknown setting 'speed'"):
            link.command("speed 5")
    with pytest.raises(RuntimeError, match="bad value"):
        TestLink(delay="soon").start()


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "end of input"])
def test_namespaces_end_with_it(ending):
    process = subprocess.Popen([find_binary()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    names = [pathlib.Path(f"/run/netns/qtrp-{process.pid}-{side}") for side in "ab"]
    assert all(name.exists() for name in names)
    if ending == "end of input":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, ending))
    assert process.wait(timeout=10) == 0
    process.stdout.close()
    assert not any(name.exists() for name in names)


def test_a_killed_links_namespaces_are_removed_by_the_next():
    process = subprocess.Popen([find_binary()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert os.path.exists(f"/run/netns/qtrp-{process.pid}-a")
    with TestLink():
        assert not os.path.exists(f"/run/netns/qtrp-{process.pid}-a")
