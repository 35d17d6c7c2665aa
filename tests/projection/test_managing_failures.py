"""Trying again, and passing over."""

from __future__ import annotations

from typing import Any

import pytest
from managing_support import Managed

from leftfold import InvalidInput, ProjectionRefused
from leftfold.projection import mending
from leftfold.projection.catalog import Build, quarantined, skips


@pytest.fixture
def bank(database: Any) -> Managed:
    """Build 1 has the keys a and b in quarantine; its second partition is stopped at position 3."""
    bank = Managed(database)
    build = bank.build(partitions=2)
    bank.quarantine(build, '["a"]', 2)
    bank.quarantine(build, '["b"]', 3)
    bank.stop(build, 3, 1)
    return bank


def due(bank: Managed) -> list[str]:
    found = bank.write(lambda tx: quarantined(tx, 1))
    return [each.key for each in found if each.is_due]


def stopped(bank: Managed) -> list[bool]:
    return [each.stopped is not None for each in bank.progress(bank.builds()[0])]


def skipped(bank: Managed) -> Any:
    return sorted(bank.rows("leftfold_skips"))


def test_all_that_failed_is_tried_again(bank: Managed) -> None:
    before = bank.signals(bank.builds()[0])
    assert bank.retry("balances") == 3
    assert due(bank) == ['["a"]', '["b"]']
    assert stopped(bank) == [False, False]
    assert bank.signals(bank.builds()[0]) == before + 2


@pytest.mark.parametrize("key", ["a", ("a",)])
def test_one_key_is_tried_again(bank: Managed, key: Any) -> None:
    assert bank.retry("balances", key=key) == 1
    assert due(bank) == ['["a"]']
    assert stopped(bank) == [False, True]


def test_there_has_to_be_something_to_try_again(bank: Managed) -> None:
    with pytest.raises(ProjectionRefused, match=r"no such failure of 'balances': .*position 2"):
        bank.retry("balances", key="c")
    bank.drop("balances")
    with pytest.raises(ProjectionRefused, match="nothing of it has failed"):
        bank.retry("balances")


def test_a_failed_event_is_passed_over_for_the_keys_that_it_failed_for(bank: Managed) -> None:
    # The partition is stopped without a key.
    assert bank.skip("balances", 3, reason="known to be wrong") == 2
    [first, second] = skipped(bank)
    assert first[:5] == ("balances", 1, 3, "", "known to be wrong")
    assert second[:5] == ("balances", 1, 3, '["b"]', "known to be wrong")
    assert due(bank) == ['["b"]']
    assert stopped(bank) == [False, False]
    build: Build = bank.builds()[0]
    assert bank.write(lambda tx: skips(tx, build)) == {(3, ""), (3, '["b"]')}


def test_a_failed_event_is_passed_over_for_one_key(bank: Managed) -> None:
    assert bank.skip("balances", 3, reason="wrong", key="b") == 1
    assert [each[3] for each in skipped(bank)] == ['["b"]']
    assert stopped(bank) == [False, True]


def test_passing_over_twice_keeps_the_last_reason(bank: Managed) -> None:
    bank.skip("balances", 2, reason="one")
    bank.skip("balances", 2, reason="two")
    assert [each[4] for each in skipped(bank)] == ["two"]


@pytest.mark.parametrize(
    ("position", "options", "error", "match"),
    [
        (1, {"reason": "x"}, ProjectionRefused, "position 2"),
        (3, {"reason": "x", "key": "a"}, ProjectionRefused, "no such failure"),
        (2, {"reason": ""}, InvalidInput, "reason"),
        (2, {"reason": " \n"}, InvalidInput, "reason"),
        (2, {"reason": "\0"}, InvalidInput, "reason"),
        (0, {"reason": "x"}, InvalidInput, "position"),
        ("2", {"reason": "x"}, InvalidInput, "position"),
        (2, {"reason": "x", "key": object()}, InvalidInput, "key"),
    ],
)
def test_only_what_failed_is_passed_over_and_for_a_reason(
    bank: Managed, position: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        bank.skip("balances", position, **options)
    assert skipped(bank) == []
    assert due(bank) == []


def test_unknown_names_are_refused(bank: Managed) -> None:
    with pytest.raises(InvalidInput):
        bank.retry("nobody")
    with pytest.raises(InvalidInput):
        bank.skip("nobody", 1, reason="x")


def test_another_log_is_no_event_to_try_again(bank: Managed) -> None:
    bank.execute(
        "UPDATE leftfold_consumers SET failure = ? WHERE partition = 1",
        '{"position":9,"stream":"","version":0,"type":"","key":"","error":"another log",'
        '"attempts":1,"since_us":0}',
    )
    with pytest.raises(ProjectionRefused, match="another log"):
        bank.retry("balances")
    with pytest.raises(ProjectionRefused, match="another log"):
        bank.skip("balances", 9, reason="x")
    assert stopped(bank) == [False, True]


def test_what_fails_half_way_changes_nothing(
    bank: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(mending, "signal", fail)
    with pytest.raises(ZeroDivisionError):
        bank.skip("balances", 3, reason="x")
    assert (skipped(bank), due(bank), stopped(bank)) == ([], [], [False, True])
