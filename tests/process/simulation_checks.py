"""What has to be right when a simulation has come to rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import process_bank as bank
from msgspec import Struct
from simulation_flows import ACTOR, NOTHING_COMES, REASONS
from simulation_transfers import ACCOUNTS, FUNDS
from simulation_world import World

from leftfold import RecordedEvent, select
from leftfold.process import Instance
from leftfold.process import events as log
from leftfold.process.instance import Step

REPAIRS = (log.Retried, log.StepSkipped, log.EventSkipped, log.Cancelled)


class Ended(Struct, frozen=True):
    """A transfer at its end: how it is, its record, and what its steps have done."""

    instance: Instance
    record: list[RecordedEvent[Any]]
    effects: dict[str, list[int]]
    """By step, each with what it added to the balances."""

    def __repr__(self) -> str:
        steps = {each.name: each.status for each in self.instance.steps}
        told = [f"{type(each.data).__name__} {_told(each)}" for each in self.record]
        return "\n".join([f"{self.instance.key}: {steps} {self.instance.phase}", *told])

    def times(self, step: str) -> int:
        """How often a step had its effect."""
        return len(self.effects[step])

    def first(self, kind: type, step: str | None = None) -> RecordedEvent[Any] | None:
        """The first record of a kind, also of one that waited."""
        for each in self.record:
            data = each.data.event.data if isinstance(each.data, log.Held) else each.data
            if isinstance(data, kind) and step in (None, getattr(data, "step", None)):
                return each
        return None

    @property
    def is_dropped(self) -> bool:
        """Whether somebody ended it without taking anything back."""
        cancelled = [each.data for each in self.record if isinstance(each.data, log.Cancelled)]
        return not all(each.compensate for each in cancelled)

    @property
    def is_by_hand(self) -> bool:
        """Whether somebody decided that it ends without some of its steps."""
        return self.is_dropped or self.first(log.StepSkipped) is not None


def _told(event: RecordedEvent[Any]) -> str:
    return str(getattr(event.data, "step", ""))


def check(world: World) -> None:
    """No transfer was done twice or half, and no money came or went, but where a person wanted
    that; and then the record says who, and why.
    """
    assert not world.card.wrong, world.card.wrong
    effects, by_hand = _effects(world), 0
    for instance in world.instances():
        stream = f"transfer-{instance.key}"
        ended = Ended(instance, [*world.es.read(select(stream))], effects[stream])
        _check_record(ended)
        _check_steps(ended)
        money = sum(map(sum, ended.effects.values()))
        if ended.is_by_hand:
            by_hand += money
        else:
            assert money == 0, ended
            _check_whole(ended)
    balances = [world.es.state(bank.accounts, str(each)).balance for each in range(ACCOUNTS)]
    assert sum(balances) == ACCOUNTS * FUNDS + by_hand, balances


def _effects(world: World) -> dict[str, dict[str, list[int]]]:
    """What was done, by the stream of the transfer and by step."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for event in world.es.read(select(category="account")):
        stream, _, command = (event.metadata.command_id or "").partition(":")
        sign = -1 if isinstance(event.data, bank.Withdrawn) else 1
        if command:
            found[stream][command.partition(":")[0]].append(sign * event.data.amount)
    for step, once in (("fee", world.card.charges), ("undo fee", world.card.refunds)):
        for transfer in once.values():
            found[f"transfer-{transfer}"][step].append(0)
    return found


def _check_record(ended: Ended) -> None:
    """A timer fires once, and repairs are told with their actor and their reason."""
    fired = Counter(e.data.number for e in ended.record if isinstance(e.data, log.TimerFired))
    assert set(fired.values()) <= {1}, ("a timer fired twice", ended)
    for event in ended.record:
        if isinstance(event.data, REPAIRS):
            assert event.data.actor == ACTOR, event
            assert isinstance(event.data, log.Retried) or event.data.reason in REASONS, event
    if ended.instance.reason == NOTHING_COMES:
        assert ended.first(log.EventSkipped), ("nothing came any more", ended)


def _check_steps(ended: Ended) -> None:
    """What is recorded of the steps is what they have done."""
    for step in ended.instance.steps:
        assert ended.times(step.name) in _expected(ended, step), (step, ended)
        is_over = step.status not in ("sent", "retrying", "failed")
        assert is_over or (step.status == "sent" and ended.is_dropped), (step, ended)
        # After a compensation, nothing is left that can be taken back.
        is_left = step.status in ("done", "unanswered") and step.sent.compensation is not None
        is_taken_back = ended.first(log.Compensating) is not None and not ended.is_dropped
        assert not (is_left and is_taken_back), (step, ended)
        is_left_by_hand = ended.first(log.StepSkipped, f"undo {step.name}") is not None
        if is_taken_back and not step.undoes and not is_left_by_hand:
            # Nor a call that was skipped while it was made.
            assert ended.times(f"undo {step.name}") >= ended.times(step.name), (step, ended)


def _expected(ended: Ended, step: Step) -> set[int]:
    """How often a step may have had its effect, by its record."""
    is_call = step.sent.work.id is None
    is_skipped = ended.first(log.StepSkipped, step.name) is not None
    if step.status == "rejected" or (is_skipped and not is_call):
        # A command that was skipped is never accepted.
        return {0}
    if step.status in ("sent", "unanswered") or is_skipped:
        return {0, 1}
    # One that had no answer is taken back as well.
    return {0, 1} if ended.first(log.NoAnswer, step.name) else {1}


def _check_whole(ended: Ended) -> None:
    """All of it was done, or all was taken back, the last first."""
    names = [each.name for each in ended.instance.steps]
    taken_back = [each.undoes for each in ended.instance.steps if each.undoes]
    assert taken_back == [each for each in reversed(names) if each in taken_back], ended
    take, give, fee = map(ended.times, ("take", "give", "fee"))
    undone = [*map(ended.times, ("undo take", "undo give", "undo fee"))]
    if ended.instance.phase == "done":
        assert [take, give, fee, *undone] == [1, 1, 1, 0, 0, 0], ended
    else:
        # A fee that nobody knows of is refunded as well.
        assert undone[:2] == [take, give], ended
        assert undone[2] >= fee, ended
