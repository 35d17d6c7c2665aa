"""Waiting for news of a log: the doorbell of one store object, rung at each commit, with polling
behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from leftfold.drive import Driver

POLL_S = 0.02
"""How late news from other processes may come, in seconds."""
POLLER_LOST_S = 0.25
"""After so long without a poll the caller that polled for all counts as lost, in seconds; until
then news may come as late.
"""


class Doorbell:
    """Lets callers wait until the log goes beyond a position. `ring` may come from any thread.

    One of those who wait polls for all, and hands over when it leaves. An interrupt (Ctrl-C) may
    come where it should have, or where it should have told the others. So they look themselves now
    and then, and the first to see that there was no poll for too long polls from then on. There is
    no lock: an interrupt could leave it taken, and without one a race costs no more than a look.
    """

    def __init__(self, driver: Driver, head: Callable[[], int]) -> None:
        self._driver = driver
        self._head = head
        self._listeners: dict[Any, None] = {}
        self._told = 0
        """The head that all who listen have been told of."""
        self._poller: object = None
        self._polled_s = 0.0

    def ring(self, head: int = 0) -> None:
        """Wake all who wait. `head` is the news, 0 for other news."""
        self._told = max(self._told, head)
        if self._listeners:
            self._wake(len(self._listeners))

    def _wake(self, listeners_max: int) -> None:
        woken: list[Any] = []
        with suppress(KeyError):
            while len(woken) < listeners_max:
                woken.append(self._listeners.popitem()[0])  # one step, whoever else is at it
        if woken:
            self._driver.settle((listener, True) for listener in woken)

    async def wait(self, after: int, timeout_s: float) -> None:
        """Return when the head is above `after`, or after `timeout_s` seconds. `head` raises when
        the store closes.
        """
        deadline_s = time.monotonic() + timeout_s
        me = object()
        try:
            while not await self._waited(me, after, deadline_s):
                pass
        finally:
            if self._poller is me or self._poller is None:
                self._poller = None
                self._wake(1)

    async def _waited(self, me: object, after: int, deadline_s: float) -> bool:
        """Whether the wait is over, after waiting for a ring or a while."""
        listener = self._driver.promise()
        # Listen first, then look: a commit in between rings.
        self._listeners[listener] = None
        try:
            head = await self._driver.call(self._head)
            now_s = time.monotonic()
            if self._is_poller(me, now_s) and head > self._told:
                self.ring(head)
            if head > after or now_s >= deadline_s:
                return True
            pause_s = POLL_S if self._poller is me else POLLER_LOST_S
            await listener.wait(min(pause_s, deadline_s - now_s))
            return False
        finally:
            self._listeners.pop(listener, None)

    def _is_poller(self, me: object, now_s: float) -> bool:
        if self._poller is None or now_s - self._polled_s > POLLER_LOST_S:
            self._poller = me
        if self._poller is me:
            self._polled_s = now_s
        return self._poller is me
