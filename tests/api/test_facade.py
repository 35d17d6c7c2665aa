"""The two faces: what they add to a store, and that they do not differ."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

import leftfold
from leftfold import (
    AppendConditionFailed,
    AsyncEventStore,
    Codec,
    Event,
    EventStore,
    InvalidInput,
    Metadata,
    NoneMatch,
    StoreClosed,
    StoreUnavailable,
    StreamVersion,
    Version,
    select,
)
from leftfold.reading import PAGE_EVENTS
from leftfold.stores.memory import MemoryStore

PATIENCE_S = 60


class Counted(Struct, frozen=True):
    number: int


class Closed(Struct, frozen=True):
    pass


CODEC = Codec(Counted, Closed)


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/log.db"


def counted(*numbers: int) -> list[Counted]:
    return [Counted(number) for number in numbers]


def numbers(events: Any) -> list[int]:
    return [event.data.number for event in events]


def test_append_to_stream_expects_a_version(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        appended = es.append_to_stream("a-1", counted(1, 2), expected_version=0)
        assert (appended.position, appended.versions) == (2, {"a-1": 2})
        with pytest.raises(AppendConditionFailed) as caught:
            es.append_to_stream("a-1", counted(3), expected_version=1)
        assert (caught.value.condition, caught.value.found) == (StreamVersion("a-1", 1), 2)
        es.append_to_stream("a-1", counted(4), metadata=Metadata(actor="me"))
        assert numbers(es.read(select("a-1"))) == [1, 2, 4]
        assert [each.metadata.actor for each in es.read()] == [None, None, "me"]


def test_append_takes_events_of_several_streams_and_conditions(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        es.append([Event("a-1", Counted(1)), Event("a-2", Closed())])
        with pytest.raises(AppendConditionFailed):
            es.append([Event("a-3", Closed())], conditions=[NoneMatch(select(types=[Closed]))])
        assert [each.data for each in es.read()] == [Counted(1), Closed()]


def test_one_event_where_a_list_belongs(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        with pytest.raises(InvalidInput, match="a list of events, found one Counted"):
            es.append_to_stream("a-1", Counted(1))  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="a list of events, found one Event"):
            es.append(Event("a-1", Counted(1)))  # type: ignore[arg-type]
        assert es.head() == 0


@pytest.mark.parametrize("bad", [[Counted(1)], [b"{}"], ["text"]])
def test_append_takes_events_only(url: str, bad: Any) -> None:
    with leftfold.open(url, CODEC) as es:
        with pytest.raises(InvalidInput, match=r"Event\(stream, data\)"):
            es.append(bad)
        assert es.head() == 0


def test_without_a_codec_data_is_bytes(url: str) -> None:
    with leftfold.open(url) as es:
        es.append([Event("a-1", b"x", type="Raw")])
        with pytest.raises(InvalidInput, match="type is not empty; encode"):
            es.append([Event("a-1", b"x")])
        assert [(each.type, each.data) for each in es.read()] == [("Raw", b"x")]


def test_what_is_no_query_and_no_list_of_conditions(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        with pytest.raises(InvalidInput, match=r"select\(\.\.\.\), found 'a-1'"):
            es.read("a-1")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match=r"select\(\.\.\.\), found 'a-1'"):
            es.subscribe("a-1")  # type: ignore[arg-type]
        condition: Any = StreamVersion("a-1", 0)
        with pytest.raises(InvalidInput, match="conditions is a list"):
            es.append([Event("a-1", Counted(1))], conditions=condition)
        condition = [NoneMatch("a-1")]  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match=r"select\(\.\.\.\)"):
            es.append([Event("a-1", Counted(1))], conditions=condition)
        assert es.head() == 0


def test_long_reads_go_in_pages(url: str) -> None:
    total = 2 * PAGE_EVENTS + 7
    with leftfold.open(url, CODEC) as es:
        es.append([Event(f"a-{n % 2}", Counted(n)) for n in range(total)])
        everything = list(range(total))
        assert numbers(es.read()) == everything
        assert numbers(es.read(backwards=True)) == everything[::-1]
        assert numbers(es.read(limit=PAGE_EVENTS + 1)) == everything[: PAGE_EVENTS + 1]
        assert numbers(es.read(limit=PAGE_EVENTS)) == everything[:PAGE_EVENTS]
        one = everything[1::2]
        assert numbers(es.read(select("a-1"))) == one
        assert numbers(es.read(select("a-1"), backwards=True)) == one[::-1]
        assert numbers(es.read(select("a-1"), after=Version(3), until=Version(505))) == one[3:505]
        assert numbers(es.read(select("a-1"), after=3, until=1010)) == one[1:505]
        assert numbers(es.read(select(category="a"), after=10)) == everything[10:]
        later = datetime(9000, 1, 1, tzinfo=UTC)
        assert numbers(es.read(until=later)) == everything


@pytest.mark.parametrize("until", [None, 10**9, datetime(9000, 1, 1, tzinfo=UTC)])
def test_a_read_ends_although_writers_go_on(url: str, until: Any) -> None:
    with leftfold.open(url, CODEC) as es:
        es.append([Event("a-1", Counted(n)) for n in range(PAGE_EVENTS + 1)])
        seen = 0
        for event in es.read(until=until):
            es.append_to_stream("a-1", [Counted(event.data.number + 1)])
            seen += 1
        assert PAGE_EVENTS < seen <= 2 * PAGE_EVENTS + 1


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(url: str, limit: int) -> None:
    with leftfold.open(url, CODEC) as es, pytest.raises(InvalidInput, match="limit"):
        list(es.read(limit=limit))


def test_a_subscription_catches_up_and_goes_on(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        es.append([Event("a-1", Counted(n)) for n in range(PAGE_EVENTS + 3)])
        with es.subscribe(select(types=[Counted]), after=2) as events:
            for n in range(2, PAGE_EVENTS + 3):
                assert next(events).data == Counted(n)
            es.append([Event("b-1", Closed()), Event("a-1", Counted(-1))])
            assert next(events).data == Counted(-1)
            es.append_to_stream("b-1", [Closed()])
            threading.Timer(0.05, es.append_to_stream, ("a-1", counted(-2))).start()
            assert next(events).data == Counted(-2)


def test_a_subscription_may_start_at_a_version_or_a_moment(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        es.append_to_stream("a-1", counted(1, 2))
        events = es.subscribe(select("a-1"), after=Version(3))
        es.append_to_stream("a-1", counted(3, 4))
        assert next(events).data == Counted(4)
        es.append_to_stream("a-1", counted(5))
        assert next(events).data == Counted(5)
        last = list(es.read())[-1].recorded_at
        events = es.subscribe(after=last)
        while es.append_to_stream("a-1", counted(6)) and list(es.read())[-1].recorded_at == last:
            pass
        assert next(events).data == Counted(6)


@pytest.mark.parametrize("what", ["subscription", "store"])
def test_a_waiting_subscription_ends_when_closed(url: str, what: str) -> None:
    es = leftfold.open(url, CODEC)
    es.append_to_stream("a-1", counted(1))
    events = es.subscribe()
    seen: list[int] = []
    ended = threading.Event()

    def consume() -> None:
        seen.extend(event.data.number for event in events)
        ended.set()

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    while not seen:
        time.sleep(0.01)
    (events if what == "subscription" else es).close()
    assert ended.wait(PATIENCE_S)
    assert list(events) == []
    es.close()


def test_a_subscription_raises_what_it_cannot_decode(url: str) -> None:
    with leftfold.open(url) as es:
        es.append([Event("a-1", b"{}", type="Strange")])
        events = EventStore(es.store, CODEC).subscribe()
        for _ in range(2):  # it stays where it is, and skips nothing
            with pytest.raises(leftfold.UnknownEventType):
                next(events)


def run(main: Callable[[AsyncEventStore], Awaitable[None]], url: str) -> None:
    async def opened() -> None:
        async with await leftfold.aopen(url, CODEC) as es:
            await asyncio.wait_for(main(es), PATIENCE_S)

    asyncio.run(opened())


def test_the_async_face_does_the_same(url: str) -> None:
    async def main(es: AsyncEventStore) -> None:
        await es.append_to_stream("a-1", counted(1, 2), expected_version=0)
        with pytest.raises(AppendConditionFailed):
            await es.append_to_stream("a-1", counted(3), expected_version=1)
        await es.append([Event("a-2", Closed())], conditions=[StreamVersion("a-1", 2)])
        assert await es.head() == 3
        assert [event.data async for event in es.read()] == [Counted(1), Counted(2), Closed()]
        assert [event.data async for event in es.read(backwards=True, limit=1)] == [Closed()]
        appends = [es.append_to_stream(f"b-{n % 5}", counted(n)) for n in range(200)]
        await asyncio.gather(*appends)
        assert len([event async for event in es.read(select(category="b"))]) == 200

    run(main, url)


def test_an_async_subscription_catches_up_goes_on_and_ends(url: str) -> None:
    async def main(es: AsyncEventStore) -> None:
        await es.append_to_stream("a-1", counted(*range(5)))
        async with es.subscribe(after=1) as events:
            assert [(await anext(events)).data.number for _ in range(4)] == [1, 2, 3, 4]
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            await es.append_to_stream("a-1", counted(5))
            assert (await waiting).data == Counted(5)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            await events.aclose()
            with pytest.raises(StopAsyncIteration):
                await waiting
        ends = es.subscribe(after=6)
        waiting = asyncio.ensure_future(anext(ends))
        await asyncio.sleep(0.05)
        await es.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        with pytest.raises(StoreClosed):
            await es.append_to_stream("a-1", counted(6))

    run(main, url)


def test_a_cancelled_waiter_leaves_the_subscription_usable(url: str) -> None:
    async def main(es: AsyncEventStore) -> None:
        events = es.subscribe()
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(events), 0.05)
        await es.append_to_stream("a-1", counted(1))
        assert (await anext(events)).data == Counted(1)

    run(main, url)


def test_cancelled_appends_do_not_harm_others(url: str) -> None:
    async def main(es: AsyncEventStore) -> None:
        tasks = [asyncio.ensure_future(es.append_to_stream("a-1", counted(n))) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        acknowledged = {n for n, each in enumerate(done) if not isinstance(each, BaseException)}
        assert acknowledged >= set(range(1, 50, 2))
        seen = [event.data.number async for event in es.read()]
        assert acknowledged <= set(seen)
        assert len(seen) == len(set(seen))

    run(main, url)


def test_both_faces_have_the_same_methods_and_words() -> None:
    lifecycle = {"__enter__", "__exit__", "__aenter__", "__aexit__"}
    mine = {name: each for name, each in vars(EventStore).items() if inspect.isfunction(each)}
    theirs = {
        name: each for name, each in vars(AsyncEventStore).items() if inspect.isfunction(each)
    }
    assert mine.keys() - lifecycle == theirs.keys() - lifecycle
    for name in mine.keys() - lifecycle:
        assert (
            inspect.signature(mine[name]).parameters == inspect.signature(theirs[name]).parameters
        )
        words = (mine[name].__doc__ or "").replace("thread", "task")
        assert words == (theirs[name].__doc__ or "").replace("thread", "task")


def test_a_store_of_another_event_loop_says_so(tmp_path: Path) -> None:
    async def opened() -> AsyncEventStore:
        return await leftfold.aopen(f"sqlite:///{tmp_path}/log.db", CODEC)

    es = asyncio.run(opened())
    with pytest.raises(InvalidInput, match="another event loop"):
        asyncio.run(es.append_to_stream("a-1", counted(1)))
    es.store._close()  # type: ignore[attr-defined]


def test_a_subscription_to_one_stream_goes_on_by_version(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        events = es.subscribe(select("a-1", types=[Counted]))
        for number in range(3):
            es.append([Event("b-1", Counted(-1)), Event("a-1", Closed())])
            es.append_to_stream("a-1", counted(number))
            assert next(events).data == Counted(number)


def test_a_store_of_ones_own_can_be_given(url: str) -> None:
    es = EventStore(MemoryStore(), CODEC)
    es.append_to_stream("a-1", counted(1))
    assert numbers(es.read()) == [1]


def test_a_sync_face_on_an_async_store_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(es: AsyncEventStore) -> None:
        with pytest.raises(RuntimeError, match="async API"):
            EventStore(es.store, CODEC).append_to_stream("a-1", counted(1))

    async def opened() -> None:
        async with await leftfold.aopen("sqlite:///log.db", CODEC) as es:
            await main(es)

    monkeypatch.chdir(tmp_path)
    asyncio.run(opened())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("bank.db", "looks like sqlite:///"),
        ("", "looks like"),
        (None, "looks like"),
        ("mysql://localhost/db", "unknown scheme 'mysql'"),
        ("sqlite://bank.db", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///:memory:", "memory://"),
        ("memory://shared", "nothing after"),
        ("sqlite:///x.db?durability=none", "durability"),
        ("sqlite:///x.db?sync=off", "sync"),
        ("sqlite:///x.db?busy_timeout_s=long", "busy_timeout_s"),
        ("sqlite:///x.db?busy_timeout_s=-1", "busy_timeout_s"),
        ("sqlite:///x.db?durability", "durability"),
        ("sqlite:///a%00b.db", "NUL"),
    ],
)
def test_unusable_urls(
    url: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        leftfold.open(url)
    assert says in str(caught.value)
    with pytest.raises(InvalidInput):
        asyncio.run(leftfold.aopen(url))
    assert list(tmp_path.iterdir()) == []


def test_urls_name_relative_and_absolute_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub dir").mkdir()
    relative, absolute = "sqlite:///sub%20dir/log.db", f"sqlite:///{tmp_path}/sub dir/log.db"
    with leftfold.open(relative + "?busy_timeout_s=1.5", CODEC) as es:
        es.append_to_stream("a-1", counted(1))
    with leftfold.open(absolute + "?durability=may_lose_latest", CODEC) as es:
        assert numbers(es.read()) == [1]


def test_a_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="missing does not exist"):
        leftfold.open(f"sqlite:///{tmp_path}/missing/log.db")
