"""What cannot be is refused at once, with InvalidInput that says what it should have been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from leftfold import (
    App,
    Codec,
    Consumer,
    Decider,
    EventStore,
    InvalidInput,
    Projection,
    SqlProjection,
    select,
)
from leftfold import open as open_store


class Added(Struct, frozen=True):
    cents: int


class Unknown(Struct, frozen=True):
    """The codec does not have it."""


class Row(Struct, frozen=True):
    id: str
    v: int = 0


CODEC = Codec(Added)


def same(row: Any, event: Any) -> Any:
    return row


async def later(event: Any) -> Any:
    """A coroutine function."""


def nothing(*_: Any) -> None:
    """A function of an SqlProjection."""


ROWS = Projection("rows", row=Row, evolve={Added: same})
LIVELY = Projection("lively", row=Row, evolve={Added: same}, mode="live")
APP = App(codec=CODEC, projections=[ROWS, LIVELY])


@pytest.fixture
def es() -> Iterator[EventStore]:
    with open_store("memory://", APP) as store:
        yield store


@pytest.mark.parametrize("indexes", [None, 3, [["v"]], "v", {"v"}])
def test_indexes_are_a_list_of_names(indexes: Any) -> None:
    with pytest.raises(InvalidInput, match=r"indexes.*list of names"):
        Projection("rows", row=Row, evolve=same, indexes=indexes)


def test_an_app_takes_lists() -> None:
    decider: Any = Decider("account", initial_state=0, decide=lambda *_: [], evolve=same)
    found: list[tuple[str, Any]] = [
        ("projections", ROWS),
        ("projections", None),
        ("consumers", Consumer("mail", handle=print)),
        ("deciders", decider),
    ]
    for what, one in found:
        parts: dict[str, Any] = {what: one}
        with pytest.raises(InvalidInput, match=f"{what} of the App are a list"):
            App(codec=CODEC, **parts)


def test_a_key_of_a_consumer_is_a_plain_function() -> None:
    with pytest.raises(InvalidInput, match=r"key.*'mail'.*plain"):
        Consumer("mail", handle=print, key=later)


@pytest.mark.parametrize("query", [None, select(category="account")])
def test_classes_that_the_codec_does_not_have_are_refused_by_the_app(query: Any) -> None:
    found = Projection("rows", row=Row, evolve={Added: same, Unknown: same}, query=query)
    with pytest.raises(InvalidInput, match=r"'rows'.*Unknown is not registered"):
        App(codec=CODEC, projections=[found])
    consumer = Consumer("mail", handle=print, query=select(types=[Unknown]))
    with pytest.raises(InvalidInput, match=r"'mail'.*Unknown is not registered"):
        App(codec=CODEC, consumers=[consumer])


def test_a_coroutine_function_is_refused_before_anything_is_made() -> None:
    app = App(codec=CODEC, projections=[ROWS], consumers=[Consumer("mail", handle=later)])
    with open_store("memory://", app) as es:
        with pytest.raises(InvalidInput, match=r"'mail'.*coroutine function.*aopen"):
            es.running()
        assert [each.state for each in es.projections.status()] == ["new", "new"]


@pytest.mark.parametrize(
    "share", [(0,), (), 0, 5, "ab", ("a", 2), (0.5, 2), (0, 2, 3), (2, 2), (-1, 2), (True, 2)]
)
def test_a_share_is_two_integers(es: EventStore, share: Any) -> None:
    with pytest.raises(InvalidInput, match="a share is"):
        es.running(share=share)


@pytest.mark.parametrize(
    ("only", "match"),
    [
        (1, "list of names"),
        ("rows", "list of names"),
        ([], "only names nothing"),
        (["lively"], r"'lively' is live.*view"),
        (["nobody"], "'nobody'"),
        ([ROWS], "no projection or consumer"),
    ],
)
def test_only_is_a_list_of_what_can_run(es: EventStore, only: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        es.running(only=only)


def test_an_app_with_nothing_to_run_is_refused() -> None:
    app = App(codec=CODEC, projections=[LIVELY])
    with (
        open_store("memory://", app) as es,
        pytest.raises(InvalidInput, match=r"nothing to run.*async"),
    ):
        es.running()


@pytest.mark.parametrize(
    "call",
    [
        lambda found: found.status(ROWS),
        lambda found: found.status(3),
        lambda found: found.quarantine(ROWS),
        lambda found: found.drop(ROWS),
        lambda found: found.drop("rows", build="1"),
        lambda found: found.compare("rows", timeout_s="1"),
        lambda found: found.compare("rows", timeout_s=float("nan")),
        lambda found: found.skip("rows", 1, reason=None),
        lambda found: found.skip("rows", 1, reason="\0"),
        lambda found: found.retry(ROWS),
    ],
)
def test_managing_takes_names_and_numbers(es: EventStore, call: Callable[[Any], Any]) -> None:
    with es.running():
        """There is something to ask for."""
    with pytest.raises(InvalidInput, match=r"found|no projection|no build"):
        call(es.projections)


def test_a_token_and_a_time_to_wait_are_looked_at_first(es: EventStore) -> None:
    view = es.view(LIVELY)
    tokens: list[Any] = ["9" * 5000, "9" * 20, "-1", "x", 1]
    for token in tokens:
        with pytest.raises(InvalidInput, match="token"):
            view.get("a", after=token)
    timeouts: list[Any] = ["x", None, -1, float("nan")]
    for timeout_s in timeouts:
        with pytest.raises(InvalidInput, match="timeout_s"):
            view.find(timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (["a", "A"], "'A' and 'a'|'a' and 'A'"),
        *(([name], f"{name!r} is a column that PostgreSQL has of its own") for name in
          ("ctid", "tableoid", "xmin", "xmax", "cmin", "cmax")),
    ],
)  # fmt: skip
def test_fields_that_are_no_columns_somewhere(fields: list[str], match: str) -> None:

    row = msgspec.defstruct("Row", [("id", str), *((each, int, 0) for each in fields)])
    with pytest.raises(InvalidInput, match=match):
        Projection("rows", row=row, evolve=same)


@pytest.mark.parametrize("name", ["rowid", "oid", "_rowid_", "order", "CTID"])
def test_fields_that_are_columns_everywhere(name: str, es: EventStore) -> None:

    row = msgspec.defstruct("Row", [("id", str), (name, int, 0)], frozen=True)

    def evolve(row: Any, event: Any) -> Any:
        return msgspec.structs.replace(row, **{name: getattr(row, name) + event.data.cents})

    projection = Projection("rows", row=row, evolve={Added: evolve})
    with open_store("memory://", App(codec=CODEC, projections=[projection])) as store:
        last = store.append_to_stream("a", [Added(3)])
        with store.running():
            assert store.view(projection).get("a", after=last.token) == row("a", 3)


def raises(sql: Any) -> None:
    raise LookupError("no such thing")


def is_bad_sql(sql: Any) -> None:
    sql.execute(f"CREATE TABEL {sql.table} (a INTEGER)")


@pytest.mark.parametrize(
    ("create", "match"),
    [
        (raises, "create of 'mine': LookupError: 'no such thing'|create of 'mine': LookupError"),
        (is_bad_sql, "create of 'mine'.*TABEL"),
        (nothing, "create of 'mine'.*found none"),
    ],
)
def test_create_that_fails_is_named(create: Any, match: str, tmp_path: Any) -> None:
    modes: list[Any] = ["async", "inline"]
    for mode in modes:
        mine = SqlProjection("mine", create=create, apply=nothing, mode=mode)
        app = App(codec=CODEC, projections=[mine])
        with (
            pytest.raises(InvalidInput, match=match),
            open_store(f"sqlite:///{tmp_path}/log.db", app) as es,
        ):
            es.running().start()
    live = SqlProjection("mine", create=create, apply=nothing, mode="live")
    with (
        open_store("memory://", App(codec=CODEC, projections=[live])) as es,
        pytest.raises(InvalidInput, match=match),
    ):
        es.view(live).sql("SELECT 1")


def test_create_that_fails_is_named_by_rebuild() -> None:
    mine = SqlProjection("mine", create=raises, apply=nothing)
    with (
        open_store("memory://", App(codec=CODEC, projections=[mine])) as es,
        pytest.raises(InvalidInput, match="create of 'mine': LookupError"),
    ):
        es.projections.rebuild("mine")
