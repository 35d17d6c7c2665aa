"""Helpers of these tests."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_S = 60


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)
