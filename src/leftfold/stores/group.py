"""Group commit: appends that are waiting share one transaction and one sync.

A lone caller commits in its own thread. When the log is busy, callers queue, and a writer thread
takes all of them at once; while it waits for the disk, the next group gathers. Each caller waits on
a lock of its own: with one lock for all, measured throughput stayed the same at 8 and at 32
callers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from leftfold.drive import Driver
from leftfold.errors import StoreClosed
from leftfold.event import Appended, Event
from leftfold.query import Condition

GROUP_APPENDS_MAX = 256
GATHER_S = 0.0005
"""How long a group waits for as many appends as the last one had. Without it, callers fall into two
halves that take turns, and each commit, with its sync, serves half of them.
"""


class Append(Struct, frozen=True, eq=False):
    """One caller's append, checked against the limits."""

    events: Sequence[Event[bytes]]
    conditions: Sequence[Condition]


Outcome = Appended | Exception
Commit = Callable[[Sequence[Append]], Sequence[Outcome]]


class GroupCommit:
    """Runs `commit` in one thread at a time; `commit` judges each append on its own and never
    raises for one of them.
    """

    def __init__(self, driver: Driver, commit: Commit) -> None:
        self._driver = driver
        self._commit = commit
        self.mutex = threading.Lock()
        """Held while committing. A reader may take it, without waiting, to read where the writer's
        cache is warm.
        """
        self._queue: deque[tuple[Any, Append]] = deque()
        self._arrival = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._expected = 0
        """Appends that the next group hopes for: as many as the last one had, and left waiting."""

    async def append(self, append: Append) -> Appended:
        outcome = self._commit_here(append) if self._driver.may_block else None
        if outcome is None:
            promise = self._driver.promise()
            self._enqueue(promise, append)
            outcome = await promise.wait()
        if isinstance(outcome, Appended):
            return outcome
        raise outcome

    def _commit_here(self, append: Append) -> Outcome | None:
        if self._expected > 1 or self._queue or not self.mutex.acquire(blocking=False):
            return None
        try:
            if self._closed:
                raise StoreClosed("the store is closed")
            return self._commit([append])[0]
        finally:
            self.mutex.release()

    def _enqueue(self, promise: Any, append: Append) -> None:
        with self._arrival:
            if self._closed:
                raise StoreClosed("the store is closed")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="leftfold-writer", daemon=True)
                thread.start()  # may be refused, or interrupted
                self._thread = thread
            self._queue.append((promise, append))
            if len(self._queue) == 1 or len(self._queue) >= self._expected:
                self._arrival.notify()

    def _run(self) -> None:
        while self._wait_for_arrival():
            with self.mutex:
                waiting = min(len(self._queue), GROUP_APPENDS_MAX)
                group = [self._queue.popleft() for _ in range(waiting)]
                outcomes = self._outcomes([append for _, append in group])
            self._expected = len(group) + len(self._queue)
            promises = (promise for promise, _ in group)
            self._driver.settle(zip(promises, outcomes, strict=True))

    def _wait_for_arrival(self) -> bool:
        """Whether there is something to commit; False when closed and done."""
        with self._arrival:
            while not self._queue and not self._closed:
                self._arrival.wait()
            deadline = time.monotonic() + GATHER_S
            while len(self._queue) < self._expected and not self._closed:
                if not self._arrival.wait(max(0, deadline - time.monotonic())):
                    break
            return bool(self._queue)

    def _outcomes(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        try:
            return self._commit(appends)
        except Exception as error:
            # A fault of ours must reach every caller: nobody may wait for ever.
            return [error] * len(appends)

    def close(self) -> None:
        """Commit what is queued, refuse what comes after."""
        with self._arrival:
            self._closed = True
            self._arrival.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        # A caller that commits in its own thread may still be at it.
        with self.mutex:
            pass
