"""How much a consumer does at a time, and how fast. Without I/O."""

from __future__ import annotations

import time

from leftfold.event import RecordedEvent
from leftfold.projection.catalog import Build

BATCH_EVENTS_MIN = 10
BATCH_EVENTS_MAX = 2_000
BATCH_BYTES = 16 * 1024 * 1024
"""How much data a batch is to have at most, as far as the one before it tells."""
BATCH_S = 0.2
"""How long a batch is to take, in seconds: longer ones are faster, and hold up others."""


class Pace:
    """Sizes of batches that adapt to how long they take, and pauses where a build is throttled."""

    def __init__(self) -> None:
        self._begun_s = 0.0
        self.limit = BATCH_EVENTS_MIN * 10
        """How many events the next batch has at most."""

    def shrink(self) -> None:
        """A batch was not applied, and no event is to blame: it may have taken longer than the
        database waits for.
        """
        least = BATCH_EVENTS_MIN if self.limit > BATCH_EVENTS_MIN else 1
        self.limit = max(min(self.limit // 2, BATCH_EVENTS_MIN), least)

    def begin(self) -> None:
        """A batch begins."""
        self._begun_s = time.monotonic()

    def end(self, build: Build, page: list[RecordedEvent[bytes]], *, failed: bool) -> float:
        """A batch has ended; how long to pause now, in seconds."""
        took_s = time.monotonic() - self._begun_s
        # Below the least by `shrink` only, and back by being fast only.
        least = min(self.limit, BATCH_EVENTS_MIN) if took_s > 2 * BATCH_S else BATCH_EVENTS_MIN
        if failed:
            self.limit = BATCH_EVENTS_MIN
        elif took_s > 2 * BATCH_S:
            self.limit //= 2
        elif took_s < BATCH_S / 2 and len(page) == self.limit:
            self.limit *= 2
        size = sum(len(each.data) for each in page)
        if size:
            self.limit = min(self.limit, BATCH_BYTES * len(page) // size)
        is_throttled = build.rate_max and build.state == "building"
        # Pauses of about a second: longer ones would go on when the build serves.
        events_max = min(BATCH_EVENTS_MAX, build.rate_max) if is_throttled else BATCH_EVENTS_MAX
        self.limit = max(min(self.limit, events_max), least)
        return max(0.0, len(page) / build.rate_max - took_s) if is_throttled else 0.0
