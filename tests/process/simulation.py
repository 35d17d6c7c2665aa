"""A simulation of transfers on a scheduler that a seed determines: python simulation.py SEED

Flows await nothing but the store, so each await is a place where another flow may go on, where a
worker may crash, where a reply may be lost, and where the store may fail. What was delivered may be
delivered again. Two workers of one process compete all the time, as when a lease runs out early.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import timedelta
from random import Random
from typing import Any

import process_bank as bank
from process_bank import Deposit, Open, TransferRequested

from leftfold import App, Decider, EventStore, Metadata, RecordedEvent, select
from leftfold.command import Handling, Order
from leftfold.errors import OutcomeUnknown, StoreUnavailable
from leftfold.loading import Parts
from leftfold.process import (
    CancelTimer,
    Done,
    ProcessManager,
    Send,
    StepDone,
    StepRejected,
    Timer,
    TimerFired,
)
from leftfold.process.rows import InstanceRow, evolve_row
from leftfold.process.wire import ProcessCodec
from leftfold.process.working import NOT_OF_EVENTS, Working
from leftfold.reading import Decoding
from leftfold.stores.memory import MemoryStore
from leftfold.turns import Turns

STEPS_MAX = 60_000
"""After so many switches, a simulation counts as stuck."""
FAULTY_STEPS = 2_000
"""For so many there are faults; then all is to come to rest."""
TRANSFERS = 8
ACCOUNTS = 4
CLOSED = "9"
FUNDS = 20


class _Switch(Awaitable[None]):
    """A place where another flow may go on."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.us = 1_000_000_000_000_000

    def __call__(self) -> int:
        return self.us


class FaultyStore:
    """A memory store whose calls take a while, fail, or lose their replies."""

    def __init__(self, store: MemoryStore, faults: Callable[[float], bool]) -> None:
        self._store = store
        self._faults = faults
        self.capabilities = store.capabilities
        self.now_us = store.now_us

    async def append(self, events: Any, *, conditions: Any = ()) -> Any:
        await _Switch()
        if self._faults(0.02):
            raise StoreUnavailable("simulated")
        found = await self._store.append(events, conditions=conditions)
        await _Switch()
        if self._faults(0.03):
            raise OutcomeUnknown(tuple(each.id for each in events), "simulated: the reply is lost")
        return found

    async def read(self, *args: Any, **options: Any) -> Any:
        await _Switch()
        if self._faults(0.01):
            raise StoreUnavailable("simulated")
        return await self._store.read(*args, **options)

    async def head(self) -> int:
        await _Switch()
        return await self._store.head()

    async def wait(self, after: int, timeout_s: float) -> None:
        await _Switch()

    async def close(self) -> None:
        await self._store.close()


class _Promise:
    def __init__(self) -> None:
        self.value: Any = None

    async def wait(self, timeout_s: float | None = None) -> Any:
        await _Switch()
        return self.value


class SimulatedDriver:
    """Waits by letting others go on."""

    may_block = False

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        await _Switch()
        return function(*args)

    def promise(self) -> _Promise:
        return _Promise()

    def settle(self, settled: Any) -> None:
        for promise, value in settled:
            promise.value = value

    def spawn(self, flow: Any, name: str) -> Any:
        raise NotImplementedError

    def close(self) -> None: ...


def react(transfer: bank.Transfer, event: RecordedEvent[Any]) -> list[Any]:
    """Take, wait for an hour, then give; and never wait for longer than a day."""
    match event.data:
        case TransferRequested(source=source, amount=amount):
            taken = bank.Withdraw(amount)
            day = Timer("day", after=timedelta(days=1))
            back = Deposit(amount)
            return [day, Send("account", source, taken, step="take", compensate=back)]
        case StepDone("take"):
            return [Timer("pause", after=timedelta(hours=1))]
        case TimerFired("pause"):
            given = Deposit(transfer.amount)
            return [CancelTimer("day"), Send("account", transfer.target, given, step="give")]
        case StepDone("give"):
            return [Done()]
        case StepRejected():
            return []
    return []


PROCESS = ProcessManager(
    "transfer",
    key=bank.by_transfer,
    query=select(types=[TransferRequested]),
    initial_state=bank.Transfer(),
    evolve=bank.evolve,
    react=react,
    commands=bank.COMMANDS,
)


