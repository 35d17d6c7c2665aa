"""The contract of a store, as tests. Each guarantee of `leftfold.store.Store` is a class below.

A store is tested by inheriting all of them:

    class TestMyStore(StoreConformance):
        def open_store(self, directory):
            return MyStore(directory)

Nothing is ever skipped. What a store cannot do, its `capabilities` say, and the suite then asserts
that it refuses. Not asserted, because no test of one process can: that a power cut loses nothing
(see `leftfold.testing.faults`), and what other processes see (see `leftfold.testing.history`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leftfold.drive import run_sync
from leftfold.store import Store
from leftfold.testing.conformance_appends import (
    G1Atomic,
    G2Conditional,
    G3Ordered,
    G5Idempotent,
    G6Durable,
)
from leftfold.testing.conformance_limits import G8BoundedAndLoud
from leftfold.testing.conformance_reads import (
    G4NoLateArrival,
    G7Faithful,
    G9Time,
    Reading,
    Waiting,
)
from leftfold.testing.log import Log


class StoreConformance(
    G1Atomic,
    G2Conditional,
    G3Ordered,
    G4NoLateArrival,
    G5Idempotent,
    G6Durable,
    G7Faithful,
    G8BoundedAndLoud,
    G9Time,
    Reading,
    Waiting,
):
    """All guarantees. Say how to open the store, and how to run it if it needs an event loop."""

    def open_store(self, directory: Path) -> Store:
        """The store that lives in `directory`: empty at first, and when durable found again."""
        raise NotImplementedError

    def run(self, coroutine: Any) -> Any:
        """Finish a coroutine of the store, from any thread."""
        return run_sync(coroutine)

    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[Log]:
        log = Log(lambda: self.open_store(tmp_path), self.run)
        yield log
        log.close()
