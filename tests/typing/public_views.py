"""Views as a user types them. mypy checks this file strictly; it is never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from msgspec import Struct

import leftfold
from leftfold import App, AsyncView, Codec, Projection, RecordedEvent, SqlProjection, View


class Opened(Struct, frozen=True):
    account: str


class Balance(Struct, frozen=True):
    account: str
    owner: str = ""
    cents: int = 0


def evolve(row: Balance, event: RecordedEvent[Any]) -> Balance:
    return row


balances = Projection(
    name="balances", row=Balance, key=lambda event: event.data.account, evolve={Opened: evolve}
)
totals = SqlProjection(name="totals", create=print, apply=print)
app = App(codec=Codec(Opened), projections=[balances, totals])


def sync() -> None:
    with leftfold.open("memory://", app) as es:
        token = es.append_to_stream("account-1", [Opened("1")]).token
        assert_type(token, str)
        view = es.view(balances)
        assert_type(view, View[Balance])
        assert_type(view.get("1"), Balance | None)
        assert_type(view.get(("1", 2), after=token, timeout_s=2), Balance | None)
        rows = view.find({"owner": "ada"}, limit=10, after=token)
        assert_type(rows, list[Balance])
        assert_type(view.find(beyond=rows[-1]), list[Balance])
        view.find(beyond=1)  # type: ignore[arg-type]
        assert_type(view.count({"owner": "ada"}), int)
        assert_type(view.sql("SELECT 1 WHERE 1 = ?", [1]), list[dict[str, Any]])
        view.wait(token, timeout_s=0.5)
        assert_type(es.view(balances, at=3), View[Balance])
        assert_type(es.view(balances, at=datetime.now(UTC)).get("1"), Balance | None)
        sums = es.view(totals)
        assert_type(sums.sql("SELECT 1"), list[dict[str, Any]])


async def asynchronous() -> None:
    async with await leftfold.aopen("memory://", app) as es:
        view = es.view(balances)
        assert_type(view, AsyncView[Balance])
        assert_type(await view.get("1", after="1"), Balance | None)
        assert_type(await view.find(limit=3), list[Balance])
        assert_type(await view.count(), int)
        assert_type(await view.sql("SELECT 1"), list[dict[str, Any]])
        await view.wait("1")
        sums = es.view(totals)
        await sums.wait("1")
