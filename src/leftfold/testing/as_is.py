"""A codec for tests without a codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from leftfold.codec import RawCodec
from leftfold.event import Event, RecordedEvent
from leftfold.query import Query
from leftfold.states import isolated


class AsIs(RawCodec):
    """Keeps events of any class as they are, in memory, under the names of their classes."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def encode(self, event: Event[Any]) -> Event[bytes]:
        self._kept.append(isolated(event.data))
        number = str(len(self._kept) - 1).encode()
        return replace(event, data=number, type=type(event.data).__name__)

    def read_back(self, encoded: Event[Any]) -> Any:
        return isolated(self._kept[int(encoded.data)])

    def decode_page(self, page: Sequence[RecordedEvent[bytes]]) -> list[RecordedEvent[Any]]:
        return [replace(each, data=isolated(self._kept[int(each.data)])) for each in page]

    def decode_data(self, page: Sequence[RecordedEvent[bytes]]) -> list[Any] | None:
        return [each.data for each in self.decode_page(page)]

    def resolve(self, query: Query) -> Query:
        names = [
            tuple(each if isinstance(each, str) else each.__name__ for each in item.types)
            for item in query.items
        ]
        items = zip(query.items, names, strict=True)
        return Query(tuple(replace(item, types=types) for item, types in items))
