"""One definition in all modes on all stores: live, inline and async come to the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import inline_worker as bank
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inline_worker import CODEC, Closed, Noted, folded, moved
from msgspec.structs import replace

import leftfold
from leftfold import App, Event, EventStore, Projection, Unsupported

ACCOUNTS = ("a", "b", "c", "ä")
STREAMS = ("bank-1", "bank-2")

LIVE = bank.balances(name="live", mode="live")
INLINE = bank.balances(name="inline", mode="inline")
ASYNC = bank.balances(name="async", mode="async")


def recorded(data: Any, stream: str) -> Event[Any]:
    return Event(stream, data)


ACCOUNT = st.sampled_from(ACCOUNTS)
EVENTS = st.builds(
    recorded,
    st.one_of(
        st.builds(bank.Moved, st.integers(0, 10**9), st.lists(ACCOUNT, max_size=3)),
        st.builds(Closed, ACCOUNT),
        st.builds(Noted),
    ),
    st.sampled_from(STREAMS),
)
HISTORIES = st.lists(st.lists(EVENTS, min_size=1, max_size=5), min_size=1, max_size=12)


class Stores:
    """Opens a new log for each history."""

    def __init__(self, scheme: str, directory: Path, server: Any) -> None:
        self.modes = [LIVE, ASYNC] if scheme == "memory" else [LIVE, INLINE, ASYNC]
        self._scheme = scheme
        self._directory = directory
        self._server = server
        self._numbers = iter(range(10**6))

    def new_url(self) -> str:
        if self._scheme == "memory":
            return "memory://"
        if self._scheme == "sqlite":
            return f"sqlite:///{self._directory}/{next(self._numbers)}.db"
        return str(self._server.new_log())

    def app(self, *, late: bool = False) -> App:
        """What is there when the store is opened: `late` has no inline projection yet."""
        modes = [each for each in self.modes if not (late and each.mode == "inline")]
        return App(codec=CODEC, projections=modes)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    scheme = str(request.param)
    server = request.getfixturevalue("server") if scheme == "postgresql" else None
    return Stores(scheme, tmp_path, server)


def settled(tries: int) -> Any:
    """Settings for tests whose stores cost more than their histories."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=tries, deadline=None, suppress_health_check=checks)


def check(es: EventStore, modes: list[Projection[Any]], token: str) -> None:
    rows = folded(es.read())
    for each in modes:
        view = es.view(each)
        # Only what is async has to be waited for.
        found = view.find(after=token, timeout_s=10 if each.mode == "async" else 0)
        assert sorted(found, key=lambda row: row.account) == rows, each.mode
        assert view.count() == len(rows)


@settled(15)
@given(histories=HISTORIES)
def test_all_modes_come_to_the_same_rows(stores: Stores, histories: list[Any]) -> None:
    with leftfold.open(stores.new_url(), stores.app()) as es, es.running():
        for events in histories:
            token = es.append(events).token
            for each in stores.modes:
                if each.mode == "inline":
                    check(es, [each], token)
        check(es, stores.modes, token)


@settled(10)
@given(histories=HISTORIES, data=st.data())
def test_what_is_built_later_comes_to_the_same_rows(
    stores: Stores, histories: list[Any], data: Any
) -> None:
    if INLINE not in stores.modes:
        with leftfold.open("memory://", stores.app()) as es:
            es.append(histories[0])
            check(es, [LIVE], str(es.head()))
        return
    url, first = stores.new_url(), data.draw(st.integers(0, len(histories)))
    with ExitStack() as stack:
        early = stack.enter_context(leftfold.open(url, stores.app(late=True)))
        for events in histories[:first]:
            early.append(events)
        es = stack.enter_context(leftfold.open(url, stores.app()))
        check(es, [LIVE, INLINE], str(es.head()))
        for events in histories[first:]:
            es.append(events)
        check(es, [LIVE, INLINE], str(es.head()))
        es.projections.rebuild("inline")
        check(es, [LIVE, INLINE], str(es.head()))


def test_a_store_either_keeps_inline_projections_or_refuses_them(stores: Stores) -> None:
    app = App(codec=CODEC, projections=[INLINE])
    if INLINE not in stores.modes:
        with pytest.raises(Unsupported, match="'inline' is inline"):
            leftfold.open(stores.new_url(), app)
        return
    with leftfold.open(stores.new_url(), app) as es:
        es.append([moved(1, "a")])
        assert es.view(INLINE).get("a") == replace(bank.Balance("a"), cents=1, moves=1)
