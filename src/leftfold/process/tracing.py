"""What caused what, within one conversation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from leftfold.event import RecordedEvent


class Traced(Struct, frozen=True):
    """An event of a conversation. `depth` is how many causes lie before it."""

    depth: int
    event: RecordedEvent[Any]


def tree(events: Iterable[RecordedEvent[Any]]) -> Iterator[Traced]:
    """The events of a conversation, each after its cause, and otherwise in log order. What was
    caused by something else than an event of these begins a tree.
    """
    listed = [*events]
    ids = {str(each.id) for each in listed}
    children: dict[str | None, list[RecordedEvent[Any]]] = {}
    for each in listed:
        cause = each.metadata.causation_id
        children.setdefault(cause if cause in ids else None, []).append(each)
    left = [(0, each) for each in reversed(children.get(None, []))]
    while left:
        depth, event = left.pop()
        yield Traced(depth, event)
        left += [(depth + 1, each) for each in reversed(children.pop(str(event.id), []))]
