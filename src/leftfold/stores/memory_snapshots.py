"""Snapshots in memory, for the memory store."""

from __future__ import annotations

import threading
from collections.abc import Callable

from leftfold.snapshot import KEPT_MAX, Snapshot


class MemorySnapshots:
    """Keeps snapshots for as long as it lives."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._snapshots: dict[tuple[str, str], dict[int, Snapshot]] = {}

    async def find(
        self, key: str, fingerprint: str, *, version_max: int, recorded_us_max: int
    ) -> Snapshot | None:
        with self._mutex:
            usable = [
                each
                for each in self._snapshots.get((key, fingerprint), {}).values()
                if each.version <= version_max and each.recorded_us <= recorded_us_max
            ]
        return max(usable, key=lambda each: each.version, default=None)

    def keep(self, key: str, make: Callable[[], Snapshot | None]) -> None:
        snapshot = make()
        if snapshot is not None:
            with self._mutex:
                kept = self._snapshots.setdefault((key, snapshot.fingerprint), {})
                kept[snapshot.version] = snapshot
                if len(kept) > KEPT_MAX:
                    latest = max(kept)
                    del kept[next(version for version in kept if version != latest)]

    async def drop(self, snapshot: Snapshot) -> None:
        with self._mutex:
            kept = self._snapshots.get((snapshot.key, snapshot.fingerprint), {})
            kept.pop(snapshot.version, None)

    async def close(self) -> None:
        pass
