"""What can be done to builds by an App of other code than theirs, and to keys in any form."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from managing_support import BALANCES, Managed, projection
from msgspec import Struct
from view_support import Deposited, Noted, Opened

from leftfold import Consumer, InvalidInput, ProjectionRefused
from leftfold.projection.catalog import Build
from leftfold.projection.folding import key_text


def same(row: Any, event: Any) -> Any:
    return row


WIDER = projection(
    version=2,
    key=lambda event: getattr(event.data, "account", None),
    evolve={Opened: same, Deposited: same, Noted: same},
)
"""It takes the events of BALANCES, and others."""


@pytest.fixture
def bank(database: Any) -> Managed:
    """Build 1 is of BALANCES, and serves. One event is for others only."""
    bank = Managed(database)
    bank.append(Noted())
    bank.served()
    return bank


def wider(bank: Managed, until: int) -> Build:
    """Build 2, made by the App of the next release."""
    bank.now_has(WIDER)
    build: Build = bank.rebuild("balances")
    bank.run(build, WIDER, until)
    bank.now_has(BALANCES)
    return build


def test_an_incomplete_build_of_other_code_is_not_swapped_in(bank: Managed) -> None:
    build = wider(bank, until=4)
    with pytest.raises(ProjectionRefused, match=r"build 2 .*at position 4: it is not complete"):
        bank.swap("balances")
    assert bank.states() == {1: "serving", 2: "building"}
    bank.run(build, WIDER)
    assert bank.swap("balances").id == 2


def test_a_build_of_other_code_that_lags_is_not_swapped_in(bank: Managed) -> None:
    build = wider(bank, until=4)
    bank.execute("UPDATE leftfold_builds SET state = 'ready' WHERE id = 2")
    with pytest.raises(ProjectionRefused, match=r"lags behind build 1"):
        bank.swap("balances")
    bank.run(build, WIDER)
    assert bank.swap("balances").id == 2


def test_builds_of_other_code_are_not_taken_for_aligned(bank: Managed) -> None:
    build = wider(bank, until=4)
    assert not bank.compare("balances", timeout_s=0).is_aligned
    bank.run(build, WIDER)
    assert bank.compare("balances", timeout_s=0).is_aligned


def test_events_that_do_not_match_do_not_keep_own_code_from_being_swapped_in(
    database: Any,
) -> None:
    bank = Managed(database)
    bank.now_has(WIDER)
    bank.served(WIDER)
    bank.now_has(BALANCES)
    bank.run(bank.rebuild("balances"))
    bank.append(Noted())
    bank.run(bank.builds()[0], WIDER)
    assert bank.compare("balances", timeout_s=0).is_aligned
    assert bank.swap("balances").id == 2


class Slot(Struct, frozen=True):
    at: datetime
    day: date
    room: UUID
    taken: bool = False


SLOTS = projection(name="slots", row=Slot, evolve=same, indexes=[])
ROOM = UUID("0f0e0d0c-0b0a-0908-0706-050403020100")
KEY = datetime(2026, 1, 1, 0, tzinfo=UTC), date(2026, 1, 1), ROOM


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        (datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), *KEY[1:]),
        ("2026-01-01T02:00:00+02:00", "2026-01-01", str(ROOM).upper()),
    ],
)
def test_a_key_is_found_in_every_form_that_is_the_same(database: Any, key: Any) -> None:
    bank = Managed(database, SLOTS)
    build = bank.build(SLOTS)
    bank.quarantine(build, key_text(KEY), 2)
    assert bank.retry("slots", key=key) == 1
    assert bank.skip("slots", 2, key=key, reason="known") == 1


@pytest.mark.parametrize("key", [KEY[:2], ("noon", *KEY[1:]), (object(), *KEY[1:])])
def test_what_cannot_be_a_key_is_refused(database: Any, key: Any) -> None:
    bank = Managed(database, SLOTS)
    bank.quarantine(bank.build(SLOTS), key_text(KEY), 2)
    with pytest.raises(InvalidInput, match="key"):
        bank.retry("slots", key=key)


def test_keys_of_consumers_are_of_any_kind(database: Any) -> None:
    mails = Consumer(name="mails", handle=print, key=lambda event: 1, on_failure="quarantine")
    bank = Managed(database, mails)
    bank.quarantine(bank.build(mails), key_text((7, "a")), 2)
    assert bank.retry("mails", key=(7, "a")) == 1