class Simulation:
    """One run. `trace` says what went on, in order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = Clock()
        self.memory = MemoryStore(clock=self.clock)
        self.store: Any = FaultyStore(self.memory, self._fails)
        self.app: App = bank.app_of(PROCESS)
        self.codec = ProcessCodec(self.app.codec)
        self.es = EventStore(self.memory, self.app)
        self.trace: list[str] = []
        self.is_faulty = True
        self.checkpoint = 0
        self.flows: dict[str, Coroutine[Any, Any, None]] = {}
        self.makers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "one": self._work,
            "two": self._work,
            "timers": self._fire,
            "client": self._ask,
        }

    def _fails(self, chance: float) -> bool:
        return self.is_faulty and self.random.random() < chance

    def run(self) -> None:
        """All transfers come to their end, and the money is right. Raises AssertionError."""
        for name in map(str, range(ACCOUNTS)):
            self.es.handle(bank.accounts, name, Open())
            self.es.handle(bank.accounts, name, Deposit(FUNDS))
        for step in range(STEPS_MAX):
            self.is_faulty = step < FAULTY_STEPS
            self._step()
            if step > FAULTY_STEPS and step % 200 == 0 and self._has_ended():
                break
        for flow in self.flows.values():
            flow.close()
        assert self._has_ended(), "it did not come to rest"
        self.check()
        self.es.close()

    def _step(self) -> None:
        name = self.random.choice([*self.makers])
        if name in self.flows and self._fails(0.01):
            self.flows.pop(name).close()
            self.trace.append(f"{name} crashes")
        flow = self.flows.get(name)
        if flow is None:
            flow = self.flows[name] = self.makers[name]()
        self.trace.append(name)
        try:
            flow.send(None)
        except StopIteration:
            del self.flows[name]
        if self.random.random() < 0.05:
            self.clock.us += self.random.randrange(int(20 * 60 * 1e6))

    def _parts(self) -> tuple[Working, Parts]:
        working = Working(self.app, PROCESS)
        parts = Parts(self.store, self.codec)
        working.begin(parts, Turns(SimulatedDriver), self.es._projecting)
        return working, parts

    async def _work(self) -> None:
        """A consumer: from the checkpoint on, at least once, in order."""
        working, _ = self._parts()
        [worker, _] = working.subscribers
        decoding = Decoding(self.codec, worker.events)
        while True:
            after = self.checkpoint
            if self._fails(0.05):
                after = self.random.randrange(after + 1)
            try:
                page = await self.store.read(decoding.query, after=after, limit=10)
                for event in decoding.page(page):
                    await working.deliver(event)
                    if self._fails(0.05):
                        await working.deliver(event)
                    self.checkpoint = max(self.checkpoint, event.position)
            except NOT_OF_EVENTS:
                self.trace.append("fails")
            await _Switch()

    async def _fire(self) -> None:
        """The timers that are due, as the read model shows them: sometimes late."""
        working, _ = self._parts()
        while True:
            rows: dict[str, InstanceRow] = {}
            log = await self.memory.read(select(category="transfer"), limit=10_000)
            for event in self.codec.decode_page(log):
                row = rows.setdefault(event.stream, InstanceRow(event.stream))
                rows[event.stream] = evolve_row(row, event)
            now_us = self.clock()
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
                    self.trace.append("fails")
            for _ in range(20):
                await _Switch()

    async def _ask(self) -> None:
        """A client that repeats what it does not know the outcome of."""
        _, parts = self._parts()
        for number in range(TRANSFERS):
            random = Random(f"{self.seed} {number}")
            source, target = random.sample([*map(str, range(ACCOUNTS)), CLOSED], 2)
            asked = TransferRequested(source, target, random.randrange(1, FUNDS))
            said = Metadata(command_id=f"ask {number}")
            order: Order[Any] = Order(asked, None, said)
            turns = Turns(SimulatedDriver)
            while True:
                handling = Handling(parts, turns, _REQUESTS, boundary=str(number), order=order)
                try:
                    await handling.run()
                    break
                except NOT_OF_EVENTS:
                    await _Switch()
        while True:
            await _Switch()

    def _has_ended(self) -> bool:
        found = [self.es.state(PROCESS.decider, str(each)) for each in range(TRANSFERS)]
        assert not any(each.stuck for each in found), found
        return all(each.has_ended for each in found)

    def check(self) -> None:
        """No transfer was done twice or half, and no money came or went."""
        moved: dict[str, list[int]] = {}
        for event in self.es.read(select(category="account")):
            by, _, step = (event.metadata.command_id or "").partition(":")
            if step:
                sign = -1 if isinstance(event.data, bank.Withdrawn) else 1
                moved.setdefault(by, []).append(sign * event.data.amount)
        for number in range(TRANSFERS):
            instance = self.es.state(PROCESS.decider, str(number))
            money = moved.get(f"transfer-{number}", [])
            is_refused = instance.phase == "compensated" and not money
            assert is_refused or (len(money) == 2 and sum(money) == 0), (number, instance, money)
            assert instance.phase in ("done", "compensated"), instance
        balances = [self.es.state(bank.accounts, str(each)).balance for each in range(ACCOUNTS)]
        assert sum(balances) == ACCOUNTS * FUNDS, balances
        fired = [
            (each.stream, each.data.number)
            for each in self.es.read(select(types=["process.TimerFired"]))
        ]
        assert len(fired) == len(set(fired)), "a timer fired twice"


def _request(command: Any, state: Any) -> list[Any]:
    return [] if state else [command]


def _keep(state: Any, event: Any) -> Any:
    return event


_REQUESTS: Decider[Any, Any, Any] = Decider(
    "request", initial_state=None, decide=_request, evolve=_keep
)


def main() -> None:
    for seed in map(int, sys.argv[1:]):
        simulation = Simulation(seed)
        simulation.run()
        print(f"seed {seed}: {len(simulation.trace)} steps")


if __name__ == "__main__":
    main()
