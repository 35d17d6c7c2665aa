"""A conversation is shown from its first event on, with the names of steps and timers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "process"))
import process_bank as bank
import processes_app
from process_support import eventually, types

import leftfold
from leftfold import Event

URL = "sqlite:///log.db"


@pytest.fixture
def root(here: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an event without a correlation id, that began a loan."""
    monkeypatch.setenv("LEFTFOLD_APP", "processes_app:app")
    monkeypatch.setenv("LEFTFOLD_STORE", URL)
    asked = Event("request-2", bank.TransferRequested("a", "", 3))
    with leftfold.open(URL, processes_app.app) as es, es.running():
        es.handle(bank.accounts, "a", bank.Open())
        es.handle(bank.accounts, "a", bank.Deposit(10))
        es.append([asked])
        eventually(lambda: "StepDone" in types(es, "loan-2"), "it was lent")
    return str(asked.id)


def test_an_event_that_began_a_conversation_is_in_it(root: str, run: Any) -> None:
    first, *rest = [json.loads(each) for each in run("trace", root, "--json").out.splitlines()]
    assert (first["depth"], first["type"], first["id"]) == (0, "TransferRequested", root)
    assert all(each["depth"] for each in rest)


def test_lines_of_a_process_name_steps_timers_and_what_was_reacted_to(root: str, run: Any) -> None:
    text = run("trace", root).out
    for each in ("Reacted TransferRequested", "StepSent take", "TimerSet answer take"):
        assert f"process.{each} " in text
    found = [json.loads(each) for each in run("trace", root, "--json").out.splitlines()]
    names = {each["type"]: each["name"] for each in found}
    assert names == {
        "TransferRequested": None,
        "process.Started": None,
        "process.Reacted": "TransferRequested",
        "process.StepSent": "take",
        "process.TimerSet": "answer take",
        "Withdrawn": None,
        "process.StepDone": "take",
    }


def test_events_that_only_look_like_those_of_a_process_have_no_name(
    root: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEFTFOLD_APP")
    for number, data in enumerate(('{"step": 4}', "[]", '{"event": {"type": null}}')):
        run("append", "odd-1", "process.Odd", data, "--correlation-id", f"talk {number}")
        [found] = run("trace", f"talk {number}", "--json").lines
        assert found["name"] is None
