"""A bank whose projections are looked after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from view_support import BALANCES, Bank, Deposited, Opened, projection, totals

from leftfold.drive import run_sync
from leftfold.projection.catalog import Build
from leftfold.projection.database import Database
from leftfold.projection.definition import Subscriber
from leftfold.projection.managing import Managing
from leftfold.projection.status import QuarantinedKey

CHANGED = projection(version=2)


class Managed(Bank):
    """A bank with accounts a (2 events, 5 cents), b (1 event) and c (1 event), and what manages its
    projections: each flow as a method that is finished.
    """

    def __init__(self, database: Database, *subscribers: Subscriber) -> None:
        super().__init__(database, *subscribers)
        self.append(Opened("a", "ann"), Deposited("a", 5), Opened("b", "bob"), Opened("c", "cid"))

    def __getattr__(self, name: str) -> Any:
        flow = getattr(Managing(self.parts), name)
        return lambda *values, **options: run_sync(flow(*values, **options))

    def in_quarantine(self) -> list[QuarantinedKey]:
        return run_sync(Managing(self.parts).quarantine("balances"))

    def now_has(self, *subscribers: Subscriber) -> None:
        """The App of another release."""
        self.parts.subscribers = subscribers

    def served(self, of: Subscriber = BALANCES) -> Build:
        """A first build, folded up to the head."""
        build = self.build(of)
        self.run(build, of)
        return build

    def rows(self, relation: str) -> list[Any]:
        return run_sync(
            self.parts.read(self.database, lambda tx: tx.execute(f"SELECT * FROM {relation}"))
        )

    def relations(self) -> list[str]:
        """All tables but those of the catalog."""
        found = run_sync(self.parts.read(self.database, lambda tx: tx.relations("")))
        return [each for each in found if not each.startswith("leftfold_")]

    def execute(self, sql: str, *values: Any) -> Any:
        return self.write(lambda tx: tx.execute(sql, values))

    def states(self, name: str = "balances") -> dict[int, str]:
        return {each.id: each.state for each in self.builds(name)}

    def signals(self, build: Build) -> int:
        return sum(each.signal for each in self.progress(build))

    def lease(self, build: Build, seconds: float = 3600) -> None:
        """Let somebody own all partitions of a build."""
        self.write(
            lambda tx: tx.execute(
                "UPDATE leftfold_consumers SET owner = 'worker', lease_until_us = ? "
                "WHERE build = ?",
                [tx.now_us() + int(seconds * 1_000_000), build.id],
            )
        )

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Let what others do happen whenever a flow pauses."""

        class Pause:
            async def wait(self, seconds: float) -> None:
                work()

        self.parts.driver.promise = Pause  # type: ignore[attr-defined,method-assign]


__all__ = ["BALANCES", "CHANGED", "Deposited", "Managed", "Opened", "projection", "totals"]
