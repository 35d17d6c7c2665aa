"""A simulation of transfers on a scheduler that a seed determines: python simulation.py SEED

Flows await nothing but the store and the outside, so each await is a place where another flow may
go on, where a worker may crash, where a reply may be lost, and where the store may fail. What was
delivered may be delivered again. Two workers of one process compete all the time, as when a lease
runs out early. Reactions raise now and then, and somebody repairs what is stuck.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import process_bank as bank
import simulation_flows as flows
from process_bank import Deposit, Open
from simulation_checks import check
from simulation_transfers import ACCOUNTS, FUNDS
from simulation_world import World

STEPS_MAX = 60_000
"""After so many switches, a simulation counts as stuck."""
FAULTY_STEPS = 2_000
"""For so many there are faults; then all is to come to rest."""
LOOK_STEPS = 200
"""How often it is looked at then, and for how long nothing happens at rest."""

FLOWS: Mapping[str, Callable[[World], Coroutine[Any, Any, None]]] = {
    "one": flows.work,
    "two": flows.work,
    "timers": flows.fire,
    "client": flows.ask,
    "person": flows.repair,
}


class Simulation:
    """One run. `trace` says what went on, in order, and `recorded` the types that the log has."""

    def __init__(self, seed: int) -> None:
        self._world = World(seed)
        self._flows: dict[str, Coroutine[Any, Any, None]] = {}
        self._head = 0
        self.trace = self._world.trace
        self.recorded: set[str] = set()

    def run(self) -> None:
        """All transfers come to their end, and the money is right. Raises AssertionError."""
        es = self._world.es
        for name in map(str, range(ACCOUNTS)):
            es.handle(bank.accounts, name, Open())
            es.handle(bank.accounts, name, Deposit(FUNDS))
        for step in range(STEPS_MAX):
            self._world.is_faulty = step < FAULTY_STEPS
            self._step()
            if step > FAULTY_STEPS and step % LOOK_STEPS == 0 and self._is_at_rest():
                break
        else:
            raise AssertionError(f"it did not come to rest: {self._world.instances()}")
        for flow in self._flows.values():
            flow.close()
        self.recorded = {each.type for each in es.read()}
        check(self._world)
        es.close()

    def _step(self) -> None:
        world = self._world
        name = world.random.choice([*FLOWS])
        if name in self._flows and world.fails(0.01):
            self._flows.pop(name).close()
            world.trace.append(f"{name} crashes")
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = FLOWS[name](world)
        world.trace.append(name)
        flow.send(None)
        if world.random.random() < 0.05:
            world.clock.us += world.random.randrange(int(20 * 60 * 1e6))

    def _is_at_rest(self) -> bool:
        before, self._head = self._head, self._world.es.head()
        if before != self._head:
            return False
        return all(each.has_ended and not each.stuck for each in self._world.instances())


def main() -> None:
    for seed in map(int, sys.argv[1:]):
        simulation = Simulation(seed)
        simulation.run()
        print(f"seed {seed}: {len(simulation.trace)} steps")


if __name__ == "__main__":
    main()
