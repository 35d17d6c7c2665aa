"""G4, G7 and G9, reading and waiting, as tests. See `leftfold.testing.conformance`."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from uuid import UUID

import pytest

from leftfold.errors import StoreClosed
from leftfold.event import NO_METADATA, Metadata, new_id
from leftfold.query import ALL, Version, select
from leftfold.testing.log import PATIENCE_S, Log, event, together


class G4NoLateArrival:
    """Once any reader has seen position p, no event at or below p will appear."""

    def test_a_reader_that_goes_on_from_what_it_saw_misses_nothing(self, log: Log) -> None:
        done = threading.Event()

        def writer(name: str) -> None:
            for number in range(40):
                log.append(event(f"account-{name}", tags=(f"number:{number}",)))

        def writers() -> None:
            together(*(lambda name=name: writer(name) for name in "ABCD"))
            done.set()

        def reader() -> list[int]:
            seen: list[int] = []
            while True:
                finished = done.is_set()
                page = log.read(after=seen[-1] if seen else 0, limit=7)
                seen += [each.position for each in page]
                if finished and not page:
                    return seen

        _, seen, seen_too = together(writers, reader, reader)
        everything = [each.position for each in log.read()]
        assert len(everything) == 160
        assert seen == seen_too == everything

    def test_all_up_to_the_head_is_readable(self, log: Log) -> None:
        def look() -> bool:
            for _ in range(50):
                head = log.head()
                events = log.read()
                if head and (not events or events[-1].position < head):
                    return False
            return True

        def write() -> bool:
            for _ in range(50):
                log.append(event())
            return log.head() == log.read()[-1].position

        assert together(write, look, look) == [True, True, True]


class G7Faithful:
    """Stream, type, schema version, data, tags, id, metadata and occurred_at come back as given."""

    def test_data_comes_back_byte_for_byte(self, log: Log) -> None:
        payloads = [
            b"{}",
            b"",
            b' {"b": 1.50, "a": "\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xb6"}\n',
            b'{"escaped": "\\u0000"}',
            b"a\x00b",
            b"\x81\xa1a\x01",
            bytes(range(256)),
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"x" * 1_000_000,
        ]
        for data in payloads:
            log.append(event(data=data))
        assert [each.data for each in log.read()] == payloads

    def test_names_come_back(self, log: Log) -> None:
        for name in ("Ünï-1", "a b-c d-e", "名前-1", "no_dash", "-", "x" * 255, "quote'\"-%_"):
            log.append(event(name, name, tags=(name,)))
            (found,) = log.read(select(name, types=[name], tags=[name]))
            assert (found.stream, found.type, found.tags) == (name, name, (name,))

    def test_tags_keep_their_order(self, log: Log) -> None:
        tags = ("b:2", "a:1", "c:3", "a:0")
        log.append(event(tags=tags), event(tags=tuple(reversed(tags))), event())
        assert [each.tags for each in log.read()] == [tags, tuple(reversed(tags)), ()]

    def test_ids_and_schema_versions_come_back(self, log: Log) -> None:
        ids = [new_id(), UUID(int=1), UUID(int=2**128 - 1)]
        for id, version in zip(ids, (1, 2, 2**31 - 1), strict=True):
            log.append(event(id=id, schema_version=version))
        recorded = log.read()
        assert [each.id for each in recorded] == ids
        assert [each.schema_version for each in recorded] == [1, 2, 2**31 - 1]

    def test_metadata_comes_back(self, log: Log) -> None:
        id = str(new_id())
        given = [
            Metadata(correlation_id=id, causation_id=id.upper(), command_id="no uuid", actor="é"),
            Metadata(correlation_id=id.replace("-", ""), actor="teller-7"),
            Metadata(correlation_id="x" * 36, causation_id=f"{{{id[1:-1]}}}"),
            Metadata(extra={"nested": [1, 2.5, {"a": None}], "ü": True, "n": 2**60}),
            NO_METADATA,
        ]
        for metadata in given:
            log.append(event(metadata=metadata))
        assert [each.metadata for each in log.read()] == given

    def test_occurred_at_comes_back_as_a_moment(self, log: Log) -> None:
        moments = [
            datetime(1903, 12, 17, 10, 35, 0, 1, tzinfo=UTC),
            datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=5.5))),
            datetime(9998, 12, 31, tzinfo=UTC),
        ]
        for moment in moments:
            log.append(event(occurred_at=moment))
        log.append(event())
        *placed, defaulted = log.read()
        assert [each.occurred_at for each in placed] == moments
        assert defaulted.occurred_at == defaulted.recorded_at


class G9Time:
    """`recorded_at` never decreases along positions, so a moment is a position."""

    def test_recorded_at_has_a_time_zone_and_never_decreases(self, log: Log) -> None:
        for number in range(50):
            far = datetime(1990 + number, 1, 1, tzinfo=UTC)
            log.append(event(occurred_at=far), event())
        times = [each.recorded_at for each in log.read()]
        assert len(times) == 100
        assert all(time.utcoffset() == timedelta(0) for time in times)
        assert times == sorted(times)

    def test_a_moment_selects_what_was_recorded_by_then(self, log: Log) -> None:
        for number in range(20):
            log.append(event(f"account-{number % 3}", tags=(f"n:{number % 2}",)))
        everything = log.read()
        assert len(everything) == 20
        queries = (ALL, select("account-1"), select(tags=["n:0"]), select(category="account"))
        for query in queries:
            matching = [each for each in everything if query.matches(each)]
            for bound in everything[::4]:
                at = bound.recorded_at
                by_then = [each for each in matching if each.recorded_at <= at]
                assert log.read(query, until=at) == by_then
                assert log.read(query, after=at) == matching[len(by_then) :]

    def test_moments_before_and_after_all(self, log: Log) -> None:
        log.append(event(type="A"), event(type="B"))
        past, future = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)
        assert log.types(after=past, until=future) == "AB"
        assert log.types(until=past) == log.types(after=future) == ""


class Reading:
    """Reads by stream, category, types and tags, forwards and backwards, between bounds."""

    def _fill(self, log: Log) -> list[int]:
        log.append(event("account-1", "A", tags=("a:1", "b:1")))
        log.append(event("account-2", "B", tags=("a:1",)))
        log.append(event("order-1", "C", tags=("b:1",)))
        log.append(event("account-1", "D"))
        log.append(event("account-1", "B", tags=("a:1", "b:1", "c:1")))
        log.append(event("account", "E"))
        assert log.types() == "ABCDBE"
        return [each.position for each in log.read()]

    def test_by_stream(self, log: Log) -> None:
        self._fill(log)
        assert log.types(select("account-1")) == "ADB"
        assert log.types(select("account")) == "E"
        assert log.types(select("account-1", types=["B", "D"])) == "DB"
        assert log.types(select("account-9")) == ""

    def test_by_category(self, log: Log) -> None:
        self._fill(log)
        assert log.types(select(category="account")) == "ABDBE"
        assert log.types(select(category="order")) == "C"
        assert log.types(select(category="acc")) == ""
        assert log.types(select(category="account", types=["B", "C"])) == "BB"

    def test_by_types(self, log: Log) -> None:
        self._fill(log)
        assert log.types(select(types=["B"])) == "BB"
        assert log.types(select(types=["C", "A", "X"])) == "AC"
        assert log.types(select(types=["X"])) == ""

    def test_by_tags(self, log: Log) -> None:
        self._fill(log)
        assert log.types(select(tags=["a:1"])) == "ABB"
        assert log.types(select(tags=["b:1", "a:1"])) == "AB"
        assert log.types(select(tags=["a:1", "x:1"])) == ""
        assert log.types(select("account-1", tags=["a:1"], types=["B"])) == "B"
        assert log.types(select(category="order", tags=["b:1"])) == "C"

    def test_by_any_item(self, log: Log) -> None:
        self._fill(log)
        assert log.types(select(types=["C"]) | select("account-2")) == "BC"
        assert log.types(select(tags=["a:1"]) | select(types=["B"]) | select("none")) == "ABB"
        assert log.types(select(types=["X"]) | ALL) == "ABCDBE"

    def test_after_is_exclusive_and_until_inclusive(self, log: Log) -> None:
        positions = self._fill(log)
        after, until = positions[1], positions[4]
        assert log.types(after=after, until=until) == "CDB"
        assert log.types(select("account-1"), after=after, until=until) == "DB"
        assert log.types(select(category="account"), after=after, until=until) == "DB"
        assert log.types(select(tags=["a:1"]), after=after, until=until) == "B"
        assert log.types(after=until, until=after) == ""
        assert log.types(after=positions[-1]) == ""
        assert log.types(until=positions[-1] + 10) == "ABCDBE"

    def test_between_versions_of_a_stream(self, log: Log) -> None:
        self._fill(log)
        mine = select("account-1")
        assert log.types(mine, after=Version(1)) == "DB"
        assert log.types(mine, until=Version(2)) == "AD"
        assert log.types(mine, after=Version(1), until=Version(2)) == "D"
        assert log.types(mine, after=Version(3)) == log.types(mine, until=Version(0)) == ""
        assert log.types(mine, until=Version(99)) == "ADB"
        tagged = select("account-1", tags=["a:1"])
        assert log.types(tagged, after=Version(1)) == "B"
        assert log.types(tagged, until=Version(2)) == "A"
        assert log.types(tagged, after=Version(99)) == ""

    def test_backwards(self, log: Log) -> None:
        positions = self._fill(log)
        assert log.types(backwards=True) == "EBDCBA"
        assert log.types(select("account-1"), backwards=True) == "BDA"
        assert log.types(select(category="account"), backwards=True) == "EBDBA"
        assert log.types(select(tags=["a:1"]), backwards=True) == "BBA"
        assert log.types(backwards=True, after=positions[1], until=positions[3]) == "DC"
        assert log.types(select("account-1"), backwards=True, until=Version(2)) == "DA"

    def test_many_pages_make_the_whole(self, log: Log) -> None:
        for number in range(45):
            stream = f"a-{number % 7}"
            log.append(event(stream, "AB"[number % 2], tags=(f"t:{number % 3}",)))
        everything = log.read()
        assert len(everything) == 45
        for query in (
            ALL,
            select("a-1"),
            select(types=["A"]),
            select(tags=["t:1"]) | select("a-2"),
        ):
            matching = [each for each in everything if query.matches(each)]
            forwards, after = [], 0
            while page := log.read(query, after=after, limit=4):
                forwards += page
                after = page[-1].position
            backwards, until = [], log.head()
            while page := log.read(query, until=until, limit=4, backwards=True):
                backwards += page
                until = page[-1].position - 1
            assert forwards == matching == backwards[::-1]


class Waiting:
    """The doorbell."""

    def test_it_returns_at_once_when_there_is_news(self, log: Log) -> None:
        appended = log.append(event(type="A"))
        log.wait(appended.position - 1, PATIENCE_S)
        assert log.types(after=appended.position - 1) == "A"

    def test_it_returns_without_news_when_the_time_is_over(self, log: Log) -> None:
        appended = log.append(event(type="A"))
        log.wait(appended.position, 0.05)
        log.wait(appended.position, 0)
        assert log.head() == appended.position > 0

    def test_it_returns_when_another_thread_appends(self, log: Log) -> None:
        for round in range(5):
            head = log.head()

            def wait(head: int = head) -> str:
                log.wait(head, PATIENCE_S)
                return log.types(after=head)

            def append(round: int = round) -> str:
                log.append(event(type=str(round)))
                return str(round)

            assert together(wait, append) == [str(round)] * 2

    def test_closing_lets_a_waiting_caller_go(self, log: Log) -> None:
        head = log.append(event()).position
        waiting: list[object] = [*together(partial(log.wait, head, PATIENCE_S), log.close)]
        assert isinstance(waiting[0], StoreClosed), waiting
        with pytest.raises(StoreClosed):
            log.wait(head, 1)
