"""A projection without a key function has a row for each stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from running_support import eventually

import leftfold
from leftfold import App, Codec, Event, InvalidInput, Projection, RecordedEvent
from leftfold.projection import consuming
from leftfold.projection.folding import key_text, partition_of

STREAMS = 40


class Counted(Struct, frozen=True):
    number: int


class Sum(Struct, frozen=True):
    stream: str
    numbers: int = 0


def evolve(row: Sum, event: RecordedEvent[Any]) -> Sum:
    return replace(row, numbers=row.numbers * 3 + event.data.number)


SUMS = Projection("sums", row=Sum, evolve={Counted: evolve})
APP = App(codec=Codec(Counted), projections=[SUMS])


def test_each_partition_decodes_only_its_own_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: dict[int, set[str]] = {}
    original = consuming.Consuming._decode

    def decode(self: Any, page: Any) -> Any:
        decoded.setdefault(self._partition, set()).update(each.stream for each in page)
        return original(self, page)

    with leftfold.open(f"sqlite:///{tmp_path}/log.db", APP) as es:
        es.append([Event(f"a-{n % STREAMS}", Counted(n)) for n in range(10 * STREAMS)])
        with es.running(swap="manual"):
            es.view(SUMS).wait(str(es.head()))
            monkeypatch.setattr(consuming.Consuming, "_decode", decode)
            es.projections.rebuild("sums", partitions=3)
            eventually(lambda: [each.state for each in es.projections.status()][-1] == "ready")
            comparison = es.projections.compare("sums")
        assert comparison.is_same
        for stream in (f"a-{n}" for n in range(STREAMS)):
            owner = partition_of(key_text((stream,)), 3)
            assert [each for each, seen in decoded.items() if stream in seen] == [owner]


def test_the_key_of_a_stream_is_one_text() -> None:
    class Row(Struct, frozen=True):
        number: int
        total: int = 0

    with pytest.raises(InvalidInput, match="without key="):
        Projection("rows", row=Row, evolve=lambda row, event: row)
