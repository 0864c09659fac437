"""Tests over the test link need root; without it they are skipped as a whole, and say so (exit code 77, CTest's skip)."""

import os

import pytest


def pytest_sessionstart(session):
    if os.geteuid() != 0:
        pytest.exit("SKIPPED: network namespaces and TUN devices need root", returncode=77)
