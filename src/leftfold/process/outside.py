"""Events that wait outside of all instances: nobody could say to which one they belong, or they
could not even be recorded as held. They are called by the stream that they are in.
"""

from __future__ import annotations

from typing import Any

import msgspec

from leftfold.event import Event, Metadata
from leftfold.loading import Parts
from leftfold.process import events as log
from leftfold.projection.managing import Managing
from leftfold.projection.status import QuarantinedKey


class Outside:
    """What waits outside of the instances of a process, and what is done about it. That is
    recorded, with the actor, in the stream `name-outside`.
    """

    def __init__(self, parts: Parts, managing: Managing, process: str) -> None:
        self._parts = parts
        self._managing = managing
        self._process = process

    async def waiting(self) -> list[QuarantinedKey]:
        """All that waits."""
        return await self._managing.quarantine(self._process)

    async def of(self, stream: str) -> QuarantinedKey | None:
        """What waits of a stream."""
        return next((each for each in await self.waiting() if stream_of(each) == stream), None)

    async def retry(self, found: QuarantinedKey, actor: str) -> None:
        """Deliver again what waits, from the event on that failed."""
        stream, position = stream_of(found), found.failure.position
        await self._record(log.OutsideRetried(stream, position, actor), actor)
        await self._managing.retry(self._process, key=stream)

    async def skip(self, found: QuarantinedKey, reason: str, actor: str) -> None:
        """Pass over the event that failed."""
        stream, position = stream_of(found), found.failure.position
        await self._record(log.OutsideSkipped(stream, position, reason, actor), actor)
        await self._managing.skip(self._process, position, reason=reason, key=stream)

    async def _record(self, data: Any, actor: str) -> None:
        # First, so that nothing is done of which nobody knows.
        event = Event(f"{self._process}-outside", data, metadata=Metadata(actor=actor))
        await self._parts.store.append([self._parts.codec.encode(event)])


def stream_of(found: QuarantinedKey) -> str:
    """By what it is called."""
    return str(msgspec.json.decode(found.key)[0])
