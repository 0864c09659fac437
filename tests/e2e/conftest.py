"""Fixtures of the end-to-end tests. Each file runs once for each transport (QTRP_E2E_TRANSPORT, set by ctest)."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from lab import CIPHERS, Lab, raise_descriptor_limit  # noqa: E402

raise_descriptor_limit()


@pytest.fixture
def lab(tmp_path, request):
    world = Lab(tmp_path)
    request.node.qtrp_lab = world
    yield world
    world.close()


@pytest.fixture(params=CIPHERS)
def cipher(request):
    return request.param


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    world = getattr(item, "qtrp_lab", None)
    if report.failed and world is not None:
        for name, log in world.logs():
            lines = log.splitlines()
            report.sections.append((f"{name}'s log, last lines", "\n".join(lines[-60:])))
