"""What is recorded is what was given, whatever is in it and whoever connects."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import leftfold
from leftfold import Event, EventStore, Metadata, select

ODD = ("null", "a,b", "{}", 'say "x"', "back\\slash", "{", " ", "größe", "'")


def event(number: int, **more: Any) -> Event[bytes]:
    return Event(f"größe-{number}", b"\x00\xff", type="A", **more)


def test_tags_are_kept_whatever_they_look_like(server: Any) -> None:
    with leftfold.open(server.new_log()) as events:
        # Beside one with no tags, and one with a single tag.
        events.append([event(1, tags=ODD), event(2), event(3, tags=ODD[:1])])
        assert [each.tags for each in events.read()] == [ODD, (), ODD[:1]]
        for tag in ODD[1:]:
            assert [each.position for each in events.read(select(tags=[tag]))] == [1]


def test_columns_that_only_some_events_fill(server: Any) -> None:
    given = [Metadata(), Metadata(actor="ann", extra={"größe": [1]}), Metadata(command_id="c")]
    with leftfold.open(server.new_log()) as events:
        for batch in (given, given[:1]):
            events.append([event(1, metadata=each) for each in batch])
        assert [each.metadata for each in events.read()] == [*given, given[0]]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
def test_a_connection_of_the_callers_may_use_other_characters(server: Any, encoding: str) -> None:
    with leftfold.open(server.new_log()) as events:
        # They are named in the query of the condition, which is JSON, as well.
        free = leftfold.NoneMatch(select(tags=["größe"]))
        with psycopg.connect(server.url(), client_encoding=encoding) as connection:
            mine = EventStore(events.store.within(connection))
            mine.append([event(1, tags=("größe",))], conditions=[free])
            with pytest.raises(leftfold.AppendConditionFailed):
                mine.append([event(1)], conditions=[free])
        (found,) = events.read()
        assert (found.stream, found.tags, found.data) == ("größe-1", ("größe",), b"\x00\xff")
