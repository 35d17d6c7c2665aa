"""G8 as tests: bounded and loud. See `leftfold.testing.conformance`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from leftfold import limits
from leftfold.errors import InvalidInput, StoreClosed
from leftfold.event import Metadata
from leftfold.query import ALL, NoneMatch, Query, StreamVersion, Version, select
from leftfold.testing.log import Log, event


class G8BoundedAndLoud:
    """A page has at most `limit` events; what is above a limit or malformed is refused."""

    def _refuses(self, log: Log, *events: Any, conditions: Any = (), says: str) -> None:
        """The append is refused with the facts, nothing is recorded, and the store goes on."""
        head = log.head()
        with pytest.raises(InvalidInput) as caught:
            log.append(*events, conditions=conditions)
        assert says in str(caught.value)
        assert log.head() == head
        assert log.append(event()).position == log.head() > head

    def _refuses_to_read(self, log: Log, query: Any = ALL, *, says: str, **bounds: Any) -> None:
        log.append(event())
        with pytest.raises(InvalidInput) as caught:
            log.read(query, **bounds)
        assert says in str(caught.value)
        assert log.read()

    def test_a_page_has_at_most_limit_events(self, log: Log) -> None:
        log.append(*(event(type=type) for type in "ABCDEFG"))
        for query in (ALL, select("account-1"), select(category="account")):
            assert log.types(query, limit=3) == "ABC"
            assert log.types(query, limit=3, backwards=True) == "GFE"
            assert log.types(query, limit=7) == log.types(query, limit=8) == "ABCDEFG"

    def test_the_limit_of_a_page(self, log: Log) -> None:
        for limit in (0, -1, limits.PAGE_EVENTS_MAX + 1, 1.5, True):
            self._refuses_to_read(log, limit=limit, says=str(limits.PAGE_EVENTS_MAX))
        assert log.read(limit=limits.PAGE_EVENTS_MAX)

    def test_an_empty_append(self, log: Log) -> None:
        self._refuses(log, says="at least one event")

    def test_too_many_events(self, log: Log) -> None:
        most = limits.APPEND_EVENTS_MAX
        self._refuses(log, *(event() for _ in range(most + 1)), says=str(most))
        log.append(*(event("large-1") for _ in range(most)))
        assert log.read(select("large-1"), backwards=True, limit=1)[0].version == most

    def test_too_many_bytes(self, log: Log) -> None:
        most = limits.DATA_BYTES_MAX
        self._refuses(log, event(data=b"x" * (most + 1)), says=str(most))
        log.append(event("large-1", data=b"x" * most))
        assert len(log.read(select("large-1"))[0].data) == most
        full = event(data=b"x" * most)
        many = [event(data=full.data) for _ in range(limits.APPEND_BYTES_MAX // most)]
        self._refuses(log, *many, full, says=str(limits.APPEND_BYTES_MAX))

    def test_malformed_names(self, log: Log) -> None:
        for bad, says in (
            ("", "not empty"),
            ("a\0b", "NUL"),
            ("x" * 256, "255 bytes"),
            ("é" * 128, "255 bytes"),
            ("x" * 1_000_000, "255 bytes"),
            ("\ud800", "surrogate"),
            (7, "is a str"),
        ):
            self._refuses(log, event(stream=bad), says=says)  # type: ignore[arg-type]
            self._refuses(log, event(type=bad), says=says)  # type: ignore[arg-type]
            self._refuses(log, event(tags=(bad,)), says=says)
            self._refuses(log, event(), conditions=[StreamVersion(bad, 0)], says=says)  # type: ignore[arg-type]

    def test_too_many_or_repeated_tags(self, log: Log) -> None:
        tags = tuple(f"t:{number}" for number in range(limits.TAGS_MAX + 1))
        self._refuses(log, event(tags=tags), says=str(limits.TAGS_MAX))
        self._refuses(log, event(tags=("t:1", "t:1")), says="once")
        self._refuses(log, event(tags="t:1"), says="tuple")
        log.append(event("tagged-1", tags=tags[1:]))
        assert log.read(select("tagged-1"))[0].tags == tags[1:]

    def test_malformed_events(self, log: Log) -> None:
        self._refuses(log, event(data="text"), says="bytes")  # type: ignore[arg-type]
        self._refuses(log, event(id="no-uuid"), says="UUID")
        self._refuses(log, event(schema_version=0), says="schema_version")
        self._refuses(log, event(schema_version=2**31), says="schema_version")
        self._refuses(log, "no event", says="Event")

    def test_naive_and_impossible_times(self, log: Log) -> None:
        naive = datetime(2024, 1, 1)  # noqa: DTZ001
        self._refuses(log, event(occurred_at=naive), says="time zone")
        self._refuses(log, event(occurred_at="2024-01-01"), says="datetime")
        self._refuses_to_read(log, until=naive, says="time zone")
        self._refuses_to_read(log, after=naive, says="time zone")

    def test_malformed_metadata(self, log: Log) -> None:
        for extra in (
            {"at": datetime(2024, 1, 1, tzinfo=UTC)},
            {1: "a"},
            {"a": (1,)},
            {"a": float("nan")},
            [1],
            None,
        ):
            self._refuses(log, event(metadata=Metadata(extra=extra)), says="JSON")  # type: ignore[arg-type]
        huge = Metadata(extra={"a": "x" * limits.EXTRA_BYTES_MAX})
        self._refuses(log, event(metadata=huge), says=str(limits.EXTRA_BYTES_MAX))
        self._refuses(log, event(metadata=Metadata(actor="")), says="actor")
        self._refuses(log, event(metadata={"actor": "me"}), says="Metadata")

    def test_malformed_conditions(self, log: Log) -> None:
        self._refuses(log, event(), conditions=[StreamVersion("a", -1)], says="expected version")
        self._refuses(log, event(), conditions=[NoneMatch(ALL, -1)], says="after")
        self._refuses(log, event(), conditions=[NoneMatch(Query(()))], says="items")
        self._refuses(log, event(), conditions=["account-1"], says="condition")
        many = [StreamVersion("a", 0)] * (limits.CONDITIONS_MAX + 1)
        self._refuses(log, event(), conditions=many, says=str(limits.CONDITIONS_MAX))

    def test_malformed_queries(self, log: Log) -> None:
        self._refuses_to_read(log, Query(()), says="items")
        self._refuses_to_read(log, "account-1", says="select")
        self._refuses_to_read(log, Query(ALL.items * 65), says=str(limits.QUERY_ITEMS_MAX))
        types = [str(number) for number in range(limits.QUERY_TYPES_MAX + 1)]
        self._refuses_to_read(log, select(types=types), says=str(limits.QUERY_TYPES_MAX))
        self._refuses_to_read(log, select(types=[int]), says="codec")
        self._refuses_to_read(log, select(""), says="not empty")
        tags = [str(number) for number in range(limits.TAGS_MAX + 1)]
        self._refuses_to_read(log, select(tags=tags), says=str(limits.TAGS_MAX))

    def test_the_largest_query_is_answered(self, log: Log) -> None:
        log.append(event("a-1", "X", tags=("t:0",)))
        log.append(event("b-1", "Y"))
        types = [f"{number}" for number in range(limits.QUERY_TYPES_MAX - 1)] + ["X"]
        tags = [f"t:{number}" for number in range(limits.TAGS_MAX)]
        query = select(types=types)
        for number in range(limits.QUERY_ITEMS_MAX - 1):
            query |= select(f"c-{number}", tags=tags)
        assert log.types(query) == "X"

    def test_many_kinds_of_events_are_found_by_category_and_type(self, log: Log) -> None:
        names = [f"{category}-{type}" for category in range(12) for type in range(6)]
        for name in names:
            category, _, type = name.partition("-")
            log.append(event(f"c{category}-1", f"T{type}"))
        query = select(category="c0")
        for number in range(1, 11):
            query |= select(category=f"c{number}", types=[f"T{type}" for type in range(5)])
        for number in range(limits.QUERY_ITEMS_MAX - len(query.items)):
            query |= select(category=f"c{number}", types=["T0", "T1", "T2"])
        matching = [each.position for each in log.read() if query.matches(each)]
        assert len(matching) == 6 + 10 * 5 + 3
        assert [each.position for each in log.read(query)] == matching
        assert [each.position for each in log.read(query, limit=5)] == matching[:5]

    def test_malformed_bounds(self, log: Log) -> None:
        self._refuses_to_read(log, after=-1, says="after")
        self._refuses_to_read(log, until=2**63, says="until")
        self._refuses_to_read(log, after="1", says="after")
        self._refuses_to_read(log, after=Version(1), says="one stream")
        self._refuses_to_read(log, select("a-1"), until=Version(-1), says="until")

    def test_a_closed_store_refuses(self, log: Log) -> None:
        log.append(event())
        assert log.head() > 0
        log.close()
        log.close()
        for action in (lambda: log.append(event()), log.read, log.head):
            with pytest.raises(StoreClosed):
                action()
