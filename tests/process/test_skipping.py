"""Steps that somebody skips while they are carried out: prevented, or known and taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import process_bank as bank
import pytest
from msgspec import Struct
from process_support import SENT, instance, request, types
from process_told import CHARGE, SOLD, Go, Told, process, reacting

import leftfold
from leftfold import App, Codec, Decider, EventStore, InvalidInput, RecordedEvent, select
from leftfold.drive import run_sync
from leftfold.process import (
    Call,
    Compensate,
    Done,
    ProcessManager,
    Send,
    StepDone,
    StepSkipped,
)
from leftfold.process.stepping import Answer, Cancel, Skip
from leftfold.process.working import Working
from leftfold.testing import given_process


class Asked(Struct, frozen=True):
    ends: bool = False


class Give(Struct, frozen=True):
    events: int = 1


class TakeBack(Struct, frozen=True):
    pass


class Given(Struct, frozen=True):
    amount: int


class At:
    """A purse, and payments; something may be done in the midst of a command or a call."""

    def __init__(self, url: str, react: Callable[[Any], list[Any]]) -> None:
        self._url = url
        self._meanwhile: list[Callable[[], object]] = []
        self.made: list[str] = []
        self.purse = Decider(
            "purse",
            initial_state=0,
            decide=self._decide,
            evolve=lambda balance, given: balance + given.amount,
        )
        self.process: ProcessManager[Any] = ProcessManager(
            "order",
            key=bank.by_transfer,
            query=select(types=[Asked]),
            initial_state=0,
            evolve=lambda state, event: state + 1,
            react=lambda state, event: react(event.data),
            commands=[Give, TakeBack],
            calls={"pay": self._pay},
        )
        self.es: EventStore
        self.working: Working

    @contextmanager
    def opened(self) -> Iterator[At]:
        app = App(codec=Codec(Given, Asked), deciders=[self.purse], processes=[self.process])
        with leftfold.open(self._url, app) as self.es:
            [self.working] = self.es._working
            yield self

    def meanwhile(self, *done: Callable[[], object]) -> None:
        self._meanwhile += done

    def _pass(self) -> None:
        doing, self._meanwhile = self._meanwhile, []
        for each in doing:
            each()

    def _decide(self, command: Any, balance: int) -> list[Any]:
        self._pass()
        return [Given(-1)] if isinstance(command, TakeBack) else [Given(1)] * command.events

    def _pay(self, request: Any, key: str) -> None:
        self._pass()
        self.made.append(f"{type(request).__name__} {key}")

    def ask(self, ends: bool = False) -> None:
        """Have it react, and carry out nothing."""
        self.es.append([request("1", Asked(ends))])
        *_, asked = self.es.read(select("request-1"))
        run_sync(self.working.deliver(asked))

    def sent(self) -> RecordedEvent[Any]:
        """The step that was sent last."""
        *_, found = self.es.read(select("order-1", types=[SENT]))
        return found

    def deliver(self) -> None:
        run_sync(self.working.deliver(self.sent()))

    def skip(self, step: str = "it") -> None:
        self.es.processes.skip("order", "1", step=step, reason="by hand", actor="ada")

    def cancel(self, compensate: bool = True) -> None:
        self.es.processes.cancel("order", "1", reason="no", actor="ada", compensate=compensate)

    @property
    def steps(self) -> dict[str, str]:
        found = instance(self.es, self.process, "1").steps
        return {each.name: each.status for each in found}

    @property
    def status(self) -> str:
        return instance(self.es, self.process, "1").status

    @property
    def balance(self) -> int:
        return self.es.state(self.purse, "a")


def gives(events: int = 1) -> Callable[[Any], list[Any]]:
    sent = Send("purse", "a", Give(events), step="it", compensate=TakeBack())
    return lambda data: [sent] if isinstance(data, Asked) else []


def pays(data: Any) -> list[Any]:
    match data:
        case Asked(ends=True):
            return [Compensate("enough")]
        case Asked():
            return [Call("pay", Give(), step="it", compensate=TakeBack())]
        case StepDone():
            raise AssertionError("the process has gone on without it")
    return []


@pytest.mark.parametrize("events", [1, 2])
def test_a_command_that_is_skipped_while_it_is_delivered_is_not_accepted(
    events: int, url: str
) -> None:
    with At(url, gives(events)).opened() as at:
        at.ask()
        at.meanwhile(at.skip)
        at.deliver()
        assert (at.balance, at.steps) == (0, {"it": "skipped"})
        at.deliver()
        skipped = ["StepSent", "CommandRejected", "StepSkipped"]
        assert types(at.es, "order-1")[-3:] == skipped
        assert at.balance == 0


@pytest.mark.parametrize("events", [1, 2])
def test_a_command_that_was_accepted_is_not_skipped(events: int, url: str) -> None:
    with At(url, gives(events)).opened() as at:
        at.ask()
        # As by a worker that is about to record the answer.
        run_sync(at.working._answer(at.sent(), at.sent().data))
        with pytest.raises(InvalidInput, match=r"'it' was handled meanwhile.*look with show"):
            at.skip()
        assert types(at.es, "order-1")[-1] == "StepSent"
        at.deliver()
        assert (at.balance, at.steps) == (events, {"it": "done"})
        with pytest.raises(InvalidInput, match="step 'it', which is done"):
            at.skip()


def test_a_command_that_was_rejected_is_not_skipped(url: str) -> None:
    def no() -> None:
        raise ValueError("no")

    with At(url, gives()).opened() as at:
        at.ask()
        at.meanwhile(no)
        run_sync(at.working._answer(at.sent(), at.sent().data))
        with pytest.raises(InvalidInput, match="'it' was handled meanwhile"):
            at.skip()
        at.deliver()
        assert (at.status, at.steps) == ("compensated", {"it": "rejected"})


def test_what_takes_back_a_step_is_not_accepted_either_once_it_is_skipped(url: str) -> None:
    with At(url, gives()).opened() as at:
        at.ask()
        at.deliver()
        at.cancel()
        at.meanwhile(lambda: at.skip("undo it"))
        at.deliver()
        assert (at.balance, at.status) == (1, "cancelled")
        assert at.steps == {"it": "skipped", "undo it": "skipped"}


@pytest.mark.parametrize("is_sent_again", [False, True])
def test_a_step_that_failed_is_skipped_and_so_is_one_that_is_sent_again(
    is_sent_again: bool, url: str
) -> None:
    def fail() -> None:
        raise InvalidInput("a fault")

    with At(url, gives()).opened() as at:
        at.ask()
        at.meanwhile(fail)
        at.deliver()
        assert (at.status, at.steps) == ("stuck", {"it": "failed"})
        if is_sent_again:
            at.es.processes.retry("order", "1", actor="ada")
            at.meanwhile(at.skip)
            at.deliver()
        else:
            at.skip()
        assert (at.balance, at.status, at.steps) == (0, "running", {"it": "skipped"})


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_was_skipped_is_taken_back_with_the_others(fails: bool, url: str) -> None:
    def fail() -> None:
        raise OSError("the reply is lost")

    with At(url, pays).opened() as at:
        at.ask()
        at.meanwhile(at.skip, *([fail] if fails else []))
        at.deliver()
        assert (at.status, at.steps) == ("running", {"it": "skipped"})
        at.ask(ends=True)
        at.deliver()
        assert (at.status, at.steps["it"], at.steps["undo it"]) == (
            "compensated",
            "compensated",
            "compensated",
        )
        assert at.made[-1] == "TakeBack order-1:undo it"


def test_a_call_of_a_process_that_was_cancelled_at_once_is_not_taken_back(url: str) -> None:
    with At(url, pays).opened() as at:
        at.ask()
        at.meanwhile(at.skip, lambda: at.cancel(compensate=False))
        at.deliver()
        assert (at.status, at.steps) == ("cancelled", {"it": "skipped"})


@pytest.mark.parametrize("outcome", ["done", "rejected", "failed", "unreached"])
def test_what_comes_of_a_call_that_was_skipped_changes_nothing(outcome: Any) -> None:
    told = Told(process(reacting({Go: [CHARGE]})))
    told.go()
    told.do(Skip("charge", "by hand", "ada"))
    assert told.do(Answer("charge", 1, outcome, "no")) == []
    assert told.status("charge") == "skipped"


def test_a_call_that_is_skipped_while_steps_are_taken_back_is_taken_back_too() -> None:
    told = Told(process(reacting({Go: [CHARGE]})))
    told.go()
    told.do(Cancel("enough", "ada", compensate=True))
    told.do(Skip("charge", "too slow", "ada"))
    assert told.status("undo charge") == "sent"
    told.do(Answer("undo charge", 1, "done"))
    assert (told.now.status, told.status("charge")) == ("cancelled", "compensated")


def test_what_somebody_has_seen_to_is_not_taken_back_again() -> None:
    told = Told(process(reacting({Go: [CHARGE], StepDone: [Compensate("enough")]})))
    told.go()
    told.do(Answer("charge", 1, "done"))
    told.do(Skip("undo charge", "by hand", "ada"))
    assert told.now.status == "compensated"
    assert told.status("charge") == told.status("undo charge") == "skipped"


def test_what_prevents_a_command_is_no_output() -> None:
    skipping = process(reacting({Go: [SOLD], StepSkipped: [Done()]}))
    given_process(skipping, Go()).skipped("take", reason="by hand", actor="ada").then(Done())
