"""Work that nobody waits for, done in one thread."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

QUEUE_MAX = 1000
"""Jobs that wait. More than that are dropped."""

_logger = logging.getLogger("leftfold")


class Background:
    """Does jobs in order, in a daemon thread that starts with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mutex = threading.Lock()
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE_MAX)
        self._thread: threading.Thread | None = None

    def offer(self, job: Callable[[], None]) -> None:
        """Do `job` soon, or drop it where too many wait."""
        with self._mutex:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # may be refused, or interrupted
                self._thread = thread
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            _logger.info("%s: a job is dropped, %s wait", self._name, QUEUE_MAX)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                # One bad job must not keep the others from being done.
                _logger.exception("%s: a job failed", self._name)

    def close(self) -> None:
        """Finish what waits."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
