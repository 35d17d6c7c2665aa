"""Turns: callers of one process that met a conflict go one after the other, first come first
served.

A courtesy, not a lock: correctness rests on append conditions alone. Whoever holds a turn for too
long, or was killed while holding it, is passed over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from leftfold.drive import Driver

TURN_S_MAX = 1.0
"""How long a turn is respected, in seconds."""


class Place:
    """A place in the line for `key`."""

    __slots__ = ("key", "promise")

    def __init__(self, key: str, promise: Any) -> None:
        self.key = key
        self.promise = promise


class Turns:
    """A line of callers for each key. Without callers there is no line."""

    def __init__(self, driver: Callable[[], Driver]) -> None:
        self._make_driver = driver
        self._driver: Driver | None = None
        # A signal handler may come in between: it must not wait for its own thread.
        self._mutex = threading.RLock()
        self._lines: dict[str, deque[Place]] = {}

    def is_taken(self, key: str) -> bool:
        """Whether somebody has a turn, or waits for one."""
        return key in self._lines

    async def wait(self, key: str) -> Place:
        """A place, once it is the first in its line. The caller leaves it."""
        place = Place(key, self._waiting().promise())
        with self._mutex:
            line = self._lines.setdefault(key, deque())
            line.append(place)
            first = line[0]
        try:
            while first is not place:
                if await place.promise.wait(TURN_S_MAX):
                    break
                first = self._pass_over(first, place)
        except BaseException:
            self.leave(place)
            raise
        return place

    def _pass_over(self, late: Place, me: Place) -> Place:
        """Who is first in line then: `me` where I was passed over myself."""
        self.leave(late)
        with self._mutex:
            line = self._lines.get(late.key)
            return line[0] if line else me

    def leave(self, place: Place) -> None:
        """Let the next one go. Leaving twice is harmless."""
        with self._mutex:
            line = self._lines.get(place.key)
            if line is None or place not in line:
                return
            was_first = line[0] is place
            line.remove(place)
            if not line:
                self._lines.pop(place.key, None)
            elif was_first:
                self._waiting().settle([(line[0].promise, True)])

    async def pause(self, seconds: float) -> None:
        """Let others go on for a while."""
        await self._waiting().promise().wait(seconds)

    def _waiting(self) -> Driver:
        if self._driver is None:
            self._driver = self._make_driver()
        return self._driver
