"""A store that honours nothing: every test of the conformance suite must fail on it."""

from __future__ import annotations

from typing import Any

from leftfold.event import Appended, RecordedEvent
from leftfold.store import Capabilities


class HonoursNothing:
    """Accepts everything, keeps nothing, and answers from thin air."""

    def __init__(self, capabilities: Capabilities = Capabilities()) -> None:  # noqa: B008 # frozen
        self.capabilities = capabilities

    async def append(self, events: Any, *, conditions: Any = ()) -> Appended:
        return Appended(0, 0, {})

    async def read(self, query: Any = None, **bounds: Any) -> list[RecordedEvent[bytes]]:
        return []

    async def head(self) -> int:
        return 0

    async def wait(self, after: int, timeout_s: float) -> None:
        pass

    async def close(self) -> None:
        pass
