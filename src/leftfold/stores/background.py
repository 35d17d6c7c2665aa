"""Work that nobody waits for, done in one thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

JOBS_MAX = 1000
"""Jobs that wait. More than that are dropped."""

_logger = logging.getLogger("leftfold")


class Background:
    """Does jobs in a daemon thread that starts with the first one.

    Callers may be interrupted (Ctrl-C) at any place, so they touch nothing but a queue whose
    operations are one step each, and a lock that only guards the start of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._mutex = threading.RLock()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def offer(self, job: Callable[[], None]) -> None:
        """Do `job` soon, or drop it where too many wait."""
        with self._mutex:
            if self._thread is None and not self._closed:
                # An interrupted start may leave one more thread, which does jobs too.
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
        if self._closed or self._jobs.qsize() >= JOBS_MAX:
            _logger.info("%s: a job is dropped", self._name)
        else:
            self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                # One bad job must not keep the others from being done.
                _logger.exception("%s: a job failed", self._name)
        self._jobs.put(None)  # for another thread, if there is one

    def close(self) -> None:
        """Finish what waits, and take nothing more."""
        with self._mutex:
            self._closed = True
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
