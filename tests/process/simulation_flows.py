"""Who is at work in a simulation: consumers, timers, a client, and somebody who repairs."""

from __future__ import annotations

from random import Random
from typing import Any

from process_bank import TransferRequested
from simulation_transfers import ACCOUNTS, CLOSED, FUNDS, TRANSFERS
from simulation_world import SimulatedDriver, Switch, World

from leftfold import Decider, InvalidInput, Metadata, select
from leftfold.command import Handling, Order
from leftfold.process import Instance
from leftfold.process.managers import AsyncProcesses
from leftfold.process.repairing import Repairing
from leftfold.process.rows import InstanceRow, evolve_row
from leftfold.process.working import NOT_OF_EVENTS
from leftfold.reading import Decoding
from leftfold.turns import Turns

ACTOR = "ada"
ENOUGH = "enough"
NOTHING_COMES = "nothing comes any more"
REASONS = (ENOUGH, NOTHING_COMES)


async def work(world: World) -> None:
    """A consumer: from the checkpoint on, at least once, in order. No fence stops one that has lost
    its lease, so nothing but the log keeps two of them from doing things twice.
    """
    working = world.working()
    [worker, _] = working.subscribers
    decoding = Decoding(world.codec, worker.events)
    while True:
        after = world.checkpoint
        if world.fails(0.05):
            after = world.random.randrange(after + 1)
        try:
            page = await world.store.read(decoding.query, after=after, limit=10)
            for event in decoding.page(page):
                await working.deliver(event)
                if world.fails(0.05):
                    await working.deliver(event)
                world.checkpoint = max(world.checkpoint, event.position)
        except NOT_OF_EVENTS:
            world.trace.append("fails")
        await Switch()


async def fire(world: World) -> None:
    """The timers that are due, as the read model shows them: sometimes late."""
    working = world.working()
    rows: dict[str, InstanceRow] = {}
    position = 0
    while True:
        log = await world.memory.read(select(category="transfer"), after=position, limit=10_000)
        for event in world.codec.decode_page(log):
            row = rows.setdefault(event.stream, InstanceRow(event.stream))
            rows[event.stream] = evolve_row(row, event)
            position = event.position
        now_us = world.clock()
        due = [
            (timer.due_us, timer.number, stream, name)
            for stream, row in rows.items()
            for name, timer in row.timers.items()
            if timer.due_us <= now_us
        ]
        for _, _, stream, name in sorted(due):
            timer = rows[stream].timers[name]
            try:
                await working.fire(stream.removeprefix("transfer-"), name, timer)
            except NOT_OF_EVENTS:
                world.trace.append("fails")
        for _ in range(20):
            await Switch()


async def ask(world: World) -> None:
    """A client that repeats what it does not know the outcome of."""
    for number in range(TRANSFERS):
        random = Random(f"{world.seed} {number}")
        source, target = random.sample([*map(str, range(ACCOUNTS)), CLOSED], 2)
        asked = TransferRequested(source, target, random.randrange(1, FUNDS))
        said = Metadata(command_id=f"ask {number}")
        order: Order[Any] = Order(asked, None, said)
        turns = Turns(SimulatedDriver)
        while True:
            handling = Handling(world.parts, turns, _REQUESTS, boundary=str(number), order=order)
            try:
                await handling.run()
                break
            except NOT_OF_EVENTS:
                await Switch()
    while True:
        await Switch()


async def repair(world: World) -> None:
    """Somebody who looks at instances and repairs them, and now and then one that is well."""
    processes = AsyncProcesses(Repairing(world.parts, world.projecting, [world.working()]))
    while True:
        key = str(world.random.randrange(TRANSFERS))
        try:
            found = await processes.show("transfer", key)
            what = _wanted(world, found)
            if what:
                world.trace.append(f"repair: {what}")
                await _repair(processes, key, what)
        except NOT_OF_EVENTS:
            world.trace.append("fails")
        except InvalidInput:
            world.trace.append("is refused")
        for _ in range(5):
            await Switch()


def _wanted(world: World, instance: Instance) -> str:
    """What is to be done about an instance, if anything: or the step to skip."""
    if instance.stuck:
        return world.random.choices(["retry", "skip", "cancel", "drop"], [12, 3, 2, 1])[0]
    if instance.has_ended:
        return ""
    is_open = [each.name for each in instance.steps if each.status in ("sent", "retrying")]
    if not is_open and not instance.timers:
        return "end"
    if not world.fails(0.1):
        return ""
    return world.random.choice(["cancel", "drop", *is_open, *is_open])


async def _repair(processes: AsyncProcesses, key: str, what: str) -> None:
    match what:
        case "retry":
            await processes.retry("transfer", key, actor=ACTOR)
        case "cancel":
            await processes.cancel("transfer", key, reason=ENOUGH, actor=ACTOR)
        case "drop":
            await processes.cancel("transfer", key, reason=ENOUGH, actor=ACTOR, compensate=False)
        case "end":
            await processes.cancel("transfer", key, reason=NOTHING_COMES, actor=ACTOR)
        case _:
            step = "" if what == "skip" else what
            await processes.skip("transfer", key, step=step, reason=ENOUGH, actor=ACTOR)


def _request(command: Any, state: Any) -> list[Any]:
    return [] if state else [command]


def _keep(state: Any, event: Any) -> Any:
    return event


_REQUESTS: Decider[Any, Any, Any] = Decider(
    "request", initial_state=None, decide=_request, evolve=_keep
)
