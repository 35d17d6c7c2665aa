"""The world of a simulation: a clock that is moved, a store and a card that fail, and what all of
its flows share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from random import Random
from typing import Any

import process_bank as bank
import simulation_transfers as transfers

from leftfold import App, EventStore
from leftfold.errors import OutcomeUnknown, StoreUnavailable
from leftfold.loading import Parts
from leftfold.process import Declined, Instance
from leftfold.process.wire import ProcessCodec
from leftfold.process.working import Working
from leftfold.projection.parts import ProjectionParts
from leftfold.stores.memory import MemoryStore
from leftfold.turns import Turns

Fails = Callable[[float], bool]
REPLY_SWITCHES = 12
"""How long the card takes to say that it has charged: somebody may skip the step meanwhile."""


class Switch(Awaitable[None]):
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

    def __init__(self, store: MemoryStore, fails: Fails) -> None:
        self._store = store
        self._fails = fails
        self.capabilities = store.capabilities
        self.now_us = store.now_us

    async def append(self, events: Any, *, conditions: Any = ()) -> Any:
        await Switch()
        if self._fails(0.02):
            raise StoreUnavailable("simulated")
        found = await self._store.append(events, conditions=conditions)
        await Switch()
        if self._fails(0.03):
            raise OutcomeUnknown(tuple(each.id for each in events), "simulated: the reply is lost")
        return found

    async def read(self, *args: Any, **options: Any) -> Any:
        await Switch()
        if self._fails(0.01):
            raise StoreUnavailable("simulated")
        return await self._store.read(*args, **options)

    async def head(self) -> int:
        await Switch()
        return await self._store.head()

    async def wait(self, after: int, timeout_s: float) -> None:
        await Switch()

    async def close(self) -> None:
        await self._store.close()


class FaultyCard:
    """The outside world: it charges and refunds once for each idempotency key."""

    def __init__(self, fails: Fails) -> None:
        self._fails = fails
        self.charges: dict[str, str] = {}
        """The transfers that were charged for, by the keys of the charges."""
        self.refunds: dict[str, str] = {}
        self.wrong: list[str] = []

    async def charge(self, request: transfers.Charge, once: str) -> None:
        if self._is_refunded(request):
            self.wrong.append(f"{once} was asked for after it was taken back")
        await Switch()
        self._may_be_lost(0.25)
        # A call that was under way for long finds that it was taken back meanwhile.
        if request.amount > transfers.LIMIT or self._is_refunded(request):
            raise Declined("the limit of the card")
        self.charges[once] = request.transfer
        for _ in range(REPLY_SWITCHES):
            await Switch()
        self._may_be_lost(0.2)

    def refund(self, request: transfers.Refund, once: str) -> None:
        """It may be declined, and later not be."""
        self._may_be_lost(0.1)
        if self._fails(0.1):
            raise Declined("not today")
        self.refunds[once] = request.transfer
        self._may_be_lost(0.2)

    def _is_refunded(self, request: transfers.Charge) -> bool:
        return request.transfer in self.refunds.values()

    def _may_be_lost(self, chance: float) -> None:
        if self._fails(chance):
            raise ConnectionError("simulated")


class _Promise:
    def __init__(self) -> None:
        self.value: Any = None

    async def wait(self, timeout_s: float | None = None) -> Any:
        await Switch()
        return self.value


class SimulatedDriver:
    """Waits by letting others go on."""

    may_block = False

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        await Switch()
        return function(*args)

    def promise(self) -> _Promise:
        return _Promise()

    def settle(self, settled: Any) -> None:
        for promise, value in settled:
            promise.value = value

    def spawn(self, flow: Any, name: str) -> Any:
        raise NotImplementedError

    def close(self) -> None: ...


class World:
    """What the flows share. `trace` says what went on, in order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.is_faulty = True
        self.trace: list[str] = []
        self.checkpoint = 0
        self.clock = Clock()
        self.memory = MemoryStore(clock=self.clock)
        self.store: Any = FaultyStore(self.memory, self.fails)
        self.card = FaultyCard(self.fails)
        calls: transfers.Calls = {"charge": self.card.charge, "refund": self.card.refund}
        self.process = transfers.process_of(calls, self.fails)
        self.app: App = bank.app_of(self.process)
        self.codec = ProcessCodec(self.app.codec)
        self.parts = Parts(self.store, self.codec)
        self.es = EventStore(self.memory, self.app)
        known = self.es._projecting
        self.projecting = ProjectionParts(
            self.store,
            self.codec,
            known.subscribers,
            databases=(known.database, None),
            make_driver=SimulatedDriver,
        )

    def fails(self, chance: float) -> bool:
        """Whether something goes wrong here."""
        return self.is_faulty and self.random.random() < chance

    def working(self) -> Working:
        """The process at work, as a worker has it that has just begun."""
        working = Working(self.app, self.process)
        working.begin(self.parts, Turns(SimulatedDriver), self.projecting)
        return working

    def instances(self) -> list[Instance]:
        """How all transfers are now."""
        keys = map(str, range(transfers.TRANSFERS))
        return [self.es.state(self.process.decider, key) for key in keys]
