"""How checkpoints tell logs apart: by the id of the event that they are at."""

from __future__ import annotations

from collections.abc import Sequence

from leftfold.event import RecordedEvent
from leftfold.projection.catalog import Progress
from leftfold.query import ALL
from leftfold.store import Store


async def last_at(
    store: Store, page: Sequence[RecordedEvent[bytes]], until: int
) -> RecordedEvent[bytes] | None:
    """The last event of the log up to `until`, given the last page of those that match."""
    if page and page[-1].position == until:
        return page[-1]
    found = await store.read(ALL, until=until, limit=1, backwards=True)
    return found[0] if found else None


async def holds(store: Store, held: Progress) -> bool:
    """Whether a log has the event that a checkpoint was moved over last."""
    at = held.event_position
    if not at:
        return True
    found = await store.read(ALL, after=at - 1, until=at, limit=1)
    return is_marked(held, found)


def is_marked(held: Progress, found: Sequence[RecordedEvent[bytes]]) -> bool:
    """Whether what was found where a checkpoint is begins with the event that was there."""
    at = held.event_position, held.event_id
    return bool(found) and (found[0].position, found[0].id_bytes) == at
