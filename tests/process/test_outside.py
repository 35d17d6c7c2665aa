"""What is done about events that wait outside of all instances is recorded, with the actor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import process_bank as bank
import pytest
from msgspec.structs import replace
from process_bank import Deposit, Open, TransferRequested, transfers
from process_support import eventually, request, types, wait_for

import leftfold
from leftfold import InvalidInput, RecordedEvent, select
from leftfold.process.events import OutsideRetried, OutsideSkipped

JOURNAL = "transfer-outside"


class Keys:
    """Says to which instance an event belongs, once it can."""

    def __init__(self) -> None:
        self.can = False

    def __call__(self, event: RecordedEvent[Any]) -> str:
        if not self.can and event.data.amount == 5:
            raise KeyError("order")
        return f"for {event.data.amount}"


@contextmanager
def waiting(url: str, keys: Keys) -> Iterator[leftfold.EventStore]:
    """A store at work, in which the first event of a stream waits, and so does the second."""
    process = replace(transfers, key=keys)
    with leftfold.open(url, bank.app_of(process)) as es, es.running():
        for name in ("a", "b"):
            es.handle(bank.accounts, name, Open())
        es.handle(bank.accounts, "a", Deposit(10))
        es.append([request("1", TransferRequested("a", "b", 5))])
        es.append([request("1", TransferRequested("a", "b", 4))])
        eventually(lambda: [each.held for each in es.processes.list()] == [2], "both wait")
        yield es


def test_it_is_shown_by_its_stream(url: str) -> None:
    with waiting(url, Keys()) as es:
        found = es.processes.show("transfer", "request-1")
        assert (found.key, found.status, found.version) == ("request-1", "stuck", 0)
        assert "'TransferRequested' at position" in found.stuck
        assert "KeyError: 'order'" in found.stuck


def test_a_retry_is_recorded_with_its_actor(url: str) -> None:
    keys = Keys()
    with waiting(url, keys) as es:
        keys.can = True
        es.processes.retry("transfer", "request-1", actor="ada")
        for key in ("for 5", "for 4"):
            wait_for(es, transfers, key, "done")
        [recorded] = es.read(select(JOURNAL))
        [failed, _] = es.read(select("request-1"))
        assert recorded.data == OutsideRetried("request-1", failed.position, "ada")
        assert recorded.metadata.actor == "ada"


def test_an_event_is_passed_over_with_a_reason_and_those_after_it_go_on(url: str) -> None:
    with waiting(url, Keys()) as es:
        es.processes.skip("transfer", "request-1", reason="never mind", actor="ada")
        wait_for(es, transfers, "for 4", "done")
        [recorded] = es.read(select(JOURNAL))
        [failed, _] = es.read(select("request-1"))
        expected = OutsideSkipped("request-1", failed.position, "never mind", "ada")
        assert recorded.data == expected
        eventually(lambda: not es.processes.list(status="stuck"), "nothing waits")


@pytest.mark.parametrize("name", ["outside", "request-2"])
def test_what_is_recorded_of_it_is_no_instance(url: str, name: str) -> None:
    with waiting(url, Keys()) as es:
        es.processes.skip("transfer", "request-1", reason="never mind", actor="ada")
        wait_for(es, transfers, "for 4", "done")
        eventually(lambda: [each.key for each in es.processes.list()] == ["for 4"], "it is listed")
        for repair in ("show", "retry", "skip"):
            said = {} if repair == "show" else {"actor": "ada"}
            said |= {"reason": "why"} if repair == "skip" else {}
            with pytest.raises(InvalidInput, match=f"has no instance '{name}'"):
                getattr(es.processes, repair)("transfer", name, **said)
        assert types(es, JOURNAL) == ["OutsideSkipped"]


def test_it_is_skipped_with_a_reason_and_an_actor_or_not_at_all(url: str) -> None:
    with waiting(url, Keys()) as es:
        for reason, actor in (("", "ada"), ("why", " ")):
            with pytest.raises(InvalidInput, match="recorded with its"):
                es.processes.skip("transfer", "request-1", reason=reason, actor=actor)
        with pytest.raises(InvalidInput, match="has no instance 'request-1'"):
            es.processes.skip("transfer", "request-1", step="take", reason="why", actor="ada")
        assert types(es, JOURNAL) == []
