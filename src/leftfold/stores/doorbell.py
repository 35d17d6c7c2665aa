"""Waiting for news of a log: the doorbell of one store object, rung at each commit, with polling
behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from leftfold.drive import Driver

POLL_S = 0.02
"""How late news from other processes may come, in seconds."""


class Doorbell:
    """Lets callers wait until the log goes beyond a position. `ring` may come from any thread."""

    def __init__(self, driver: Driver, head: Callable[[], int]) -> None:
        self._driver = driver
        self._head = head
        self._mutex = threading.Lock()
        self._listeners: set[Any] = set()

    def ring(self) -> None:
        if not self._listeners:
            return
        with self._mutex:
            listeners, self._listeners = self._listeners, set()
        if listeners:
            self._driver.settle((listener, True) for listener in listeners)

    async def wait(self, after: int, timeout_s: float) -> None:
        """Return when the head is above `after`, or after `timeout_s` seconds. `head` raises when
        the store closes.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            listener = self._driver.promise()
            # Listen first, then look: a commit in between rings.
            with self._mutex:
                self._listeners.add(listener)
            try:
                head = await self._driver.call(self._head)
                remaining_s = deadline - time.monotonic()
                if head > after or remaining_s <= 0:
                    return
                await listener.wait(min(POLL_S, remaining_s))
            finally:
                with self._mutex:
                    self._listeners.discard(listener)
